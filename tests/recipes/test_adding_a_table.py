"""CONTRIBUTING.md, "A table": one migration and one call that stages its rows; runs from before it are still served."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import task

from flows import layer_sweep as recipe
from storage import migrations
from storage.migrations import result_tables
from storage.staged import rows_of, stage
from tasks.choosing.curve_choice import CurveChoice, audit
from tasks.curves import CurveOfRun
from tasks.reporting.run_record import collect, rebuild_database
from tests.recipes.conftest import Sweep, page, rows

SQL = """
-- How many layers a curve has.
CREATE TABLE toy (
    run_id VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    layers INTEGER NOT NULL CHECK (layers >= 1),
    PRIMARY KEY (run_id, pooling, norm_state)
);
COMMENT ON TABLE toy IS 'How many layers a curve has.';
"""


@pytest.fixture
def toy_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One migration more than there is."""
    with_it = [*migrations.migrations(), (999, "toy", SQL)]
    monkeypatch.setattr(migrations, "migrations", lambda: with_it)
    result_tables.cache_clear()
    yield
    monkeypatch.undo()
    result_tables.cache_clear()


def test_a_table_is_one_migration_and_one_call(
    sweep: Sweep, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sweep(seed=1)
    request.getfixturevalue("toy_table")

    @task(name="audit")
    def with_toy(curve: CurveOfRun, chosen: CurveChoice) -> None:
        audit(curve, chosen)
        layers = [{"layers": curve.read("probe").height}]
        stage(curve.layout, curve.run_id, "toy", curve.part, rows_of("toy", curve.key(), layers))

    monkeypatch.setattr(recipe, "audit_task", with_toy)
    after = sweep(seed=2)
    assert rows(after, "FROM toy").rows() == [(after.run_id, "mean", "as_returned", 4)]
    assert "toy 1" in page(after)
    # The run from before it has none, and is reported and rebuilt all the same.
    assert collect(before.layout, before.run_id)["toy"].is_empty()
    Path(after.layout.results).unlink()
    assert set(rebuild_database(after.layout).runs) == {before.run_id, after.run_id}
    assert rows(after, "FROM toy").height == 1
