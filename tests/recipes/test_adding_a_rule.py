"""CONTRIBUTING.md, "A rule": one record, and it is tried, audited and shown."""

import pytest

from tasks.choosing.rules import RULES, Candidates, Rule
from tests.recipes.conftest import Sweep, page, rows


def test_a_rule_is_one_record(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Candidates(lambda curves: range(1, curves.last), "all layers but both ends ({layers})")
    toy = Rule("inner_logme", inner, "logme", "LogME")
    monkeypatch.setitem(RULES, toy.name, toy)
    outcome = sweep()
    (chosen,) = rows(outcome, "FROM layer_choice WHERE rule = 'inner_logme'").to_dicts()
    assert chosen["layer"] in (1, 2)
    assert "highest LogME" in chosen["reason"]
    assert "of all layers but both ends (1, 2)" in chosen["reason"]
    (audited,) = rows(outcome, "FROM audit WHERE rule = 'inner_logme'").to_dicts()
    assert audited["chosen_layer"] == chosen["layer"]
    assert rows(outcome, "FROM criterion_quality WHERE name = 'inner_logme'").height == 1
    assert "inner logme" in page(outcome).lower()
