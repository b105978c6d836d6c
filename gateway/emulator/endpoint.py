"""One imitated provider behind one port."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config.document import ConfigError
from gateway.emulator.bill import Bill
from gateway.emulator.events import encode
from gateway.emulator.faults import HEADERS, Fault
from gateway.emulator.http import Port, Reply, Request
from gateway.emulator.play import Outcome, as_outcome, play
from gateway.emulator.profile import Answer, Profile
from gateway.emulator.script import Faults, Rule, parse_fault, parse_queued
from gateway.emulator.service import Service

KEPT = 10_000
"""Requests that can still be read."""

FAULT_HEADER = "x-emulate-fault"
ADMIN = "/emulator/"


@dataclass(slots=True)
class Received:
    """One request that came in, and what became of it."""

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    fault: Fault
    status: int | None = None  # None: no headers were sent
    hung_up: bool = False  # the client, before the end
    settled: bool = False  # it is over, and charged

    @property
    def json(self) -> object:
        return json.loads(self.body)


class Endpoint:
    """`url` is a client's base_url, `origin` the same without a path."""

    def __init__(
        self,
        profile: Profile,
        *,
        seed: int = 0,
        speed: float = 1.0,
        rules: tuple[Rule, ...] = (),
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.profile = profile
        self.now = time.monotonic
        self.service = Service(profile, seed, speed, self.now)
        self.faults = Faults(profile.name, rules, seed)
        self.requests: deque[Received] = deque(maxlen=KEPT)
        self._count = 0
        self.defects: list[Exception] = []  # of the emulator itself
        self._port = Port(self._serve, host, port)
        self._timers: list[asyncio.TimerHandle] = []
        self._started = self.now()

    @property
    def origin(self) -> str:
        return f"http://{self._port.host}:{self._port.number}"

    @property
    def url(self) -> str:
        return self.origin + self.profile.prefix

    @property
    def refuses(self) -> bool:
        """Its port is closed."""
        return not self._port.listens

    @property
    def bill(self) -> Bill:
        return self.service.bill

    def open(self) -> None:
        """In a running event loop. Raises OSError where the port is taken."""
        self._port.open()
        self._started = self.now()
        loop = asyncio.get_running_loop()
        for after_s, seconds in self.faults.timed_refusals:
            self._timers.append(loop.call_later(after_s, self._port.refuse, seconds))

    async def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        await self.service.close()
        await self._port.close()

    # A request

    async def _serve(self, request: Request, reply: Reply) -> None:
        if request.path.startswith(ADMIN):
            await self._play_answer(self._admin(request), reply)
            return
        if request.method == "GET" and not self.service.fetches_a_result(request):
            await play(self.service.page(request), Fault(), reply)
            return
        self._count += 1
        number = self._count
        try:
            fault = self._fault(request, number)
        except ConfigError as error:
            await self._play_answer(_told(400, str(error)), reply)
            return
        received = Received(
            number, request.method, request.path, request.headers, request.body, fault
        )
        self.requests.append(received)
        outcome: Outcome | None = None
        try:
            if await self._ended_before_headers(fault, reply):
                return
            outcome = await self.service.outcome(request, number, fault)
            received.status = outcome.status
            await play(outcome, fault, reply)
        except asyncio.CancelledError:
            received.hung_up = True
            raise
        except Exception as exc:  # the rim: a defect of ours must not pass for a fault
            self.defects.append(exc)
            raise
        finally:
            if outcome is not None and outcome.run is not None:
                self.service.settle(outcome.run, hung_up=received.hung_up)
            received.settled = True

    def _fault(self, request: Request, number: int) -> Fault:
        """Raises ConfigError for a header that is none."""
        if FAULT_HEADER in request.headers:
            return parse_fault(request.headers[FAULT_HEADER])
        try:
            body = json.loads(request.body)
        except (ValueError, RecursionError):
            body = None
        body = body if isinstance(body, dict) else {}
        at_s = self.now() - self._started
        return self.faults.choose(number, at_s, body.get("model"), body.get("stream") is True)

    async def _ended_before_headers(self, fault: Fault, reply: Reply) -> bool:
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.refuse:
            self._port.refuse(fault.refuse)
        if fault.refuse or fault.reset == HEADERS:
            reply.reset()
            return True
        if fault.silence == HEADERS:
            await reply.stall()
        return False

    # Those who rehearse

    def _admin(self, request: Request) -> Answer:
        match request.method, request.path.removeprefix(ADMIN):
            case "GET", "bill":
                return Answer(200, encode(self.bill.as_json()))
            case "GET", "requests":
                told = [
                    {"number": r.number, "path": r.path, "status": r.status, "hung_up": r.hung_up}
                    for r in self.requests
                ]
                return Answer(200, encode(told))
            case "POST", "faults":
                try:
                    queued = parse_queued(request.body.decode("utf-8", "replace"))
                except ConfigError as error:
                    return _told(400, str(error))
                self.faults.queue(queued.fault, queued.times)
                return _told(200, f"the next {queued.times} requests meet it")
            case "DELETE", "faults":
                self.faults.clear()
                return _told(200, "no faults from now on")
            case "POST", "stop":
                self.service.machine.stop()
                return _told(200, "scaled to zero")
        return _told(404, "there are: bill, requests, faults, stop")

    async def _play_answer(self, answer: Answer, reply: Reply) -> None:
        await play(as_outcome(answer), Fault(), reply)


def _told(status: int, message: str) -> Answer:
    return Answer(status, encode({"message": message}))
