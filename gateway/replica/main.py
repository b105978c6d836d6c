"""
The replica as a process: load, serve, drain. Docs: docs/replica-protocol.md, "As a process".

The composition root of the replica; nothing else chooses its classes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import TYPE_CHECKING, TextIO

import uvicorn

from gateway import models
from gateway.replica.backends.base import BLOCK_SIZE, Backend, DrawingBackend
from gateway.replica.backends.cuda.start import MOST_RUNNING, NoGpu, load_on_gpu
from gateway.replica.engine import Engine
from gateway.replica.grammar import Grammars
from gateway.replica.server import Replica, create_app
from gateway.replica.template import ChatTemplate
from gateway.replica.text import Tokenizer
from gateway.replica.weights import Weights
from gateway.telemetry.log import configure
from gateway.telemetry.trace_context import wanted

if TYPE_CHECKING:
    from gateway.replica.spans import Spans

logger = logging.getLogger(__name__)

CHUNK_TOKENS = 128
"""Most tokens of one engine step."""

KV_TOKENS = 16_384
"""What a cache in this machine's memory holds, unless told otherwise."""

MOST_WORKERS = 2
"""One for those who decode and one for prompts; more threads help them with their steps."""

BACKENDS = ("auto", "cuda", "cpu", "reference")

QUEUED_TOKENS_ON_GPU = 524_288
"""Prompts that may wait: at tens of thousands of tokens a second, about as long as on a CPU."""

LEAVE_S = 2
"""Seconds for the last bytes to reach their clients, once the engine has stopped."""


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    model: str  # a file or folder, or a name of the catalog
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one
    names: tuple[str, ...] = ()  # what clients call the model; none: derived from `model`
    kv_tokens: int | None = None  # that the cache holds; None: KV_TOKENS, or what fits on a GPU
    context: int | None = None  # tokens; None: the model's own
    threads: int = 1
    max_queued: int = 256
    drain_s: float = 10.0
    backend: str = "auto"
    gpu_memory: float = 0.9  # of what is free there
    deterministic: bool = False
    supervised: bool = False
    log_level: str = "info"
    traces_to: str | None = None  # an OTLP collector's base URL
    secret: str | None = field(default=None, repr=False)


class Status:
    """The lines that a supervised replica writes for its parent. Without a file: none."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def loading(self, step: str, done: float) -> None:
        self._write({"state": "loading", "done": round(done, 3), "step": step})

    def ready(self, host: str, port: int, epoch: str) -> None:
        self._write({"state": "ready", "host": host, "port": port, "epoch": epoch})

    def failed(self, error: str) -> None:
        self._write({"state": "failed", "error": error})

    def _write(self, line: dict[str, object]) -> None:
        if self._file is not None:
            # A parent that is gone reads nothing; the end of our standard input says so.
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps(line), file=self._file, flush=True)


def run(settings: ReplicaSettings) -> int:
    """Serves until told to end; returns the exit code."""
    configure(settings.log_level, supervised=settings.supervised)
    status = Status(sys.stdout if settings.supervised else None)
    if settings.supervised:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        engine, replica = load(settings, status)
        # Only now, so that a refused connection means "not ready".
        listener = _bind(settings.host, settings.port)
    except (models.ModelError, ValueError, OSError, MemoryError) as error:
        logger.error("the replica cannot start: %s", error)
        status.failed(str(error))
        return 1
    except Exception as error:  # the rim: whoever waits for a word gets one
        logger.exception("the replica cannot start")
        status.failed(f"unexpected {type(error).__name__}: {error}")
        return 1
    spans = _spans(settings)
    replica = replace(replica, tracing=spans, local_only=_is_loopback(listener))
    config = uvicorn.Config(
        create_app(replica),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=LEAVE_S,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        died = runner.run(_serve(config, listener, engine, replica, settings.drain_s, status))
    if spans is not None:
        spans.close()
    return 1 if died else 0


def _spans(settings: ReplicaSettings) -> Spans | None:
    """OpenTelemetry is loaded only where spans have somewhere to go."""
    if not wanted(settings.traces_to):
        return None
    from gateway.replica.spans import spans_to

    return spans_to(settings.traces_to, time.monotonic)


def load(settings: ReplicaSettings, status: Status) -> tuple[Engine, Replica]:
    """Raises ModelError, ValueError (of which UnsupportedModel is one) and OSError."""
    status.loading("reading the file", 0.0)
    path = models.find(settings.model)
    weights = _shortened(Weights.open(path), settings.context)
    tokenizer = Tokenizer(weights.metadata)
    if tokenizer.vocabulary != weights.spec.vocabulary:
        raise ValueError(
            f"the model file names {tokenizer.vocabulary} tokens, "
            f"but its embedding has {weights.spec.vocabulary}"
        )
    source = weights.metadata.get("tokenizer.chat_template")
    template = ChatTemplate(source, tokenizer) if isinstance(source, str) else None
    backend = load_backend(weights, settings, status)
    engine = _engine(backend, settings)
    is_path = os.sep in settings.model or path.name == settings.model
    file_name = path.resolve().name if path.is_dir() else path.stem
    default = file_name.lower() if is_path else settings.model
    replica = Replica(
        engine=engine,
        tokenizer=tokenizer,
        template=template,
        grammars=Grammars(tokenizer),
        models=settings.names or (default,),
        created=int(time.time()),
        secret=settings.secret,
    )
    return engine, replica


def _engine(backend: Backend, settings: ReplicaSettings) -> Engine:
    if isinstance(backend, DrawingBackend):
        return Engine(
            backend,
            max_running=MOST_RUNNING,
            max_queued=settings.max_queued,
            max_queued_tokens=QUEUED_TOKENS_ON_GPU,
            chunk_tokens=backend.max_tokens,
        )
    forks = [backend.fork() for _ in range(1, min(settings.threads, MOST_WORKERS))]
    return Engine(backend, *forks, max_queued=settings.max_queued, chunk_tokens=CHUNK_TOKENS)


def load_backend(weights: Weights, settings: ReplicaSettings, status: Status) -> Backend:
    blocks = max(1, (settings.kv_tokens or KV_TOKENS) // BLOCK_SIZE)
    # Imported here: each brings its own compilers, and only one is used.
    if settings.backend not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise ValueError(f"backend {settings.backend!r} is unknown; known: {known}")
    if settings.backend in ("auto", "cuda"):
        try:
            return load_on_gpu(
                weights,
                settings.model,
                blocks=blocks if settings.kv_tokens else None,
                memory_fraction=settings.gpu_memory,
                deterministic=settings.deterministic,
                progress=status.loading,
            )
        except NoGpu as error:
            if settings.backend == "cuda":
                raise
            logger.info("computing on the CPU: %s", error)
    if settings.backend != "reference":
        from gateway.replica.backends.cpu import CpuBackend, UnsupportedProcessor

        cache = models.cache_folder().parent / "cpu"
        try:
            return CpuBackend.load(
                weights,
                blocks,
                CHUNK_TOKENS,
                status.loading,
                cache=cache,
                threads=settings.threads,
            )
        except UnsupportedProcessor as error:
            if settings.backend == "cpu":
                raise
            logger.warning("%s, which is slow", error)
    if settings.deterministic:
        raise ValueError("the reference backend is not deterministic; cpu and cuda can be")
    from gateway.replica.backends.reference import ReferenceBackend

    return ReferenceBackend.load(weights, blocks, CHUNK_TOKENS, status.loading)


async def _serve(
    config: uvicorn.Config,
    listener: socket.socket,
    engine: Engine,
    replica: Replica,
    drain_s: float,
    status: Status,
) -> bool:
    """Serves until told to end, or until the engine has died: returns whether it has."""
    loop = asyncio.get_running_loop()
    host, port = listener.getsockname()[:2]

    def on_ready() -> None:
        logger.info("serving %s on %s port %d", ", ".join(replica.models), host, port)
        status.ready(host, port, engine.stats().epoch)

    def end() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
            loop.call_soon_threadsafe(replica.draining.set)

    server = _Server(config, on_ready, end)
    engine.start(on_end=end)

    async def drain() -> bool:
        await replica.draining.wait()
        died = not engine.accepting
        if died:
            logger.error("the engine has died; this replica ends with it")
        engine.drain()
        logger.info("draining for at most %g s", drain_s)
        await asyncio.to_thread(engine.wait_idle, drain_s)
        # Whoever is left is told so: the engine ends it, and its stream gets an error event.
        try:
            await asyncio.to_thread(engine.stop)
        except TimeoutError:
            logger.warning("the engine did not stop in time")
        server.should_exit = True
        return died

    async with asyncio.TaskGroup() as tasks:
        drained = tasks.create_task(drain())
        await server.serve(sockets=[listener])
    return drained.result()


class _Server(uvicorn.Server):
    """Leaves the first signal to us, so that what runs can finish; the second one kills."""

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], on_signal: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_signal = on_signal

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        self._on_signal()


def _end_with_parent() -> None:
    """The end of standard input means that the parent is gone; it works like a SIGTERM."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    if not _is_loopback(listener):
        logger.warning("everybody who can reach %s may use this replica: it checks no keys", host)
    return listener


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def _shortened(weights: Weights, context: int | None) -> Weights:
    if context is None:
        return weights
    if not 1 <= context <= weights.spec.context_length:
        raise ValueError(f"--context must be from 1 to the model's {weights.spec.context_length}")
    return replace(weights, spec=replace(weights.spec, context_length=context))
