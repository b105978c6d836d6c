"""The comparison as a PNG, where matplotlib is installed; the project does not ask for it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from gateway.replay.page import Result


def can_plot() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def plot(file: Path, title: str, results: Mapping[str, Result]) -> None:
    """Goodput and the distribution of first-token times, side by side."""
    importlib.import_module("matplotlib").use("Agg")  # no window
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, (bars, lines) = pyplot.subplots(1, 2, figsize=(12, 5), layout="constrained")
    figure.suptitle(title)
    bars.barh(list(results), [result.summary.goodput for result in results.values()])
    bars.set_xlabel("requests within the limits")
    bars.invert_yaxis()
    for name, result in results.items():
        count = len(result.ttft_s)
        lines.plot(result.ttft_s, [(i + 1) / count for i in range(count)], label=name)
    lines.set_xscale("log")
    lines.set_xlabel("time to the first token, s")
    lines.legend()
    figure.savefig(file)
    pyplot.close(figure)
