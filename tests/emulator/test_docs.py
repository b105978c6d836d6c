"""docs/emulator.md is true: its tables are those of the code, its script is one."""

from __future__ import annotations

from pathlib import Path

from gateway.emulator.page import behaviours_table, knobs_table, profiles_table, settings_table
from gateway.emulator.profile import Basis
from gateway.emulator.profiles import profiles
from gateway.emulator.script import parse_script

PAGE = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text()


def test_its_tables_are_the_codes() -> None:
    for table in (behaviours_table(), knobs_table(), profiles_table(), settings_table()):
        assert table in PAGE, f"docs/emulator.md needs this table as it is now:\n{table}"


def test_its_script_is_one() -> None:
    script = parse_script(PAGE.partition("   ```yaml\n")[2].partition("   ```")[0])
    assert len(script.rules) == 3
    assert script.settings["together"] == {"requests_per_minute": 30, "replicas": 2}


def test_every_profile_says_of_each_behaviour_whether_it_is_documented() -> None:
    for profile in profiles().values():
        bases = {behaviour.basis for behaviour in profile.behaviours}
        assert bases == {Basis.DOCUMENTED, Basis.INFERRED}, profile.name
        assert profile.reads
