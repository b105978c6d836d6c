"""Config files: what is read, and what each mistake is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, load
from gateway.config.bind import Seconds, Secret
from gateway.config.tree import Endpoint
from gateway.domain import InferenceRequest
from gateway.rules import Rules
from tests.support.requests import chat

ENVIRON = {"TOKEN": "t0ken-of-the-environment", "HOST": "api.test", "EMPTY": ""}
GOOD = """
server: {port: 9000, max_body: 1MB, drain: 500ms}
policy: least_busy
replicas:
  tiny: {model: smollm2, count: 2}
endpoints:
  away:
    base_url: https://${HOST}/v1
    api_key: ${TOKEN}
    models: {big: vendor/big-1}
    timeouts: {first_event: 5m}
  near:
    base_url: http://10.0.0.7:8000/v1
    models: [small, large]
keys:
  - {name: web, key: 12345678-abc, tenant: acme, models: [big]}
"""
ONE_ENDPOINT = "endpoints: {e: {base_url: 'http://e/v1', models: [m]}}\n"


def read(text: str, folder: Path, environ: Mapping[str, str] = ENVIRON) -> tuple[Config, Rules]:
    file = folder / "config.yaml"
    file.write_text(text)
    return load(file, environ)


def mistake(text: str | bytes, folder: Path, environ: Mapping[str, str] = ENVIRON) -> str:
    """The error's text from the file's name on: `config.yaml:3: server.port: …`."""
    file = folder / "config.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ)
    return str(caught.value).replace(f"{folder}/", "")


def endpoint(*lines: str) -> str:
    """A config of one endpoint, with these lines more; the first stands in line 5."""
    head = ["endpoints:", "  e:", "    models: [m]", "    base_url: https://e/v1"]
    return "\n".join([*head, *(f"    {line}" for line in lines), ""])


def test_a_good_file_is_a_frozen_tree_and_its_policy(tmp_path: Path) -> None:
    config, rules = read(GOOD, tmp_path)
    assert (config.server.port, config.server.max_body, config.server.drain) == (9000, 1 << 20, 0.5)
    assert config.server.host == "127.0.0.1"
    assert list(config.replica_names()) == ["tiny-0", "tiny-1"]
    assert config.endpoints["away"].base_url == "https://api.test/v1"
    assert config.endpoints["away"].api_key == Secret("t0ken-of-the-environment")
    assert config.endpoints["away"].models == {"big": "vendor/big-1"}
    assert config.endpoints["away"].timeouts.first_event == Seconds(300)
    assert config.endpoints["near"].models == {"small": "small", "large": "large"}
    assert config.endpoints["near"].api_key is None
    assert (config.keys[0].tenant, config.keys[0].models) == ("acme", ("big",))
    assert list(rules.policies) == ["least_busy"]


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    config, rules = read(ONE_ENDPOINT, tmp_path)
    assert config == Config(endpoints=config.endpoints)
    assert list(rules.policies) == ["cache_aware"]


def test_an_empty_section_is_the_same_as_none(tmp_path: Path) -> None:
    text = "server:\nreplicas:\nkeys: []\npolicies:\n" + ONE_ENDPOINT
    assert read(text, tmp_path)[0] == read(ONE_ENDPOINT, tmp_path)[0]


def test_anchors_and_merge_keys_save_words(tmp_path: Path) -> None:
    text = """
endpoints:
  a: &shared {base_url: "http://a/v1", models: [m], context_length: 512}
  b: {<<: *shared, base_url: "http://b/v1"}
"""
    config, _ = read(text, tmp_path)
    b = config.endpoints["b"]
    assert (b.base_url, b.context_length) == ("http://b/v1", 512)


# Mistakes: file, line, key path, what is wrong, and what would be right.


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # No YAML, or none that we can read.
        (b"\xff\xfe", "config.yaml: is not UTF-8 text"),
        ("server: {port: 1", "config.yaml:1: is not YAML: expected ',' or '}', but got …"),
        ("a: 1\nserver: x: y", "config.yaml:2: is not YAML: mapping values are not allowed here"),
        *(
            (
                f"server: {{}}\nkeys: {opened}${{ACME_KEY}}",
                'config.yaml:2: is not YAML: within {} and [], a variable needs quotes: "${NAME}"',
            )
            for opened in ("[{name: a, key: ", "[")
        ),
        ("server:\n\tport: 1", "config.yaml:2: is not YAML: "),
        ("server: {}\n---\nserver: {}", "config.yaml:2: is not YAML: "),
        ("server: \x07", "config.yaml: is not YAML: "),
        ("server: {port: !!python/object:os.system 1}", "config.yaml:1: is not YAML: "),
        ("policy: &p [*p]\n? *p\n: 1", "config.yaml:1: is not YAML: "),
        ("policy: 2026-99-99", "config.yaml:1: policy: is no timestamp as YAML has them"),
        (
            "keys:\n- name: a\n  expires: 2027-13-45",
            "config.yaml:3: keys[0].expires: is no timestamp as YAML has them; text needs quotes",
        ),
        ("server: {}\n2027-13-45: 1", "config.yaml: has a key that is not of its type"),
        *(
            (f"server: {{}}\ndashboard: !!{kind} {text}", f"config.yaml:2: dashboard: is no {kind}")
            for kind, text in (("bool", "maybe"), ("int", "''"), ("float", "x"), ("timestamp", "x"))
        ),
        ("dashboard: 1" + ":0" * 200 + ":0.0", "config.yaml:1: dashboard: is no float"),
        ("policy: " + "[" * 2000 + "]" * 2000, "config.yaml: is nested too deeply"),
        ("server:\n  ? [a, b]\n  : 1", "config.yaml:2: is not YAML: found unhashable key"),
        # The shape of it.
        ("- server", "config.yaml:1: must be a mapping of keys to values"),
        ("just text", "config.yaml:1: must be a mapping of keys to values"),
        ("", "config.yaml: needs at least one of: replicas, endpoints"),
        ("server: 8000", "config.yaml:1: server: must be a mapping of keys to values"),
        ("endpoints: []", "config.yaml:1: endpoints: must be a mapping of keys to values"),
        ("keys: {a: 1}", "config.yaml:1: keys: must be a list"),
        ("server:\n  port: [1]", "config.yaml:2: server.port: must be an integer, not a list"),
        # Keys that are not there, or twice.
        (
            "server:\n  prot: 1",
            "config.yaml:2: server.prot: there is no such key; did you mean 'port'?; "
            "known here: host, port, max_body, ",
        ),
        (
            "zzz: 1",
            "config.yaml:1: zzz: there is no such key; known here: server, policy, policies, ",
        ),
        ("server: {}\nserver: {}", "config.yaml:2: server: stands here twice"),
        (endpoint("models: [n]"), "config.yaml:5: endpoints.e.models: stands here twice"),
        (
            endpoint("timeouts: {connect: 1, connect: 2}"),
            "config.yaml:5: endpoints.e.timeouts.connect: stands here twice",
        ),
        (
            "endpoints:\n  e:\n    base_url: https://e/v1\n    models:\n      m: a\n      m: b\n",
            "config.yaml:6: endpoints.e.models.m: stands here twice",
        ),
        ("endpoints:\n  e:\n    models: [m]", "config.yaml:2: endpoints.e: needs 'base_url'"),
        ("keys:\n- name: a\n- key: b", "config.yaml:2: keys[0]: needs 'key'"),
        ("replicas: {r: {}}", "config.yaml:1: replicas.r: needs 'model'"),
        # Types.
        ("server: {port: '1'}", "config.yaml:1: server.port: must be an integer, not a string"),
        ("server: {port: true}", "config.yaml:1: server.port: must be an integer, not true or fal"),
        ("server: {port: 1.5}", "config.yaml:1: server.port: must be an integer, not a number"),
        ("server: {port: }", "config.yaml:1: server.port: must be an integer, not nothing"),
        ("server: {host: 1}", "config.yaml:1: server.host: must be a string, not an integer"),
        ("server: {host: {}}", "config.yaml:1: server.host: must be a string, not a mapping"),
        ("policies: 3", "config.yaml:1: policies: must be a path, not an integer"),
        (
            endpoint("context_length: long"),
            "config.yaml:5: endpoints.e.context_length: must be an integer, not a string",
        ),
        (
            "keys:\n  - name: a\n    key: 12345678\n",
            "config.yaml:3: keys[0].key: must be a string, not an integer",
        ),
        (
            "keys:\n  - {name: a, key: abcdefgh, models: [m, 1]}\n",
            "config.yaml:2: keys[0].models[1]: must be a string, not an integer",
        ),
        # Names that a key's scope has, and nothing else.
        *(
            (
                ONE_ENDPOINT + f"keys:\n  - {{name: a, key: abcdefgh, {scope}: [{good}, typo]}}\n",
                f"config.yaml:3: keys[0].{scope}[1]: there is no 'typo' here; known: {good}",
            )
            for scope, good in (("models", "m"), ("policies", "cache_aware"), ("endpoints", "e"))
        ),
        (
            ONE_ENDPOINT + "cache: {models: {n: 1m}}",
            "config.yaml:2: cache.models.n: no endpoint serves 'n'; known: m",
        ),
        (
            ONE_ENDPOINT + "tenants:\n  a:\n    limits: {request: {day: 1}}",
            "config.yaml:4: tenants.a.limits.request: there is no such key; did you mean",
        ),
        (
            ONE_ENDPOINT + "tenants:\n  a:\n    limits: {dollars: {hour: 1}}",
            "config.yaml:4: tenants.a.limits.dollars.hour: there is no such key; known here: day",
        ),
        (
            endpoint("max_in_flight: 0"),
            "config.yaml:5: endpoints.e.max_in_flight: must be at least 1, or auto",
        ),
        # Units.
        ("server: {drain: 5x}", "config.yaml:1: server.drain: must be a time like 10s, 60ms or 5m"),
        ("server: {drain: soon}", "config.yaml:1: server.drain: must be a time like"),
        ("server: {drain: 1.2.3s}", "config.yaml:1: server.drain: must be a time like"),
        ("server: {drain: 0}", "config.yaml:1: server.drain: must be longer than nothing"),
        ("server: {drain: -1s}", "config.yaml:1: server.drain: must be a time like"),
        ("server: {drain: .nan}", "config.yaml:1: server.drain: must be a time like"),
        ("server: {drain: .inf}", "config.yaml:1: server.drain: must be a time like"),
        ("server: {drain: []}", "config.yaml:1: server.drain: must be a time like"),
        ("server: {max_body: 32 mb}", "config.yaml:1: server.max_body: must be a size like"),
        ("server: {max_body: .inf}", "config.yaml:1: server.max_body: must be a size like 32MB"),
        (f"server: {{drain: {10**400}}}", "config.yaml:1: server.drain: must be a time like"),
        ("server: {max_body: 0}", "config.yaml:1: server.max_body: must be at least a byte"),
        *(
            (
                ONE_ENDPOINT + f"tenants: {{a: {{limits: {{tokens: {{day: {number}}}}}}}}}",
                "config.yaml:2: tenants.a.limits.tokens.day: must be a number that is finite",
            )
            for number in (10**400, ".inf", "-.inf", ".nan")
        ),
        (
            ONE_ENDPOINT + "ledger: {keep: 400}",
            "config.yaml:2: ledger: keep must be at least 1h: without a unit, it is seconds",
        ),
        (
            ONE_ENDPOINT + "ledger: {size: 4}",
            "config.yaml:2: ledger: size must be at least 1MB: without a unit, it is bytes",
        ),
        # Values.
        ("server: {port: 65536}", "config.yaml:1: server: port 65536 is not between 0 and 65535"),
        ("replicas:\n  r: {model: m, count: 0}", "config.yaml:2: replicas.r: count must be at lea"),
        ("replicas:\n  r: {model: m, kv_tokens: 9}", "config.yaml:2: replicas.r: kv_tokens must"),
        ("replicas:\n  r: {model: m, gpu_memory: 2}", "config.yaml:2: replicas.r: gpu_memory must"),
        ("replicas:\n  r: {model: m, backend: tpu}", "config.yaml:2: replicas.r: backend must"),
        ("replicas:\n  r: {model: m, threads: 0}", "config.yaml:2: replicas.r: threads must be at"),
        (
            "endpoints:\n  e: {base_url: e, models: [m]}",
            "config.yaml:2: endpoints.e: base_url must start with http:// or https://",
        ),
        *(
            (
                f"endpoints:\n  e: {{base_url: 'http://e/v1{end}', models: [m]}}",
                "config.yaml:2: endpoints.e: base_url must end with its path, as in http://host:port",
            )
            for end in ("?api-version=2024-06-01", "#top", "?")
        ),
        *(
            (
                f"{ONE_ENDPOINT}state:\n  redis: {url}",
                f"config.yaml:2: state: redis {says}",
            )
            for url, says in (
                ("localhost:6379", "must start with one of: redis://, rediss://, unix://"),
                ("redis://127.0.0.1:99999", "is no URL that a client can use"),
                ("redis://127.0.0.1:6379?max_connections=abc", "is no URL that a client can use"),
                ("redis://127.0.0.1:6379?tls=yes", "is no URL that a client can use"),
                ("rediss://127.0.0.1?ssl_cert_reqs=some", "is no URL that a client can use"),
                ("'redis://[::1'", "is no URL that a client can use"),
                ("redis://127.0.0.1:6379/abc", "has a path that is no number of a database"),
            )
        ),
        (
            endpoint("dialect: cohere"),
            "config.yaml:2: endpoints.e: there is no such dialect; known: baseten, ",
        ),
        (
            endpoint("dialect: replica"),
            "config.yaml:2: endpoints.e: a replica needs its secret",
        ),
        (
            endpoint("dialect: modal_server\n    secret: s\n    api_keys: [a, b]"),
            "config.yaml:2: endpoints.e: a secret goes with one api_key",
        ),
        (
            endpoint('headers: {"x team": a}'),
            "config.yaml:2: endpoints.e: 'x team' is no header to send along",
        ),
        (
            endpoint("headers: {Host: a}"),
            "config.yaml:2: endpoints.e: 'Host' is no header to send along",
        ),
        (
            endpoint('headers: {x-team: "a\\nb"}'),
            "config.yaml:2: endpoints.e: headers.x-team must be ASCII without white space",
        ),
        (
            endpoint("timeouts: {slowest: -1}"),
            "config.yaml:5: endpoints.e.timeouts: slowest is not negative",
        ),
        (
            "endpoints:\n  e: {dialect: vllm, models: [m]}",
            "config.yaml:2: endpoints.e: needs 'base_url': vllm has no place of its own",
        ),
        (
            "endpoints:\n  e: {dialect: groq}",
            "config.yaml:2: endpoints.e: needs 'models'",
        ),
        (
            endpoint("secret: something"),
            "config.yaml:2: endpoints.e: the dialect openai has no secret: it has an api_key",
        ),
        (
            endpoint("context_length: 0"),
            "config.yaml:2: endpoints.e: context_length must be at least 1",
        ),
        *(
            (
                f"endpoints:\n  e: {{base_url: 'http://e', models: {models}}}",
                "config.yaml:2: endpoints.e.models: must list models, or map each model to",
            )
            for models in ("[]", "{}", "m", "[1]", "['']", "{m: 1}", "{m: ''}", "{1: m}")
        ),
        (
            "replicas: {r: {model: m}}\nendpoints: {r-0: {base_url: 'http://e', models: [m]}}",
            "config.yaml:2: endpoints.r-0: 'r-0' names a replica and an endpoint",
        ),
        # Keys.
        (
            "keys:\n  - {name: a, key: short}",
            "config.yaml:2: keys[0]: a key has at least 8 characters",
        ),
        *(
            (
                f'keys:\n  - {{name: a, key: "{key}"}}',
                "config.yaml:2: keys[0]: a key is ASCII without white space",
            )
            for key in ("abcdefgh\\n", "abcd efgh", "schl\u00fcssel-1")
        ),
        (
            ONE_ENDPOINT + "keys:\n- {name: a, key: abcdefgh}\n- {name: a, key: ijklmnop}",
            "config.yaml:4: keys[1]: 'a' is the name of keys[0] too",
        ),
        (
            ONE_ENDPOINT + "keys:\n- {name: a, key: abcdefgh}\n- {name: b, key: abcdefgh}",
            "config.yaml:4: keys[1]: keys[0] has the same key",
        ),
        (
            ONE_ENDPOINT + "drained:\n- e\n- x",
            "config.yaml:4: drained[1]: drained names 'x', which is no endpoint and no replica",
        ),
        # Names: a header carries them.
        *(
            (
                f"{ONE_ENDPOINT}keys:\n- {{name: {name}, key: abcdefgh}}",
                f"config.yaml:3: keys[0].name: {says}",
            )
            for name, says in (
                ('""', "must be 1 to 200 printable characters"),
                ('"a\\nb"', "must be 1 to 200 printable characters"),
                ("a" * 201, "must be 1 to 200 printable characters"),
            )
        ),
        (
            ONE_ENDPOINT + 'keys:\n- {name: a, key: abcdefgh,\n   tenant: ""}',
            "config.yaml:4: keys[0].tenant: must be 1 to 200 printable characters",
        ),
        (ONE_ENDPOINT + 'tenants:\n  "": {}', "config.yaml:3: tenants.: a name must be 1 to 200"),
        (
            'endpoints:\n  "e\\r\\nf": {base_url: "http://e/v1", models: [m]}',
            "config.yaml:2: endpoints.e\r\nf: a name must be 1 to 200 printable characters",
        ),
        (
            'endpoints:\n  e: {base_url: "http://e/v1", models: ["m\\0"]}',
            "config.yaml:2: endpoints.e.models: a model's name must be 1 to 200 printable",
        ),
        ('replicas:\n  "r\\n": {model: m}', "config.yaml:2: replicas.r\n: a name must be 1 to 200"),
        (
            'replicas:\n  r: {model: m, serves: ""}',
            "config.yaml:2: replicas.r: serves must be 1 to",
        ),
        # The policy.
        (
            ONE_ENDPOINT + "policy: best",
            "config.yaml:2: policy: no policy is called 'best'; known: balanced, cache_aware, ",
        ),
        (ONE_ENDPOINT + "policies: nowhere", "config.yaml:2: policies: nowhere is not a folder"),
        (ONE_ENDPOINT + f"policies: {'a' * 5000}", "config.yaml:2: policies: aaaa"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str | bytes, says: str) -> None:
    assert mistake(text, tmp_path).startswith(says)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for file, says in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=says) as caught:
            load(file)
        assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_without_keys_loopback_is_fine(tmp_path: Path, host: str) -> None:
    assert read(f"server: {{host: '{host}'}}\n{ONE_ENDPOINT}", tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gateway.test", "", "0"])
def test_without_keys_nobody_else_may_come_in(tmp_path: Path, host: str) -> None:
    text = f"server: {{host: '{host}'}}\n{ONE_ENDPOINT}"
    assert f"without keys the gateway listens on loopback only, not on {host}" in mistake(
        text, tmp_path
    )
    assert read(text + "keys: [{name: a, key: abcdefgh}]", tmp_path)


# Variables and secrets.


@pytest.mark.parametrize(
    "url",
    [
        *("redis://", "redis://127.0.0.1", "redis://u:p%40@[::1]:6379/2", "unix:///tmp/abc?db=1"),
        *("redis://h:6379/", "rediss://h/0?ssl_cert_reqs=none&health_check_interval=5"),
    ],
)
def test_a_server_that_can_be_shared_is_taken(tmp_path: Path, url: str) -> None:
    config, _ = read(f"{ONE_ENDPOINT}state: {{redis: '{url}'}}", tmp_path)
    assert config.state.redis == Secret(url)


@pytest.mark.parametrize("name", ["MISSING", "EMPTY"])
def test_a_variable_that_is_not_set(tmp_path: Path, name: str) -> None:
    """It is an error, but for an endpoint's key: such an endpoint is left out, and it is said."""
    wanted = f"the environment has no {name}"
    key = f"keys:\n  - name: a\n    key: ${{{name}}}\n"
    assert mistake(key, tmp_path) == f"config.yaml:2: keys[0]: {wanted}"
    assert mistake(f"policy: ${{{name}}}", tmp_path) == f"config.yaml:1: policy: {wanted}"
    for secret in ("api_key: ${%s}", "dialect: replica\n    secret: ${%s}"):
        config, _ = read(endpoint(secret % name), tmp_path)
        assert config.endpoints["e"].missing == name


def test_one_of_several_keys_is_enough(tmp_path: Path) -> None:
    lines = 'api_key: ${MISSING}\n    api_keys: ["${TOKEN}", "${EMPTY}", "${TOKEN}"]'
    made = read(endpoint(lines), tmp_path)[0].endpoints["e"]
    assert made.missing is None
    assert len(made.key_values) == 1
    none = read(endpoint('api_keys: ["${MISSING}", "${EMPTY}"]'), tmp_path)[0].endpoints["e"]
    assert none.missing == "MISSING"
    assert "headers" not in str(none.missing)
    header = read(endpoint('headers: {x-team: "${MISSING}"}'), tmp_path)[0].endpoints["e"]
    assert header.missing == "MISSING"


def test_a_dialect_with_a_place_of_its_own_needs_no_address(tmp_path: Path) -> None:
    text = "endpoints: {e: {dialect: groq, models: [m], api_key: k}}"
    assert read(text, tmp_path)[0].endpoints["e"].url == "https://api.groq.com/openai/v1"
    text = "endpoints: {e: {dialect: groq, models: [m], base_url: 'http://here/v1/'}}"
    assert read(text, tmp_path)[0].endpoints["e"].url == "http://here/v1"


def test_an_endpoint_with_all_its_secrets_misses_none(tmp_path: Path) -> None:
    for line in ("api_key: ${TOKEN}", "api_key: literal", "api_key:", "context_length: 1"):
        assert read(endpoint(line), tmp_path)[0].endpoints["e"].missing is None


@pytest.mark.parametrize("written", ["${TOKEN:-x}", "${TOKEN", "${}", "${MY-TOKEN}", "a${ TOKEN }"])
def test_a_variable_that_is_written_otherwise_is_refused(tmp_path: Path, written: str) -> None:
    says = "config.yaml:5: endpoints.e.api_key: a variable is written ${NAME}"
    assert mistake(endpoint(f'api_key: "{written}"'), tmp_path) == says


def test_a_variable_may_hold_a_number(tmp_path: Path) -> None:
    config, _ = read(f"server: {{port: '${{PORT}}'}}\n{ONE_ENDPOINT}", tmp_path, {"PORT": "8123"})
    assert config.server.port == 8123
    text = f"server: {{port: '${{PORT}}'}}\n{ONE_ENDPOINT}"
    for wrong in ("eighty", "[1", "a: b: c", "2026-99-99", "!!int x"):
        assert mistake(text, tmp_path, {"PORT": wrong}).startswith("config.yaml:1: server.port: ")


def test_variables_are_taken_anywhere_in_a_string(tmp_path: Path) -> None:
    text = "endpoints: {e: {base_url: 'https://${HOST}/${HOST}', models: [m], api_key: a-$TOKEN}}"
    made: Endpoint = read(text, tmp_path)[0].endpoints["e"]
    assert made.base_url == "https://api.test/api.test"
    assert made.api_key == Secret("a-$TOKEN")  # no braces, no variable


SECRET = "hunter2-hunter2"


def test_a_secret_is_never_printed(tmp_path: Path) -> None:
    text = f"""
endpoints:
  a: {{base_url: "http://a", models: [m], api_key: {SECRET}}}
  b: {{base_url: "http://b", models: [m], dialect: replica, secret: "${{SECRET}}"}}
keys: [{{name: k, key: "{SECRET}"}}]
"""
    config, rules = read(text, tmp_path, {"SECRET": SECRET})
    assert config.endpoints["b"].secret == Secret(SECRET)
    assert "hunter2" not in repr(config) + str(config) + repr(rules)


@pytest.mark.parametrize(
    "line",
    [
        f"api_key: *{SECRET}",  # a secret that begins with one of YAML's signs
        f"api_key: !{SECRET}",
        f"api_key: &{SECRET} a: b",
        f"api_key: {SECRET}: x",
        f"api_key: [{SECRET}]",
        f"api_key: {{{SECRET}: x}}",
        f"context_length: {SECRET}",
        f"timeouts: {SECRET}",
        f"timeouts: {{}}\nstate: {{redis: 'redis://:{SECRET}@h:x/y'}}",
        f"timeouts: {{}}\nstate: {{redis: 'redis://:{SECRET}@h/{SECRET}'}}",
        "context_length: ${SECRET}",
        "dialect: ${SECRET}",
        "timeouts: {connect: '${SECRET}'}",
    ],
)
def test_a_secret_is_in_no_error(tmp_path: Path, line: str) -> None:
    assert "hunter2" not in mistake(endpoint(line), tmp_path, {"SECRET": SECRET})


# Policies of the operator's own.


def with_policies(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "mine"
    for name, text in files.items():
        file = folder.joinpath(*name.split("__"))
        file = file.with_suffix(".py" if "__" in name else ".yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


MINE = ONE_ENDPOINT + "policy: special\npolicies: ./mine\n"
SPECIAL = "minimize: {in_flight: 1}\npick: lowest\n"


def test_policies_are_found_beside_the_config(tmp_path: Path) -> None:
    config, rules = read(MINE, with_policies(tmp_path, special=SPECIAL))
    assert (list(rules.policies), config.policies) == (["special"], tmp_path / "mine")


def test_an_operators_policy_replaces_the_packages(tmp_path: Path) -> None:
    text = MINE.replace("special", "cache_aware")
    _, rules = read(text, with_policies(tmp_path, cache_aware=SPECIAL))
    assert rules.policies["cache_aware"].filters == {}


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("pick: lowest", "special.yaml:1: a policy needs 'minimize'"),
        (SPECIAL + "filters:\n  - healthy\n  - hale\n", "special.yaml:5: filters[1]: no filter is"),
        (
            "minimize: {in_flight: 1}\npick:\n  lowest:\n    tie: x\n",
            "special.yaml:4: pick.lowest.tie: 'x' is not a number",
        ),
        ("minimize:\n  in_flight: x\npick: lowest", "special.yaml:2: minimize.in_flight: 'x' is"),
        (SPECIAL + "minimize: {in_flight: 2}", "special.yaml:3: minimize: stands here twice"),
        ("minimize: {in_flight: 1", "special.yaml:1: is not YAML"),
        (
            SPECIAL + "fallback:\n  models:\n    - m\n    - zzz\n",
            "special.yaml:6: fallback.models[1]: no endpoint serves 'zzz'; known: m",
        ),
        (
            SPECIAL + "classes:\n  batch: {}\n  interactve: {}\n",
            "special.yaml:5: classes.interactve: there is no class 'interactve'",
        ),
    ],
)
def test_a_mistake_in_a_policy_is_named_with_its_own_file_and_line(
    tmp_path: Path, policy: str, says: str
) -> None:
    assert mistake(MINE, with_policies(tmp_path, special=policy)).startswith(f"mine/{says}")


def test_a_part_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    folder = with_policies(tmp_path, special=SPECIAL, filters__avoids="import nothing_like_it")
    says = "config.yaml:3: policies: mine/filters/avoids.py cannot be imported: ModuleNotFoundError"
    assert mistake(MINE, folder).startswith(says)


# Several policies, one for each request.

RULES = """
policy:
  - {use: fastest, match: {tenant: acme}}
  - {use: balanced, match: {model: m, header: {X-Team: search}}}
  - {use: fastest, match: {header: {x-urgent: "1"}}}
  - {use: special}
"""


def test_the_first_rule_that_matches_names_the_policy(tmp_path: Path) -> None:
    text = ONE_ENDPOINT + RULES + "policies: ./mine\n"
    _, rules = read(text, with_policies(tmp_path, special=SPECIAL))

    def chosen(request: InferenceRequest, **headers: str) -> str:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return rules.policy_for(request, given).name

    assert chosen(chat(tenant="acme"), x_team="search") == "fastest"
    assert chosen(chat(tenant="other"), x_team="search") == "balanced"
    assert chosen(chat(tenant="other", model="n"), x_team="search") == "special"
    assert chosen(chat(tenant="other"), x_team="find") == "special"
    assert chosen(chat(tenant="other"), x_urgent="1") == "fastest"
    assert list(rules.policies) == ["fastest", "balanced", "special"]


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("[]", "policy: needs at least one rule"),
        ("[{use: fastst}]", "policy[0].use: no policy is called 'fastst'; known: balanced, "),
        ("[{match: {tenant: a}}]", "policy[0]: needs 'use'"),
        ("[{use: fastest, match: {team: a}}]", "policy[0].match.team: there is no such key"),
        ("[{use: fastest, match: {tenant: a}}]", "policy[0]: the last rule has no match, and"),
        ("[{use: fastest}, {use: balanced}]", "policy[0]: the last rule has no match, and every"),
        (
            "[{use: fastest, match: {model: typo}}, {use: balanced}]",
            "policy[0].match.model: no endpoint serves 'typo'; known: m",
        ),
        (
            "[{use: fastest, match: {request: {needs: [tools, toolz]}}}, {use: balanced}]",
            "policy[0].match.request: needs are some of: tools, json_schema, ",
        ),
        ("[fastest]", "policy[0]: must be a mapping of keys to values"),
        ("{use: fastest}", "policy: must be a string, not a mapping"),
    ],
)
def test_rules_that_cannot_be_are_refused(tmp_path: Path, policy: str, says: str) -> None:
    message = mistake(ONE_ENDPOINT + f"policy: {policy}", tmp_path)
    assert message.startswith(f"config.yaml:2: {says}")
