"""
What one start leaves on disk for the next: packed weights and machine code.

Only ever a copy of what can be made anew. A file that is damaged, or of another revision, counts
as absent; a folder that cannot be written costs time and nothing else.
"""

from __future__ import annotations

import logging
import os
import stat
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gateway.replica.weights import UInt8

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<8sQI44x")
"""Magic, bytes that follow, and their CRC-32 (6 GB/s, so it is always checked). One cache line
long, so that what follows begins with a line when the file is mapped."""

_MAGIC = b"replica\1"

_KEPT, _KEPT_S = 3, 30 * 86_400
"""Other revisions of a file that stay, and for how long after their last use: versions that run
side by side make nothing anew, and those that are gone do not fill the disk."""


class NotOurs(Exception):
    """Others than this user and root could have written it."""


@dataclass(frozen=True, slots=True)
class Store:
    """Files by name, for one revision of whatever makes them. `folder` need not be there."""

    folder: Path
    revision: str

    def read(self, name: str) -> UInt8 | None:
        """The bytes that were written, mapped read-only: processes that read them share memory."""
        try:
            with self._opened(name) as file:
                image = np.asarray(np.memmap(file, np.uint8, mode="r"))
        except NotOurs:
            logger.warning("%s may be written by others and is not read", self._path(name))
            return None
        except (OSError, ValueError):  # absent or not readable; empty
            return None
        if len(image) < _HEADER.size:
            return None
        magic, size, checksum = _HEADER.unpack(image[: _HEADER.size].tobytes())
        data: UInt8 = image[_HEADER.size :]
        if (magic, size, checksum) != (_MAGIC, len(data), zlib.crc32(data.data)):
            logger.warning("%s is damaged and is made anew", self._path(name))
            return None
        return data

    @contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO]:
        """Machine code and weights are believed as they stand: nobody else may have made them.

        Folder and file are looked at as they are open, so that nobody can put others in their
        place in between. Raises NotOurs, OSError.
        """
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _check_ours(folder)
            file = os.open(self._path(name).name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
        with os.fdopen(file, "rb") as opened:
            _check_ours(file)
            with suppress(OSError):  # root's, or on a disk that is not written to
                os.utime(file)  # the time of its last use, by which `write` keeps it
            yield opened

    def write(self, name: str, data: UInt8) -> None:
        """The file appears whole or not at all; of other revisions those used last stay."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)  # whatever the umask says; fails where it is another user's
            # In the same folder and so on the same file system, as an atomic replace needs.
            with tempfile.TemporaryDirectory(prefix=".new-", dir=self.folder) as scratch:
                new = Path(scratch) / name
                with new.open("wb") as file:
                    file.write(_HEADER.pack(_MAGIC, len(data), zlib.crc32(data.data)))
                    file.write(data.data)
                new.chmod(0o600)
                new.replace(self._path(name))
            others = [path for path in self.folder.glob(f"{name}.*") if path != self._path(name)]
            used = {path: _last_used(path) for path in others}
            for index, path in enumerate(sorted(others, key=used.__getitem__, reverse=True)):
                if index >= _KEPT or used[path] < time.time() - _KEPT_S:
                    path.unlink(missing_ok=True)
        except OSError as error:
            logger.info("the next start will be slower: %s", error)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.{self.revision}"


def _last_used(path: Path) -> float:
    """In seconds since the epoch; long ago for one that another process has just removed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _check_ours(descriptor: int) -> None:
    status = os.fstat(descriptor)
    others = stat.S_IWGRP | stat.S_IWOTH
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & others:
        raise NotOurs
