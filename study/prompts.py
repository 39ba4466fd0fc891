"""`python -m study.prompts STORAGE`: what prompts gained in the runs of `layerscout grid study/prompts.yaml`.

Each set's prompt is chosen as `layerscout search` does, by train rows; test rows say what it was worth.
`results/prompts.csv` has a row a set and prompt.
"""

import sys
from pathlib import Path

import polars as pl

from storage.layout import Layout
from storage.results import query
from storage.sources.grammar import parse_source
from study.measures import mean_of_sets
from tasks.choosing.prompt_choice import compare_prompts
from tasks.reporting.run_record import collect
from tasks.vocabulary import NO_PROMPT

RESULTS = Path(__file__).parent / "results" / "prompts.csv"
_ASKED = "SELECT run_id, model_id, dataset_id, coalesce(parameters ->> 'prompt', $1) AS asked FROM run ORDER BY ALL"


def main(storage: str) -> None:
    """Compare the prompts of every model and set, write the table, and tell the means over sets."""
    layout = Layout(storage)
    runs = query(layout.results, _ASKED.replace("$1", f"'{NO_PROMPT}'"))
    rows = []
    for (model, dataset), own in runs.group_by("model_id", "dataset_id", maintain_order=True):
        # Without a prompt first: of equals, the first is taken.
        asked = sorted(own.iter_rows(named=True), key=lambda run: run["asked"] != NO_PROMPT)
        tables = {run["asked"]: collect(layout, run["run_id"]) for run in asked}
        for each in compare_prompts(layout, tables):
            audit = tables[each.prompt]["audit"].filter("is_answer").row(0, named=True)
            over = each.over_no_prompt
            rows.append(
                {
                    "model": parse_source(str(model)).short_name,
                    "dataset": parse_source(str(dataset)).short_name,
                    "prompt": each.prompt,
                    "pooling": each.pooling,
                    "layer": each.layer,
                    "train_score": each.score,
                    "accuracy": each.accuracy,
                    "over_no_prompt": over.difference if over else 0.0,
                    "p_value": over.p_value if over else 1.0,
                    "last_accuracy": audit["last_accuracy"],
                    "is_answer": each.is_answer,
                }
            )
    table = pl.DataFrame(rows).sort("model", "dataset", "prompt")
    table.write_csv(RESULTS, float_precision=5)
    for name, part in [("chosen by train rows", table.filter("is_answer")), *table.group_by("prompt")]:
        gains = part["over_no_prompt"].to_numpy()
        mean, low, high = mean_of_sets(gains.tolist())
        worse = part.filter(pl.col("over_no_prompt") < 0, pl.col("p_value") < 0.05)["dataset"].to_list()
        print(
            f"{name if isinstance(name, str) else name[0]}, {len(part)} sets: {100 * mean:+.2f} points over no "
            f"prompt ({100 * low:+.2f} to {100 * high:+.2f}), worst {100 * gains.min():+.2f}, significantly worse on "
            f"{worse}"
        )


if __name__ == "__main__":
    main(sys.argv[1])
