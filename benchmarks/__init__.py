"""Benchmarks: ratios to plain Python, measured side by side in one run.

Run ``python -m benchmarks``. Nothing here asserts a time; times are printed
beside the ratio so that a reader can judge the machine.
"""
