"""What is checked before a request is read. A reload of the config puts other values here."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.admission.keys import KeyRing
from gateway.front.body import BodyLimits


@dataclass
class Door:
    ring: KeyRing
    limits: BodyLimits
    secret: bytes = field(default=b"", repr=False)  # keys the tenants' salts and prefixes
