"""What bounds a sequence's tokens beside its sampling; the engine knows no more of grammars."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class Constraint(Protocol):
    """The state of one sequence, its output so far taken in. Owned by its request: while that is
    in flight by its step, which asks for masks and tells tokens without the engine's lock.

    It follows the output alone, so that preemption and the prefix cache do not concern it.
    """

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        ...

    def mask(self) -> Mask:
        """Which tokens [V] may be next; none if it has failed, which is this sequence's alone."""
        ...

    def take(self, token: int) -> None:
        """The token that was chosen by the mask."""
        ...
