"""CONTRIBUTING.md, "A criterion": one function under the decorator, and every sweep can have it."""

import pytest

from tasks.reporting.report_parts import named
from tasks.scoring import criteria
from tasks.scoring.features import Features
from tests.recipes.conftest import Sweep, page


def test_a_criterion_is_one_function_and_reaches_tables_and_report(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criteria, "CRITERIA", dict(criteria.CRITERIA))
    of_the_product = tuple(criteria.CRITERIA)

    @criteria.criterion
    def toy_score(features: Features) -> float:
        """Distance of the class means from the mean of all rows, standardised."""
        return float(features.class_means.square().sum(1).mean())

    outcome = sweep(criterion=(*of_the_product, "toy_score"))
    scores = outcome.tables["criterion"]
    assert sorted(scores["name"].unique()) == sorted([*of_the_product, "toy_score"])
    toy = scores.filter(name="toy_score").sort("layer")
    assert toy["layer"].to_list() == [0, 1, 2, 3]
    # Class words stand in every text, and a random model blurs them from block to block.
    assert toy["value"].to_list() == sorted(toy["value"], reverse=True)
    audited = outcome.tables["score_audit"]["score"].to_list()
    assert {f"criterion:{name}" for name in [*of_the_product, "toy_score"]} <= set(audited)
    shown = page(outcome)
    for name in (*of_the_product, "toy_score"):
        assert f'<th scope="row">{named(name)}</th>' in shown, name
    assert ">toy score</th>" in shown
