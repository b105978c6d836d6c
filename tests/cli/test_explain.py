"""`gateway explain`, on a config where every number can be done by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.cli.explain import ESTIMATES, Explanation, Row, table

CONFIG = """
policy: [{match: {tenant: acme, header: {x-fast: "1"}}, use: fastest}, {use: mine}]
policies: ./policies
endpoints:
  near: {base_url: "http://near/v1", models: [m], dedicated: true}
  away: {base_url: "http://away/v1", models: [m], prices: {m: {input: 0, output: 5}}}
  dear: {base_url: "http://dear/v1", models: [m], prices: {m: {input: 0, output: 600}}}
  other: {base_url: "http://other/v1", models: [n]}
"""
MINE = """
filters: [serves_model, healthy]
hard: {cost_usd: 0.05}
minimize: {dollars: 1, waiting: 0.002}
pick: {lowest: {tie: 0}}
"""
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mine.yaml").write_text(MINE)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "request.json").write_text(json.dumps(REQUEST))
    files = ("--config", str(tmp_path / "config.yaml"), "--request", str(tmp_path / "request.json"))
    return ["explain", *files]


def test_json_has_the_order_the_terms_the_margin_and_the_dropped(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["policy"], told["model"], told["output_tokens"]) == ("mine", "m", 100)
    assert [row["endpoint"] for row in told["ranked"]] == ["near", "away"]
    near, away = told["ranked"]
    assert near["terms"] == {"dollars": 0, "waiting": 0.002 * near["estimate"]["ttft_s"]}
    assert away["terms"]["dollars"] == pytest.approx(100 * 5e-6)
    assert away["cost"] == sum(away["terms"].values())
    assert told["margin"] == away["cost"] - near["cost"]
    assert told["dropped"] == {"other": "serves_model", "dear": "hard.cost_usd"}


def test_the_table_says_the_same_to_people(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    first, head, near, away, margin, *dropped = capsys.readouterr().out.splitlines()
    assert first.startswith("policy mine, model m: ")
    assert head.split()[:5] == ["endpoint", "cost", "dollars", "waiting", "ttft_s"]
    assert near.split()[0] == "near"
    assert away.split()[:3:2] == ["away", "0.0005"]
    assert margin == "near comes before away, which costs 0.0005 more"
    assert dropped == ["other was dropped by serves_model", "dear was dropped by hard.cost_usd"]


def test_the_configs_rules_see_tenant_and_headers(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*arguments, "--tenant", "acme", "--header", "X-Fast: 1"])
    assert capsys.readouterr().out.startswith("policy fastest, ")
    main([*arguments, "--tenant", "acme"])
    assert capsys.readouterr().out.startswith("policy mine, ")


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ('{"model": "x", "messages": [{"role": "user"}]}', "no model is called 'x'; there are: m"),
        ('{"model": "m", "prompt": ""}', "'prompt' must not be empty"),
        ("hello", "gateway explain: "),
        (None, "No such file"),
    ],
)
def test_what_cannot_be_explained_is_said_with_exit_code_2(
    arguments: list[str],
    request_: str | None,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = Path(arguments[-1])
    file.unlink() if request_ is None else file.write_text(request_)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err


def test_nobody_to_choose_from_is_explained_too(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Path(arguments[2]).parent / "policies" / "mine.yaml"
    mine.write_text(MINE.replace("0.05", "0.0000001").replace("waiting", "in_flight"))
    config = Path(arguments[2])
    config.write_text(CONFIG.replace("dedicated: true", "prices: {m: {input: 9, output: 9}}"))
    assert main(arguments) == 0
    assert "near was dropped by hard.cost_usd" in capsys.readouterr().out


def test_a_model_whose_tokenizer_is_here_has_its_prompt_counted(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG + "tokenizers: {m: cl100k_base}\n")
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["prompt_tokens"], told["prompt_exact"]) == (8, True)


def test_a_replicas_model_is_counted_by_its_own_tokenizer(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("replicas: {m: {model: smollm2}}\n")
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt_exact"] is True


def test_who_would_refuse_now_comes_last_and_that_is_said() -> None:
    first = Row("dear", 2.0, {}, dict.fromkeys(ESTIMATES, 0.0), limited=False)
    last = Row("cheap", 1.0, {}, dict.fromkeys(ESTIMATES, 0.0), limited=True)
    text = table(Explanation("mine", "m", 1, True, 1, [first, last], -1.0, {}))
    assert text.splitlines()[-2:] == [
        "dear comes before cheap, which costs 1 less",
        "cheap comes last, whatever it costs: it says that it would refuse now",
    ]
