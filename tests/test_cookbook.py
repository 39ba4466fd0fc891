"""What docs/sql.md shows is what its queries print, and it leaves out no view that answers people's questions."""

from pathlib import Path

import duckdb

from storage.migrations import migrate
from tests.cookbook import PAGE, answered, example_storage


def test_every_query_prints_what_is_shown(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert answered(page, example_storage(tmp_path)) == page, "write it anew: python -m tests.cookbook"


def test_every_view_is_taught() -> None:
    with duckdb.connect() as connection:
        migrate(connection)
        views = connection.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    page = PAGE.read_text(encoding="utf-8")
    assert len(views) > 10
    assert [view for (view,) in views if view not in page] == []
