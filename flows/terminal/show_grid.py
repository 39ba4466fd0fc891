"""What the terminal shows of a grid: its pairs beforehand, their answers afterwards."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.grid import GridOutcome
from flows.parameters import SweepParameters
from flows.terminal.query_rows import format_rows, printable
from storage.results import query


def show_pairs(pairs: list[tuple[SweepParameters, str, str]]) -> None:
    """What a grid would run: each pair, with what is known of its model and its data set."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("pair", "model", "", "data set", ""):
        table.add_column(heading, overflow="fold")
    for number, (pair, model, dataset) in enumerate(pairs, start=1):
        words = (str(number), pair.model, model, pair.dataset, dataset)
        table.add_row(*(Text(printable(each)) for each in words))
    Console(highlight=False, width=None if Console().is_terminal else 240).print(table)
    print(f"{len(pairs)} pair{'' if len(pairs) == 1 else 's'}; nothing was run.")


def show_grid(outcome: GridOutcome) -> None:
    """The answer of each pair, and where the comparison is."""
    ids = ", ".join(f"'{run_id}'" for run_id in outcome.run_ids)
    has_prompts = f"SELECT count(prompt) > 0 FROM run WHERE run_id IN ({ids})"
    prompt = "prompt, " if query(outcome.layout.results, has_prompts).item() else ""
    print(
        format_rows(
            query(
                outcome.layout.results,
                f"SELECT model_id, dataset_id, {prompt}pooling, norm_state, chosen_layer, best_layer, chosen_accuracy, "
                f"last_accuracy, regret, gain_over_last, p_value FROM leaderboard WHERE run_id IN ({ids}) "
                "ORDER BY model_id, dataset_id",
            ),
            "table",
        )
    )
    print(
        f"\ndatabase   {outcome.layout.results}\ncomparison {outcome.files.folder}\nreport     {outcome.files.html}"
    )
