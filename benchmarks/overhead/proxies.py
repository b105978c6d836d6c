"""The gateways that are compared, each started as its users would, on one core.

A peer is found by its program's path in an environment variable (`BENCH_SMG=…/bin/smg`), or on the
PATH; without it, it is left out with a word.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overhead.load import Client, Target
from benchmarks.overhead.processes import running

KEY = "sk-Zu8rT3vKx5bWq1mNc7yHd9eLp2sFj4g"

NGINX = """
worker_processes 1;
daemon off;
error_log stderr crit;
pid {folder}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream endpoint {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://endpoint;
      proxy_http_version 1.1;
      proxy_set_header connection "";
      proxy_buffering off;
    }}
  }}
}}
"""

LITELLM = """
model_list:
  - model_name: m
    litellm_params:
      model: openai/theirs
      api_base: http://127.0.0.1:{upstream}/v1
      api_key: none
general_settings:
  master_key: {key}
"""

OURS = """
server: {{port: {port}}}
endpoints:
  there:
    base_url: http://127.0.0.1:{upstream}/v1
    models: {{m: theirs}}
    prices: {{m: {{input: 0.5, output: 1.5, cached: 0.1}}}}
keys:
  - {{name: bench, tenant: bench, key: {key}}}
tenants:
  bench:
    limits:
      requests: {{minute: 100000000}}
      tokens: {{minute: 100000000000}}
      concurrent: 100000
      dollars: {{day: 1000000}}
ledger: {{file: {folder}/ledger.sqlite}}
tracing: {{endpoint: "http://127.0.0.1:{upstream}", sample: 1%}}
"""
"""With all that it does for its users: keys, limits of every kind, the ledger, metrics, the log,
the dashboard, and traces of one exchange in a hundred, which the upstream takes in."""


@dataclass(frozen=True, slots=True)
class Proxy:
    name: str
    target: Target
    pid: int


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    program: str
    command: Callable[[str, int, int, Path], Sequence[str]]
    """From its program, its port, the upstream's port and a folder of its own."""
    model: str = "m"
    connections: int = 64
    requests: int = 20_000  # of each measurement of plain requests
    streams: bool = True  # compared in streams at all
    start_s: float = 20.0

    def found(self) -> str | None:
        given = os.environ.get(f"BENCH_{self.program.upper().replace('-', '_')}")
        return given or shutil.which(self.program)

    @contextmanager
    def started(self, upstream: int, cpus: set[int], folder: Path) -> Iterator[Proxy]:
        program = self.found()
        assert program is not None
        port = free_port()
        own = folder / self.name.replace(" ", "-")
        own.mkdir(exist_ok=True)
        with running(self.command(program, port, upstream, own), cpus) as process:
            url = f"http://127.0.0.1:{port}"
            target = Target(url, {"authorization": f"Bearer {KEY}"}, self.model)
            asyncio.run(answering(target, self.start_s, process))
            yield Proxy(self.name, target, process.pid)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def answering(target: Target, within_s: float, process: subprocess.Popen[bytes]) -> None:
    """Until it answers a request as it should."""
    async with asyncio.timeout(within_s):
        while True:
            if process.poll() is not None:
                raise ChildProcessError(f"it ended with {process.returncode}")
            try:
                client = await Client.connect(target)
            except OSError:
                await asyncio.sleep(0.2)
                continue
            answer = await client.ask(target.request("", stream=False))
            client.hang_up()
            if answer.status == 200:
                return
            await asyncio.sleep(0.2)


def _written(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


def _ours(workers: int = 1) -> Callable[[str, int, int, Path], Sequence[str]]:
    def command(program: str, port: int, upstream: int, folder: Path) -> Sequence[str]:
        config = _written(
            folder, "config.yaml", OURS.format(port=port, upstream=upstream, key=KEY, folder=folder)
        )
        more = [] if workers == 1 else ["--workers", str(workers)]
        return [program, "-m", "gateway", "serve", "--config", config, *more]

    return command


def _nginx(program: str, port: int, upstream: int, folder: Path) -> Sequence[str]:
    text = NGINX.format(port=port, upstream=upstream, folder=folder)
    return [program, "-p", str(folder), "-c", _written(folder, "nginx.conf", text)]


def _router(program: str, port: int, upstream: int, folder: Path) -> Sequence[str]:
    """Of the SGLang family: what is common to sglang-router and smg."""
    return [
        *(program, "launch", "--host", "127.0.0.1", "--port", str(port)),
        *("--worker-urls", f"http://127.0.0.1:{upstream}", "--policy", "cache_aware"),
        *("--prometheus-port", str(free_port())),
    ]


def _vllm_router(program: str, port: int, upstream: int, folder: Path) -> Sequence[str]:
    command = list(_router(program, port, upstream, folder))
    command.remove("launch")
    return command


def _litellm(program: str, port: int, upstream: int, folder: Path) -> Sequence[str]:
    config = _written(folder, "litellm.yaml", LITELLM.format(upstream=upstream, key=KEY))
    return [
        *(program, "--config", config, "--host", "127.0.0.1", "--port", str(port)),
        *("--num_workers", "1", "--telemetry", "False"),
    ]


class Ours(Contestant):
    def found(self) -> str | None:
        return sys.executable


OURS_ALONE = Ours("ours", "python", _ours())
TWO_WORKERS = Ours("ours with 2 workers", "python", _ours(2))
PEERS = (
    Contestant("nginx", "nginx", _nginx, "theirs"),
    Contestant("sglang-router", "sglang-router", _router, "theirs"),
    Contestant("smg", "smg", _router, "theirs"),
    Contestant("vllm-router", "vllm-router", _vllm_router, "theirs"),
    # Sixteen connections, and few requests: more of either end in its time-outs.
    Contestant("LiteLLM", "litellm", _litellm, connections=16, requests=600, start_s=180),
)
