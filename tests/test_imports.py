"""Imports go one way (flows, tasks, storage; the contracts stand in pyproject.toml), and the heavy ones come late."""

import subprocess
import sys

from importlinter import cli


def test_import_contracts_hold() -> None:
    assert cli.lint_imports(no_cache=True) == 0


def test_the_command_line_waits_for_no_heavy_library() -> None:
    """`layerscout sql` and `--help` answer at once; what a CSV's sweep does not use is not imported."""
    code = "import sys, flows.cli; print(*sys.modules); "
    code += "import flows.layer_sweep, flows.terminal.show_sweep; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    command, sweep = (set(line.split()) for line in done.stdout.splitlines())
    assert "pydantic" in command
    assert not command & {"torch", "transformers", "prefect", "polars", "duckdb"}
    assert "torch" in sweep
    assert not sweep & {"sklearn", "scipy.stats", "datasets", "pandas"}
