"""`python -m study.prompts STORAGE`: what prompts gained in the runs of `layerscout grid study/prompts.yaml`.

Each set's prompt is chosen as `layerscout search` does, by train rows; test rows say what it was worth. Where layers
were laid side by side, what these gained on top of the prompt's one layer. `results/prompts.csv` has a row a set and
prompt; those of models that the storage has no runs of stay as they are.
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
            side_by_side = tables[each.prompt]["representation"].filter("is_answer")
            of_them = side_by_side.row(0, named=True) if len(side_by_side) else {}
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
                    "layers": of_them.get("size"),
                    "over_one_layer": of_them.get("gain_over_single"),
                    "over_one_layer_p_value": of_them.get("gain_over_single_p_value"),
                    "is_answer": each.is_answer,
                }
            )
    table = pl.DataFrame(rows).sort("model", "dataset", "prompt")
    others = pl.read_csv(RESULTS).filter(~pl.col("model").is_in(table["model"].unique().to_list()))
    kept = pl.concat([others, table], how="diagonal_relaxed").select(table.columns)
    kept.sort("model", "dataset", "prompt").write_csv(RESULTS, float_precision=5)
    for (model,), own in table.group_by("model", maintain_order=True):
        taken, unprompted = own.filter("is_answer"), own.filter(prompt=NO_PROMPT)
        prompted = own.filter(pl.col("prompt") != NO_PROMPT)
        for (prompt,), part in prompted.group_by("prompt", maintain_order=True):
            _tell(f"{model}, {prompt} always, over no prompt", part, "over_no_prompt", "p_value")
        _tell(f"{model}, chosen by train rows, over no prompt", taken, "over_no_prompt", "p_value")
        if taken["layers"].null_count() == 0:
            for name, part in (("without a prompt", unprompted), ("with the chosen prompt", taken)):
                what = f"{model}, layers side by side {name}, over one"
                _tell(what, part, "over_one_layer", "over_one_layer_p_value")
            both = taken.with_columns(both=pl.col("over_no_prompt") + pl.col("over_one_layer"))
            _tell(f"{model}, both, over one layer without a prompt", both, "both")
            last = unprompted.select("dataset", last="last_accuracy")
            over_last = both.join(last, on="dataset").with_columns(
                over_last=pl.col("accuracy") + pl.col("over_one_layer") - pl.col("last")
            )
            _tell(f"{model}, both, over the last layer without a prompt", over_last, "over_last")
    by_set = kept.filter("is_answer").group_by("dataset").agg(pl.col("over_no_prompt").mean())
    _tell("all models in the table, chosen by train rows, over no prompt", by_set, "over_no_prompt")


def _tell(what: str, part: pl.DataFrame, gain: str, p_value: str | None = None) -> None:
    gains = part[gain].to_list()
    mean, low, high = mean_of_sets(gains)
    told = f"{what}, {len(part)} sets: {100 * mean:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"
    worse = part.filter(pl.col(gain) < 0, pl.col(p_value) < 0.05)["dataset"].to_list() if p_value else []
    print(f"{told}, worst {100 * min(gains):+.2f}" + (f", significantly worse on {worse}" if p_value else ""))


if __name__ == "__main__":
    main(sys.argv[1])
