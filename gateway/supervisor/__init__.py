"""
Starts local replicas and keeps them running.

It knows command lines and what a replica says on its standard output (docs/replica-protocol.md,
"As a process"). It knows neither requests nor endpoints: what happens goes to a `Watcher`.
"""

from gateway.supervisor.pauses import Pauses
from gateway.supervisor.process import ReplicaProcess, Timing, Watcher
from gateway.supervisor.supervisor import Supervisor, replica_command, threads_per_replica

__all__ = [
    "Pauses",
    "ReplicaProcess",
    "Supervisor",
    "Timing",
    "Watcher",
    "replica_command",
    "threads_per_replica",
]
