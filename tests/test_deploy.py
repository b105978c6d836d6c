"""What docker-compose.yml says hangs together: it cannot run in a test, but it can be read."""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from deploy.make_keys import make_keys
from gateway.config import load
from gateway.telemetry import instruments

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
KNOWN = {
    *("image", "build", "ports", "environment", "command", "volumes", "depends_on", "restart"),
    *("stop_grace_period", "healthcheck", "network_mode", "user", "tmpfs", "profiles", "ipc"),
    "deploy",
}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_made_of_keys_that_compose_knows_and_files_that_exist(name):
    service = SERVICES[name]
    assert set(service) <= KNOWN
    assert ("image" in service) is not ("build" in service)
    if "image" in service:
        tag = service["image"].rpartition(":")[2]
        assert re.match(r"v?\d", tag), "pinned"
    for mounted in service.get("volumes", []):
        source = mounted.split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]
    for other in service.get("depends_on", ()):
        assert other in SERVICES


def test_who_waits_for_health_waits_for_someone_who_tells():
    for service in SERVICES.values():
        depends = service.get("depends_on", {})
        for other, how in depends.items() if isinstance(depends, dict) else ():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]


def test_one_command_brings_all_of_them_and_the_gpu_only_when_asked():
    assert set(SERVICES) == {
        *("keys", "gateway", "replica", "redis", "jaeger", "prometheus", "grafana"),
        *("vllm", "cuda"),
    }
    assert SERVICES["jaeger"]["image"] == "jaegertracing/jaeger:2.20.0"
    profiles = {name: s["profiles"] for name, s in SERVICES.items() if "profiles" in s}
    assert profiles == {"vllm": ["gpu"], "cuda": ["cuda"]}


def test_nobody_but_the_gateway_is_reachable_from_other_machines():
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert name == "gateway" or port.startswith("127.0.0.1:")


@pytest.mark.parametrize("gpu", ["", "a-key-for-the-gpu"])
@pytest.mark.parametrize("cuda", ["", "a-secret"])
def test_its_gateways_config_loads_with_the_keys_that_are_made(tmp_path, gpu, cuda):
    make_keys(tmp_path)
    before = (tmp_path / "gateway.env").read_text()
    make_keys(tmp_path)
    assert (tmp_path / "gateway.env").read_text() == before  # once
    assert (tmp_path / "gateway.env").stat().st_mode & 0o777 == 0o600
    keys = dict(line.split("=", 1) for line in before.splitlines())
    config, _ = load(
        ROOT / "deploy/gateway.yaml", keys | {"GATEWAY_GPU_KEY": gpu, "GATEWAY_CUDA_SECRET": cuda}
    )
    assert (config.endpoints["gpu"].missing is None) is bool(gpu)
    assert (config.endpoints["cuda"].missing is None) is bool(cuda)
    assert config.endpoints["replica"].missing is None
    (admin,) = [key for key in config.keys if key.admin]
    assert admin.key.value == (tmp_path / "admin.key").read_text()
    for name, endpoint in config.endpoints.items():
        host = re.match(r"http://(\w+):", endpoint.base_url)
        assert host is not None, name
        assert host[1] in SERVICES
    assert config.tracing.endpoint == "http://jaeger:4318"
    assert config.state.redis is not None
    assert urlsplit(config.state.redis.value).hostname == "redis" in SERVICES
    assert str(config.ledger.file) == "/ledger/ledger.sqlite"


def test_prometheus_scrapes_services_that_are_there():
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    for job in config["scrape_configs"]:
        for target in job["static_configs"][0]["targets"]:
            assert target.split(":")[0] in SERVICES
    assert config["scrape_configs"][0]["authorization"] == {"credentials_file": "/keys/admin.key"}


def test_grafanas_panels_ask_for_metrics_that_we_have():
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/gateway.json").read_text())
    ours = {
        *(histogram.name for histogram in instruments.HISTOGRAMS),
        *(f"gateway_{name}_total" for name in instruments.COUNTERS),
        *(f"gateway_{name}" for name in instruments.GAUGES),
        *(f"gateway_{name}" for name in instruments.BALANCES),
    }
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            names = re.findall(r"\b(?:gateway|gen_ai)_\w+(?=[{\[ ]|$)", target["expr"])
            assert names, target
            asked |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    assert asked <= ours
    assert ours - asked <= {
        "gateway_endpoint_queued_tokens",
        "gen_ai_client_operation_duration_seconds",
        "gen_ai_client_operation_time_to_first_chunk_seconds",
    }
    sources = yaml.safe_load(
        (ROOT / "deploy/grafana/provisioning/datasources/datasources.yml").read_text()
    )
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} <= {
        source["uid"] for source in sources["datasources"]
    }


@pytest.mark.parametrize("name", ["Dockerfile", "deploy/cuda.Dockerfile"])
def test_the_image_is_not_roots_and_says_whether_it_lives(name):
    lines = (ROOT / name).read_text()
    assert lines.index("USER gateway") > lines.rindex("FROM")
    assert "HEALTHCHECK" in lines
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", lines, re.MULTILINE):
        for path in copied.split():
            assert (ROOT / path).exists()
