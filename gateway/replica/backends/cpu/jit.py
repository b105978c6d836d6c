"""How everything in this folder is compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from gateway.replica.backends import base
from gateway.replica.weights import llama

Function = TypeVar("Function", bound=Callable[..., object])


def jit(function: Function) -> Function:
    """Compiled to run without the GIL; float operations keep the order in which they stand."""
    return _compiled(function)


def jit_reordered(function: Function) -> Function:
    """As `jit`, but a sum over a row may be split over the lanes of a register.

    The split depends on the row's length and on the processor, never on the neighbouring rows.
    """
    return _compiled(function, fastmath=True)


def jit_entry(function: Function) -> Function:
    """As `jit`, and the machine code is kept on disk for the next process.

    Numba keeps it beside the source or, where that is read-only, in the user's cache folder. Where
    neither can be written it refuses to cache at all, and each process compiles anew.
    """
    try:
        return _compiled(function, cache=True)
    except RuntimeError:
        return _compiled(function)


def _compiled(function: Function, **options: Any) -> Function:
    decorate: Callable[[Function], Function] = numba.njit(
        nogil=True, boundscheck=False, error_model="numpy", **options
    )
    return decorate(function)


@jit
def address(array: NDArray[Any]) -> int:
    """Signed, because numba makes a float of a signed plus an unsigned integer."""
    return np.intp(array.ctypes.data)  # type: ignore[return-value] # numba's integers are NumPy's


def one_of(functions: Sequence[Callable[..., None]]) -> Callable[..., None]:
    """A compiled function of (n, ...) that calls the n-th of four, or the last for any larger n."""
    first, second, third, last = functions

    @jit
    def call(n: int, *arguments: int) -> None:
        if n == 0:
            first(*arguments)
        elif n == 1:
            second(*arguments)
        elif n == 2:
            third(*arguments)
        else:
            last(*arguments)

    return call


def source_revision() -> int:
    """Changes when any file does that compiled code comes from.

    Numba's cache looks at the file of the cached function only, not at those of its callees; so
    the entries take this number as a default argument, which is part of the cache's key.
    """
    digest = hashlib.sha256()
    constants = [Path(module.__file__ or "") for module in (base, llama)]
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *constants]:
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:7], "little")
