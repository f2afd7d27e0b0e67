"""The commit protocol as a model: in TLA+, and as an explorer in plain Python."""
