"""What stands behind the endpoints, and the endpoints as a gateway would configure them."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.fleet.endpoint import Endpoint
from gateway.replay.gateways import MODEL, Unconnected
from gateway.replay.hosted import Hosted, HostedSpec
from gateway.replay.replica import Replica, ReplicaSpec
from gateway.replay.server import Server
from gateway.tariffs import Tariff
from routing_policies.base import Price


@dataclass(frozen=True, slots=True)
class Machines:
    """So many equal replicas, and providers by name."""

    replica: ReplicaSpec = field(default_factory=ReplicaSpec)
    replicas: int = 8
    hosted: dict[str, HostedSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.replicas < 0 or not (self.replicas or self.hosted):
            raise ValueError("there must be at least one replica or hosted provider")
        if taken := set(self._replica_names()) & set(self.hosted):
            raise ValueError(f"{min(taken)} is a replica's name")

    def servers(self, block_size: int) -> dict[str, Server]:
        servers: dict[str, Server] = {
            name: Replica(self.replica, block_size) for name in self._replica_names()
        }
        return servers | {name: Hosted(spec, block_size) for name, spec in self.hosted.items()}

    def endpoints(self) -> list[Endpoint]:
        """A new set, of the same names as the servers. Speeds are for the fleet to learn."""
        models, provider = frozenset((MODEL,)), Unconnected()
        return [
            *(
                Endpoint(name, models, provider=provider, dedicated=True)
                for name in self._replica_names()
            ),
            *(
                Endpoint(name, models, provider=provider, tariffs={MODEL: Tariff(_price(spec))})
                for name, spec in self.hosted.items()
            ),
        ]

    def _replica_names(self) -> list[str]:
        return [f"replica-{number}" for number in range(self.replicas)]


def _price(spec: HostedSpec) -> Price:
    return Price(input=spec.input_usd, output=spec.output_usd, cached=spec.cached_usd)
