"""Token coherence: a published simulation, re-made, and the same workload measured.

``model`` and ``tables`` hold the simulator of "Token Coherence" (arXiv
2603.15183) and its published cells. The other modules let real processes replay
drawn traces on a real volume and audit what came out. Run
``python -m benchmarks.token_coherence``. No language model takes part: bytes
handed over are measured, the workload is synthetic.
"""
