"""Makes endpoints of the supervisor's processes as they come and go."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

from gateway.config.tree import Config
from gateway.fleet.fleet import Fleet
from gateway.providers.client import Client
from gateway.providers.dialects.replica import Replica
from gateway.supervisor import replica_command, threads_per_replica

logger = logging.getLogger("gateway")


class LocalReplicas:
    """A supervisor's watcher. `on_ready` is called each time that a replica begins to answer."""

    def __init__(
        self,
        fleet: Fleet,
        client: Client,
        on_ready: Callable[[], None],
    ) -> None:
        self._fleet = fleet
        self._client = client
        self._on_ready = on_ready
        self._steps: dict[str, str] = {}

    def replica_progress(self, name: str, step: str, done: float) -> None:
        if self._steps.get(name) != step:
            self._steps[name] = step
            logger.info("%s: %s (%d %%)", name, step, round(done * 100))

    def replica_ready(self, name: str, url: str, secret: str, epoch: str) -> None:
        logger.info("%s: ready", name)
        model = self._model(name)
        provider = Replica(self._client, f"{url}/v1", {model: model}, secret=secret)
        endpoint = self._fleet.endpoints[name]
        endpoint.up(provider)
        endpoint.reached = True
        self._on_ready()

    def replica_gone(self, name: str, reason: str) -> None:
        logger.info("%s: gone: %s", name, reason)
        self._fleet.endpoints[name].gone(reason)

    def replica_failed(self, name: str, error: str) -> None:
        logger.error("%s: cannot start: %s", name, error)

    def _model(self, name: str) -> str:
        (model,) = self._fleet.endpoints[name].models
        return model


def replica_commands(config: Config) -> dict[str, Sequence[str]]:
    replicas = config.replica_names()
    threads = threads_per_replica(os.cpu_count() or 1, len(replicas))
    collector = config.tracing.endpoint
    return {
        name: replica_command(
            replica.model,
            *("--name", replica.serves or name.rpartition("-")[0]),
            *(("--kv-tokens", str(replica.kv_tokens)) if replica.kv_tokens else ()),
            *("--threads", str(replica.threads or threads)),
            *("--backend", replica.backend),
            *("--gpu-memory", str(replica.gpu_memory)),
            *(("--deterministic",) if replica.deterministic else ()),
            *(("--traces-to", collector) if collector else ()),
        )
        for name, replica in replicas.items()
    }
