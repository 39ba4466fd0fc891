"""`python -m tests.notebook`: docs/notebook.ipynb, run from its first cell to its last; about a minute."""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PAGE = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
CELLS = [
    """# Which layer, before anything is trained?

A small model and real tweets, both from the package index. Rows and labels of your own are lists, arrays or columns of
a data frame: [in Python](python.md).""",
    """
import layerscout

answer = layerscout.sweep(
    "wheel:minilm-l6", "wheel:election-tweets", max_train_rows=1_000, max_test_rows=1_000, device="cpu"
)
answer
""",
    "What every layer was worth. Accuracy is that of a linear probe on test rows that the choice never saw.",
    """
answer.curve.select("layer", "depth", "silhouette_cosine", "accuracy", "marks")
""",
    "Other rules would have chosen other layers. `regret` is what each fell short of the best one, 0 … 1.",
    """
audit = answer.tables["audit"].filter(pooling=answer.pooling)
audit.select("rule", "chosen_layer", "chosen_accuracy", "regret").sort("regret")
""",
    "New texts at the chosen layer; the blocks behind it are not run.",
    """
answer.encode(["What a debate!", "I am voting early."]).shape
""",
    """The model, cut after the layer, with a linear head for these labels: `AutoModel`, sentence-transformers and
`python tweets-model/predict.py "a text"` read the folder.""",
    """
answer.export("tweets-model").accuracy
""",
]


def notebook() -> nbformat.NotebookNode:
    """The cells, without what they print."""
    made = nbformat.v4.new_notebook()
    for place, source in enumerate(CELLS):
        new = nbformat.v4.new_code_cell if source.startswith("\n") else nbformat.v4.new_markdown_cell
        made.cells.append(new(source.strip(), id=f"cell-{place}"))
    return made


def run(cells: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run every cell in a kernel whose working folder is `folder`; what raises ends it."""
    return NotebookClient(cells, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()


def results(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """What the last line of a cell shows."""
    return [each for each in cell.get("outputs", []) if each["output_type"] == "execute_result"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        done = run(notebook(), Path(scratch))
    for cell in done.cells:  # what says when and where it ran
        cell.metadata = {}
        if cell.cell_type == "code":  # nor its progress
            cell.outputs = results(cell)
    nbformat.write(done, PAGE)
