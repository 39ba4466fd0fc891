"""The answers on docs/sql.md come from the tables in docs/example; `python -m tests.cookbook` writes them anew."""

import io
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import polars as pl

from flows.cli import app
from storage.layout import Layout
from storage.migrations import result_tables
from storage.results import merge

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "sql.md"
ASK = '$ layerscout sql "'


def example_storage(folder: Path) -> str:
    """A storage folder whose database holds the example's runs."""
    tables = {
        table: pl.read_parquet(file)
        for table in result_tables()
        if (file := DOCS / "example" / f"{table}.parquet").exists()
    }
    for run_id in tables["run"]["run_id"]:
        rows = {
            table: frame.filter(run_id=run_id) if "run_id" in frame.columns else frame
            for table, frame in tables.items()
        }
        merge(Layout(str(folder)).results, run_id, rows)
    return str(folder)


def ask(query: str, storage: str) -> str:
    """What `layerscout sql` prints."""
    with redirect_stdout(io.StringIO()) as shown:
        app(["sql", query, "--storage", storage], exit_on_error=False, result_action="return_value")
    return shown.getvalue()


def answered(page: str, storage: str) -> str:
    """The page with what each of its queries prints in the place of what stood there. A query may take many lines."""
    lines = iter(page.splitlines())
    out: list[str] = []
    for line in lines:
        out.append(line)
        if not line.startswith(ASK):
            continue
        command = line
        while not command.endswith('"'):
            out.append(next(lines))
            command += "\n" + out[-1]
        out += ask(command[len(ASK) : -1], storage).splitlines()
        while next(lines) != "```":
            pass
        out.append("```")
    return "\n".join(out) + "\n"


def main() -> None:
    """Write the page anew."""
    with tempfile.TemporaryDirectory(prefix="layerscout-") as folder:
        storage = example_storage(Path(folder))
        PAGE.write_text(answered(PAGE.read_text(encoding="utf-8"), storage), encoding="utf-8")


if __name__ == "__main__":
    main()
