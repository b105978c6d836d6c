"""Which version this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    try:
        return version("inference-layer")
    except PackageNotFoundError:
        return "(run from a source tree)"
