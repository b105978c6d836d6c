"""A gateway that only supervises: prints `url` of its replica, then runs until it is killed."""

import asyncio
import sys

from gateway.supervisor import Supervisor


class Printer:
    def replica_progress(self, name: str, step: str, done: float) -> None: ...
    def replica_gone(self, name: str, reason: str) -> None: ...
    def replica_failed(self, name: str, error: str) -> None: ...
    def replica_ready(self, name: str, url: str, secret: str, epoch: str) -> None:
        print(url, flush=True)


async def main() -> None:
    async with Supervisor({"local": sys.argv[1:]}, Printer()):
        await asyncio.Event().wait()


asyncio.run(main())
