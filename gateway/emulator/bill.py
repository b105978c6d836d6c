"""What an imitated provider charges: the other side of the gateway's ledger."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Charge:
    request: int  # its number, from 1
    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    usd: float
    complete: bool  # the answer was given to its end
    tier: str = "default"


@dataclass(slots=True)
class Bill:
    charges: list[Charge] = field(default_factory=list)

    @property
    def usd(self) -> float:
        return sum(charge.usd for charge in self.charges)

    @property
    def prompt_tokens(self) -> int:
        return sum(charge.prompt_tokens for charge in self.charges)

    @property
    def cached_tokens(self) -> int:
        return sum(charge.cached_tokens for charge in self.charges)

    @property
    def completion_tokens(self) -> int:
        return sum(charge.completion_tokens for charge in self.charges)

    def as_json(self) -> dict[str, object]:
        return {
            "usd": self.usd,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "charges": [asdict(charge) for charge in self.charges],
        }
