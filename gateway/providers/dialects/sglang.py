"""SGLang's own server; its metrics want `--enable-metrics`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import UpstreamOverloaded
from gateway.providers.base import Traits
from gateway.providers.engine import Engine
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class Sglang(Engine):
    running: ClassVar[tuple[str, ...]] = ("sglang:num_running_reqs",)
    waiting: ClassVar[tuple[str, ...]] = ("sglang:num_queue_reqs",)
    kv_usage: ClassVar[tuple[str, ...]] = ("sglang:token_usage",)
    traits: ClassVar[Traits] = Traits(data_policy="zero_retention", stops_billing=True)
    meanings: ClassVar[Meanings] = {503: UpstreamOverloaded}  # its queue is full
