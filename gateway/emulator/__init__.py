"""
Providers imitated, with faults: each behaves as we read its documents, and no closer.

A leaf. Nothing that serves knows it, and it knows nothing of the line: what it shares with the
gateway it shares through HTTP alone.
"""
