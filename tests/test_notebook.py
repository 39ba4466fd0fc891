"""The notebook in docs/ runs from its first cell to its last, and shows what it says."""

from pathlib import Path

import nbformat

from tests.notebook import CELLS, PAGE, notebook, results, run


def test_it_runs_and_the_committed_one_is_of_these_cells(tmp_path: Path) -> None:
    committed = nbformat.read(PAGE, as_version=4)
    assert [cell.source for cell in committed.cells] == [cell.strip() for cell in CELLS]
    done = run(notebook(), tmp_path)
    for cells in (done.cells, committed.cells):
        shown = [output["data"] for cell in cells for output in results(cell)]
        assert "<svg" in shown[0]["text/html"]
        assert "Take layer" in shown[0]["text/html"]
        assert shown[-2]["text/plain"] == "(2, 384)"
        assert float(shown[-1]["text/plain"]) > 0.5
    assert (tmp_path / "tweets-model" / "predict.py").is_file()
