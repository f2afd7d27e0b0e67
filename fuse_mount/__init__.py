"""The home of the FUSE mount, which brings tools that never heard of the library under its rules.

The mount is not part of this release: the package holds its name and its place
above the library, and offers nothing yet.
"""
