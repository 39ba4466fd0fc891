"""Imports go one way (flows, tasks, storage; the contracts stand in pyproject.toml), and the heavy ones come late."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("flows", "tasks", "storage")
# Declared, and imported by somebody else for us.
THROUGH_TRANSFORMERS = {
    "gguf",  # reads GGUF files
    "sentencepiece",  # reads the tokenizers of older families
}
# Where these are not installed, their import is what says so in words; the names in use are their own.
EXTRAS = {"prefect_dask": "prefect-dask", "prefect_ray": "prefect-ray", "dask": "dask", "ray": "ray"}


def test_import_contracts_hold() -> None:
    # In a process of its own: it switches off every logger that there is.
    lint = "import sys; from importlinter import cli; sys.exit(cli.lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_command_line_waits_for_no_heavy_library() -> None:
    """`layerscout sql` and `--help` answer at once; what a CSV's sweep does not use is not imported."""
    imports = "flows.cli", "flows.layer_sweep, flows.terminal.show_sweep", "flows.export"
    code = "; ".join(["import sys", *(f"import {each}; print(*sys.modules)" for each in imports)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    command, sweep, export = (set(line.split()) for line in done.stdout.splitlines())
    assert "pydantic" in command
    assert not command & {"torch", "transformers", "prefect", "polars", "duckdb"}
    assert "torch" in sweep
    assert not sweep & {"sklearn", "scipy.stats", "datasets", "pandas", "matplotlib"}
    # What loads a model's weights, and brings torch's compiler with it: a repeat, a report or an error needs none. One
    # annotation that is evaluated is enough to import it.
    assert not export & {"transformers.modeling_utils", "accelerate", "torch._dynamo"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = _named(project["dependencies"])
    extras = project["optional-dependencies"]
    optional = _named([*extras["dask"], *extras["ray"], *extras["zarr"]])
    known = packages_distributions() | {name: [of] for name, of in EXTRAS.items()}
    imported = {_normal(name) for module in _imported() for name in known.get(module, [module])}
    # distributed brings dask, as its other half; what lies beside an exported model is run by who has the library.
    assert imported - {"dask", "sentence-transformers"} - declared - optional == set()
    assert (declared | optional) - imported == THROUGH_TRANSFORMERS


def _imported() -> set[str]:
    """The top names of all packages that a room imports anywhere, without Python's own and ours."""
    found: set[str] = set()
    for file in (each for room in ROOMS for each in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {each.name.split(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - set(ROOMS)


def _named(requirements: list[str]) -> set[str]:
    return {_normal(re.split(r"[^A-Za-z0-9._-]", each)[0]) for each in requirements}


def _normal(distribution: str) -> str:
    """As package indexes compare names."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
