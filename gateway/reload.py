"""
The config while the gateway runs: read again whenever one of its files changes.

A config that is good is put in force as a whole, between two requests; one that is not changes
nothing. What the process was started with (addresses, endpoints, replicas) stays as it is and is
named, so that nobody believes it was taken over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.config import Config, ConfigError
from gateway.config.load import files_behind
from gateway.rules import Rules

logger = logging.getLogger(__name__)

PERIOD_S = 0.5

Fingerprint = Mapping[Path, tuple[int, int, int]]


class Source:
    """A config file and all that belongs to it, as last read."""

    def __init__(self, file: Path, load: Callable[[], tuple[Config, Rules]]) -> None:
        self.file = file
        self._load = load
        self._policies: Path | None = None  # the operator's folder
        self._seen: Fingerprint = {}

    def read(self) -> tuple[Config, Rules]:
        """Raises ConfigError."""
        while True:
            # Before the reading: what changes meanwhile shows as a change afterwards.
            self._seen = self._fingerprint()
            config, rules = self._load()
            if config.policies == self._policies:
                return config, rules
            self._policies = config.policies

    def forget(self) -> None:
        """For a signal's handler: the next look finds a change, whatever it sees."""
        self._seen = {}

    def changed(self) -> bool:
        return self._fingerprint() != self._seen

    def _fingerprint(self) -> Fingerprint:
        found: dict[Path, tuple[int, int, int]] = {}
        for path in files_behind(self.file, self._policies):
            try:
                stat = path.stat()
            except OSError:
                continue  # it went away: that is a change too
            found[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        return found


@dataclass
class Live:
    """For whoever asks which config is in force."""

    generation: int = 1  # one more with every config that was put in force
    last_reload: Literal["ok", "error"] = "ok"


async def watch_config(
    source: Source,
    live: Live,
    put_in_force: Callable[[Config, Rules], None],
    period_s: float = PERIOD_S,
) -> None:
    """Never returns. `put_in_force` may raise ConfigError as well, and then has done nothing."""
    while True:
        await asyncio.sleep(period_s)
        try:
            # In a thread: files may lie on a network, and to read a config takes milliseconds.
            if not await asyncio.to_thread(source.changed):
                continue
            put_in_force(*await asyncio.to_thread(source.read))
        except ConfigError as error:
            live.last_reload = "error"
            logger.error("the config was not reloaded, the last good one stays: %s", error)
        except Exception:  # a rim: after a defect of ours, the next edit is still taken up
            live.last_reload = "error"
            logger.exception("the config was not reloaded")
        else:
            live.generation += 1
            live.last_reload = "ok"
            logger.info("the config was reloaded: generation %d", live.generation)
