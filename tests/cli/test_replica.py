from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from gateway.__main__ import main
from gateway.cli import replica

WITHOUT_THE_EXTRA = """
import sys
sys.modules["tokenizers"] = None
from gateway.__main__ import main

sys.exit(main(["replica", "--model", "x"]))
"""


def test_without_the_extra_it_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_THE_EXTRA], capture_output=True, text=True)
    assert done.returncode == 2
    assert "tokenizers is not installed" in done.stderr
    assert "pip install 'inference-layer[replica]'" in done.stderr


@pytest.mark.parametrize(
    "option",
    [
        ["--port", "70000"],
        ["--kv-tokens", "0"],
        ["--drain", "-1"],
        ["--backend", "gpu"],
        ["--gpu-memory", "1.5"],
    ],
)
def test_options_that_make_no_sense_are_refused(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["replica", "--model", "x", *option])
    assert f"argument {option[0]}" in capsys.readouterr().err


def test_the_help_groups_its_options_and_has_an_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["replica", "--help"])
    told = capsys.readouterr().out
    for group in ("what it serves", "where it listens", "how it computes", "as a process"):
        assert f"\n{group}:\n" in told
    assert "gateway replica --model smollm2 --name assistant --port 8100" in told


@pytest.mark.parametrize(("cores", "threads"), [({0}, 1), ({0, 1}, 2), ({0, 1, 2, 3}, 2)])
def test_two_threads_where_there_are_two_cores(
    cores: set[int], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: cores, raising=False)
    parser = argparse.ArgumentParser()
    replica.add_parser(parser.add_subparsers())
    assert parser.parse_args(["replica", "--model", "x"]).threads == threads
