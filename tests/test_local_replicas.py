from __future__ import annotations

from pathlib import Path

from gateway.config import load
from gateway.local_replicas import replica_commands


def test_replicas_are_started_with_what_the_config_says_of_them(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "replicas:\n"
        "  a: {model: m, threads: 1}\n"
        "  b: {model: m, backend: cuda, gpu_memory: 0.5, deterministic: true, kv_tokens: 512}\n"
    )
    config, _ = load(path, {})
    commands = {name: " ".join(command) for name, command in replica_commands(config).items()}
    assert commands["a-0"].endswith("--name a --threads 1 --backend auto --gpu-memory 0.9")
    assert "--name b --kv-tokens 512" in commands["b-0"]
    assert commands["b-0"].endswith("--backend cuda --gpu-memory 0.5 --deterministic")
