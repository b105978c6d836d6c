"""One dialect a file; `catalog.py` finds them by their names."""
