"""
The sub-commands of `gateway`, one module each.

A module offers `add_parser(subparsers)`, which declares its arguments and sets `func` to its
`run(args) -> int`; the integer is the exit code. What is slow to import is imported inside `run`,
so that `gateway --help` answers at once.
"""

import argparse
from typing import TypeAlias

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
