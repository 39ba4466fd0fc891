"""Changes to the code that a test has to notice: the short form of `make mutants`, one a kind of room."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# File, what stands there, what it becomes, and who notices.
CHANGES = {
    "silhouette": (
        "tasks/scoring/silhouette_definition.py",
        "others = counts[own] - 1.0",
        "others = counts[own] - 0.0",
        "tests/tasks/scoring/test_silhouette.py::test_agrees_with_scikit_learn",
    ),
    "ridge": (
        "tasks/scoring/ridge.py",
        ".double() + 1.0 / n",
        ".double() - 1.0 / n",
        "tests/tasks/scoring/test_criteria.py::test_ridge_leave_one_out_is_refitting_without_each_row",
    ),
    "inflection": (
        "tasks/choosing/inflection.py",
        "heading = -1 if kind is Kind.PEAK else 1",
        "heading = 1 if kind is Kind.PEAK else -1",
        "tests/tasks/choosing/test_inflection.py",
    ),
    "audit": (
        "tasks/choosing/audit.py",
        "measured = right[:, measured_on]",
        "measured = right[:, found_on]",
        "tests/tasks/choosing/test_audit.py",
    ),
    "storage": (
        "storage/staged.py",
        "whole = hashlib.sha256(unsealed).hexdigest().encode() ==",
        "whole = hashlib.sha256(unsealed).hexdigest().encode() !=",
        "tests/storage/test_staged.py",
    ),
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code and its tests, to be changed; unchanged they pass."""
    copy = tmp_path_factory.mktemp("mutants")
    for folder in ("flows", "tasks", "storage", "tests"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "fixtures")
        )
    shutil.copyfile(ROOT / "pyproject.toml", copy / "pyproject.toml")
    whole = tried(copy, *(tests for _, _, _, tests in CHANGES.values()))
    assert whole.returncode == 0, whole.stdout
    return copy


def tried(copy: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change: str, copied: Path) -> None:
    file, stands, becomes, tests = CHANGES[change]
    place = copied / file
    code = place.read_text()
    assert code.count(stands) == 1, f"{file} has {stands!r} no more: change something else of it"
    place.write_text(code.replace(stands, becomes))
    try:
        changed = tried(copied, tests)
    finally:
        place.write_text(code)
    # 1: some test failed; anything else is a run that did not take place.
    assert changed.returncode == 1, changed.stdout
