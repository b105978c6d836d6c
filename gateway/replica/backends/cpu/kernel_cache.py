"""
Machine code on disk. In place of numba's own cache, which notices changes of one source file only
and trusts whatever it finds.
"""

from __future__ import annotations

import hashlib
import pickle
from typing import Any

import numpy as np
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from gateway.replica.backends.cpu.store import Store


def keep(step: Any, name: str, store: Store) -> None:
    """Have a compiled function's code kept in `store`, under names that begin with `name`."""
    step._cache = _KernelCache(name, store)


class _KernelCache:
    """What a numba dispatcher asks before it compiles `name`, and tells when it has.

    Pickles are code: `store` must be as much the user's own as this program.
    """

    def __init__(self, name: str, store: Store) -> None:
        self._name = name
        self._store = store

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()  # loads what the code may call
        data = self._store.read(self._file(sig, target_context.codegen()))
        if data is None:
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(data.data))

    def save_overload(self, sig: Any, data: Any) -> None:
        code = dumps(data._reduce())
        self._store.write(self._file(sig, data.codegen), np.frombuffer(code, np.uint8))

    def _file(self, sig: Any, codegen: Any) -> str:
        """Named by the types of the arguments, and by the processor and its features."""
        key = repr((sig, codegen.magic_tuple())).encode()
        return f"{self._name}-{hashlib.sha256(key).hexdigest()[:16]}"
