"""What the hazard tests are made of.

``processes`` starts and kills real processes, ``editors`` are programs that
never heard of the library, ``workload`` is a random session, ``history``
records what everybody did and judges it without the library's help,
``evidence`` looks at what a closed volume holds, ``model`` is the volume as it
ought to be, in memory.
"""
