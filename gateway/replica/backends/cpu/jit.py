"""How everything in this folder is compiled."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., object])


def jit(function: Function) -> Function:
    """Compiled to run without the GIL; float operations keep the order in which they stand.

    So a result has the same bits on every processor, and in whatever company LLVM optimised it.
    For compiled callers: what Python would need to call it takes most of the time to compile.
    """
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def jit_inlined(function: Function) -> Function:
    """As `jit`, but compiled with its one caller: each level of calls is optimised once more."""
    return _compiled(function, inline="always")


def jit_entry(function: Function) -> Function:
    """As `jit`, for callers in Python."""
    return _compiled(function, no_cfunc_wrapper=True)


def _compiled(function: Function, **options: Any) -> Function:
    """They allocate nothing and keep nothing, so nothing counts references (`_nrt`)."""
    options |= {"nogil": True, "boundscheck": False, "error_model": "numpy", "_nrt": False}
    decorate: Callable[[Function], Function] = numba.njit(**options)
    return decorate(function)


@jit
def address(array: NDArray[Any]) -> int:
    """Signed, because numba makes a float of a signed plus an unsigned integer."""
    return np.intp(array.ctypes.data)  # type: ignore[return-value] # numba's integers are NumPy's


def one_of(functions: Sequence[Callable[..., None]]) -> Callable[..., None]:
    """A compiled function of (n, ...) that calls the n-th, or the last for any larger n.

    There may be three or four.
    """
    first, second, *more = functions
    third, last = more[0], more[-1]

    @jit
    def call(n: int, *arguments: int) -> None:
        if n == 0:
            first(*arguments)
        elif n == 1:
            second(*arguments)
        else:
            last(*arguments)

    @jit
    def call_of_four(n: int, *arguments: int) -> None:
        if n == 2:
            third(*arguments)
        else:
            call(n, *arguments)

    return call if third is last else call_of_four


def revision() -> str:
    """Changes with every source that packed weights or machine code come from."""
    digest = hashlib.sha256(sys.version.encode())
    for package in ("numba", "llvmlite", "numpy", "gguf"):
        digest.update(version(package).encode())
    replica = Path(__file__).parents[2]
    for room in (replica / "weights", replica / "backends"):
        for path in sorted(room.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
