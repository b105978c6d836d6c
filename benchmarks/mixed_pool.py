"""Our own machines and three providers: `balanced` against threshold overflow, at equal spend.

`python -m benchmarks.mixed_pool`: Mooncake's conversations at twice their rate, far more than eight
replicas can do. Each rule is run at several settings of the one number that sets its spend, so that
rows of about the same cost can be compared. Providers and prices are made up.
"""

from __future__ import annotations

import argparse
import dataclasses

from benchmarks.policies import asked
from gateway.config.load import PACKAGED, load_policy
from gateway.replay.gateways import Setup
from gateway.replay.hosted import HostedSpec
from gateway.replay.machines import Machines
from gateway.replay.metrics import summarise
from gateway.replay.simulation import Simulation
from routing_policies.catalog import Catalog
from routing_policies.pickers.peer_overflow import PeerOverflow
from routing_policies.policy import Policy

PROVIDERS = {
    "cheap": HostedSpec(0.9, 12_000, 40, input_usd=0.2, cached_usd=0.1, output_usd=0.6),
    "middling": HostedSpec(0.5, 20_000, 80, input_usd=0.6, cached_usd=0.3, output_usd=0.8),
    "fast": HostedSpec(0.3, 40_000, 150, input_usd=0.9, cached_usd=0.225, output_usd=1.2),
}
LOAD = 2.0
MEAN_IN_FLIGHT = (8.0, 10.0, 12.0, 20.0)
DOLLARS = (1.0, 2.0, 2.6, 4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    trace = asked("conversation", seed).at_load(LOAD)
    machines = Machines(hosted=PROVIDERS)
    print(f"{'policy':<32} {'cost':>7} {'goodput':>8} {'ttft_p99':>9} {'sent away':>10}")
    for policy in settings():
        answers = Simulation(trace, policy, machines, Setup(), seed).run()
        found = summarise(answers, machines.replicas + len(PROVIDERS))
        away = sum(answer.endpoint in PROVIDERS for answer in answers) / len(answers)
        print(
            f"{policy.name:<32} {found.cost:7.2f} {found.goodput:8.3f} {found.ttft_p99:9.1f} "
            f"{away:10.2f}",
            flush=True,
        )


def settings() -> list[Policy]:
    catalog = Catalog.load()
    overflow = load_policy(PACKAGED / "peer_overflow.yaml", catalog)
    balanced = load_policy(PACKAGED / "balanced.yaml", catalog)
    _, dollars = balanced.objectives["dollars"]
    return [
        *(
            dataclasses.replace(
                overflow, name=f"overflow above {mean:g}", picker=PeerOverflow(mean_in_flight=mean)
            )
            for mean in MEAN_IN_FLIGHT
        ),
        *(
            dataclasses.replace(
                balanced,
                name=f"balanced, dollars: {weight:g}",
                objectives={**balanced.objectives, "dollars": (weight, dollars)},
            )
            for weight in DOLLARS
        ),
    ]


if __name__ == "__main__":
    main()
