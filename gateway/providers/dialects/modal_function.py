"""A web function of one's own at Modal, which holds requests and answers some elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.providers.dialects.modal_server import ModalServer
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class ModalFunction(ModalServer):
    """After 150 s it says where the answer will be, and there again after as long."""

    sees_other: ClassVar[bool] = True
    patience_s: ClassVar[float] = 3000.0  # as long as browsers follow
    session_headers: ClassVar[tuple[str, ...]] = ()
    meanings: ClassVar[Meanings] = {}
