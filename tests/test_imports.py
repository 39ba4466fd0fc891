"""Imports go one way: flows, tasks, storage; the contracts stand in pyproject.toml."""

from importlinter import cli


def test_import_contracts_hold() -> None:
    assert cli.lint_imports(no_cache=True) == 0
