"""
A replica without a model: does the steps named on its command line, one after the other.

Its epoch is its process id, and whoever connects to its port gets its secret and then silence,
so that a test sees on the connection when the process has ended.
"""

import json
import os
import select
import signal
import socket
import sys
import threading
import time


def say(**state: object) -> None:
    print(json.dumps(state), flush=True)


def ready() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=greet, args=(listener,), daemon=True).start()
    port = listener.getsockname()[1]
    say(state="ready", host="127.0.0.1", port=port, epoch=str(os.getpid()))


def greet(listener: socket.socket) -> None:
    connections = []
    while True:
        connections.append(listener.accept()[0])
        connections[-1].sendall(os.environ["GATEWAY_REPLICA_SECRET"].encode() + b"\n")


def on_sigterm(*_: object) -> None:
    print("SIGTERM came", file=sys.stderr, flush=True)
    sys.exit(0)


def wait() -> None:
    """Until the parent is gone, or a signal has come: one that comes just before a read is heard
    only after it."""
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(waking)
    select.select([sys.stdin, woken], [], [])


def step(name: str) -> None:
    match name:
        case "loading":
            say(state="loading", step="reading", done=0.25)
            say(state="loading", step="packing", done=1)
        case "ready":
            ready()
        case "failed":
            say(state="failed", error="no such model")
            sys.exit(1)
        case "die":
            sys.exit(3)
        case "wait":
            wait()
        case "hang":
            time.sleep(3600)
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "chatter":
            print("this is not JSON")
            print("x" * 300_000, flush=True)
            print("a word on stderr", file=sys.stderr, flush=True)


signal.signal(signal.SIGTERM, on_sigterm)
for name in sys.argv[1:]:
    step(name)
