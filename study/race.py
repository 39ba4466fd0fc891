"""`python -m study.race STORAGE [TABLE]`: what races over rows would have chosen in the runs of study/race.yaml.

The runs of `layerscout grid study/race.yaml` have embedded and scored every row; those of one model and data set with
several prompts (study/race_prompts.yaml) are one race. Each race is run again from their embeddings, five times with
rows in other turns. Its layer is judged by the test rows, of the probe that was fitted on all train rows; and, since
500 test rows do not tell layers apart that lie a point from each other, by the train rows as well that the race never
read, of ridge regression on all train rows but the one. `results/race.csv` has a row a race, reach, confidence and
draw.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from storage.embeddings import read_layer
from storage.layout import Layout
from storage.sources.grammar import parse_source
from storage.staged import read_staged
from study.measures import held_out_best, mean_of_sets
from tasks.choosing.curve_choice import by_layer
from tasks.choosing.expectation import NEAR, Expectation
from tasks.choosing.race import Contender, LeftOut, Step, extrapolated, judge, step_sizes
from tasks.data.splits import stratified_sample
from tasks.machine import CORES
from tasks.numerics.cores import use_threads
from tasks.scoring.ridge import ridge_leave_one_out
from tasks.vocabulary import NO_PROMPT, NormState, Pooling

RESULTS = Path(__file__).parent / "results" / "race.csv"
UNTIL = (0.75, 0.8, 0.85, 0.9)
WITHIN = (NEAR, 0.01)
DRAWS = 5
MOST_ROWS = 8_000
"""Of a step; a race that goes on counts as having read all rows."""


@dataclass(frozen=True)
class Candidates:
    """Every layer of both poolings with each prompt of one model and data set, C in all."""

    model: str
    dataset: str
    sizes: list[int]
    contenders: dict[Contender, slice]
    """Which of the C are whose."""
    left_out: dict[str, NDArray[Any]]
    """`loss:DRAW:ROWS` → float32 [C, rows] in nats and `hit:DRAW:ROWS` → bool [C, rows]."""
    correct: NDArray[np.bool_]
    """[C, test rows]."""
    turns: NDArray[np.integer]
    """[DRAWS, train rows]: the place of each row in the data set, in the turn in which a race reads them."""

    def steps(self, draw: int, until: float, within: float) -> Iterator[Step]:
        """As `flows.race` would judge them, to the one that ends it."""
        staying = list(self.contenders)
        for number in range(len(self.sizes)):
            seen = {each: self._seen(self.contenders[each], draw, number) for each in staying}
            step = judge(seen, self.sizes[-1], until=until, within=within, seed=draw)
            yield step
            if step.leader.chance >= until and (number or len(self.sizes) == 1):
                return
            staying = [each.contender for each in step.standings if each.stays] or [step.leader.contender]

    def _seen(self, own: slice, draw: int, number: int) -> LeftOut:
        rows = self.sizes[number]
        if (
            number == len(self.sizes) - 1
        ):  # all rows, whatever their turn: there is nothing left to tell of more
            return LeftOut(self.left_out[f"loss:0:{rows}"][own], self.left_out[f"hit:0:{rows}"][own], None)
        before = self.left_out[f"loss:{draw}:{self.sizes[number - 1]}"][own] if number else None
        return LeftOut(
            self.left_out[f"loss:{draw}:{rows}"][own], self.left_out[f"hit:{draw}:{rows}"][own], before
        )

    def split_regret(self, candidate: int) -> float:
        """As `study.measures.split_regret`, over all candidates."""
        return _short_of_best(self.correct, candidate)

    def unread_regret(self, candidate: int, draw: int, rows: int) -> float:
        """The same by the test rows and the train rows beyond the first `rows` of a draw's turn."""
        # What was left out of all rows lies in the first draw's turn.
        column_of = np.argsort(self.turns[0])
        unread = self.left_out[f"hit:0:{self.sizes[-1]}"][:, column_of[self.turns[draw, rows:]]]
        return _short_of_best(np.hstack([self.correct, unread]), candidate)

    def best_of_all_rows(self) -> int:
        """The candidate with the lowest left-out log loss over all train rows: what a whole sweep takes."""
        return int(self.left_out[f"loss:0:{self.sizes[-1]}"].mean(axis=1).argmin())


def _short_of_best(correct: NDArray[np.bool_], candidate: int) -> float:
    return held_out_best(correct) - float(correct[candidate].mean())


def main(storage: str, results: str | Path = RESULTS) -> None:
    """Run the races of all finished runs, write the table, and tell the means over sets."""
    raced: dict[tuple[str, str], list[Candidates]] = {}
    for folder in sorted(Path(storage, "staged").iterdir()):
        if (folder / "execution").is_dir():
            own = _candidates(storage, folder.name)
            raced.setdefault((own.model, own.dataset), []).append(own)
    rows = [row for runs in raced.values() for row in _races(together(runs))]
    table = pl.DataFrame(rows).sort("within", "until", "model", "dataset", "draw")
    table.write_csv(results, float_precision=5)
    for (model, within, until), part in table.group_by("model", "within", "until", maintain_order=True):
        told = ("share", "blocks", "blocks_with_answer", "chance", "near", "near_of_unread")
        by_set = part.group_by("dataset").agg(pl.col("above_all_rows", *told).mean())
        means = {name: float(by_set[name].to_numpy().mean()) for name in told}
        mean, low, high = mean_of_sets(by_set["above_all_rows"].to_list())
        short = 100 * (part["expected_accuracy"] - part["left_out_accuracy"]).to_numpy()
        worst = 100 * part["above_all_rows"].to_numpy().max()
        print(
            f"{model!s}, within {within!s} until {until!s}, {len(by_set)} sets: {means['share']:.1%} of the rows, "
            f"{means['blocks']:.0%} of their blocks in play, {means['blocks_with_answer']:.0%} with all of the "
            f"answer's; split regret above that of all rows {100 * mean:+.2f} points ({100 * low:+.2f} to "
            f"{100 * high:+.2f}), worst {worst:+.2f}; told {means['chance']:.2f}, near {means['near']:.2f}, by unread "
            f"rows too {means['near_of_unread']:.2f}; accuracy told for all rows above what it is {short.mean():+.1f} "
            f"points, {short.min():+.1f} to {short.max():+.1f}"
        )


def _races(run: Candidates) -> Iterator[dict[str, Any]]:
    of_all = run.split_regret(run.best_of_all_rows())
    for within, until in product(WITHIN, UNTIL):
        for draw in range(DRAWS):
            steps = list(run.steps(draw, until, within))
            blocks, with_answer = share_of_blocks(steps, run, draw, until, within)
            last, leader = steps[-1], steps[-1].leader
            candidate = run.contenders[leader.contender].start + leader.layer
            regret = run.split_regret(candidate)
            of_unread = run.unread_regret(candidate, draw, last.rows)
            yield {
                "model": run.model,
                "dataset": run.dataset,
                "within": within,
                "until": until,
                "draw": draw,
                "train_rows": last.rows,
                "share": share_embedded(steps, run),
                "blocks": blocks,
                "blocks_with_answer": with_answer,
                "prompt": leader.contender.prompt,
                "pooling": leader.contender.pooling.value,
                "layer": leader.layer,
                "chance": leader.chance,
                "expected_accuracy": leader.expected_accuracy,
                "left_out_accuracy": float(run.left_out[f"hit:0:{run.sizes[-1]}"][candidate].mean()),
                "split_regret": regret,
                "near": regret <= within,
                "unread_regret": of_unread,
                "near_of_unread": of_unread <= within,
                "above_all_rows": regret - of_all,
            }


def share_embedded(steps: Sequence[Step], run: Candidates) -> float:
    """Rows that are embedded, summed over the prompts, over all rows with every one of them.

    Without a prompt all that were read are in the end, to tell what the one that won is worth.
    """
    prompts = {each.prompt for each in run.contenders}
    read = {each.contender.prompt: step.rows for step in steps for each in step.standings}
    if NO_PROMPT in prompts:
        read[NO_PROMPT] = steps[-1].rows
    return sum(read.values()) / (run.sizes[-1] * len(prompts))


def share_of_blocks(
    steps: Sequence[Step], run: Candidates, draw: int, until: float, within: float
) -> tuple[float, float]:
    """Of the blocks that ran over the rows of a race, those up to the highest layer of each prompt that was still in
    play: with a chance of at least 1 − until after the step before. In the first step all run. And the same with all
    blocks over the winner's rows once more, if any had not run: its answer is compared with the last layer."""
    blocks = max(own.stop - own.start for own in run.contenders.values()) - 1
    ran = needed = blocks * steps[0].rows * len({each.contender.prompt for each in steps[0].standings})
    cut = set()
    for number, (before, step) in enumerate(pairwise(steps)):
        seen = {
            each.contender: run._seen(run.contenders[each.contender], draw, number)
            for each in before.standings
        }
        told = np.concatenate([extrapolated(each, run.sizes[-1]) for each in seen.values()])
        expected = Expectation.of(told, np.concatenate([each.correct for each in seen.values()]), seed=draw)
        layers = np.concatenate([np.arange(len(each.log_loss)) for each in seen.values()])
        chances = np.array([expected.confidence(place, within) for place in range(len(layers))])
        prompts = np.repeat([each.prompt for each in seen], [len(each.log_loss) for each in seen.values()])
        for prompt in {each.contender.prompt for each in step.standings}:
            own = prompts == prompt
            highest = int(layers[own & (chances >= min(1 - until, chances[own].max()))].max())
            ran += (step.rows - before.rows) * blocks
            needed += (step.rows - before.rows) * highest
            if highest < blocks:
                cut.add(prompt)
    again = steps[-1].rows * blocks if steps[-1].leader.contender.prompt in cut else 0
    return needed / ran, (needed + again) / ran


def together(runs: Sequence[Candidates]) -> Candidates:
    """The candidates of several runs that have read the same rows in the same turns, each with a prompt of its own."""
    first, start = runs[0], 0
    contenders: dict[Contender, slice] = {}
    for run in runs:
        if run.sizes != first.sizes or not np.array_equal(run.turns, first.turns):
            raise ValueError(f"runs of {first.model} on {first.dataset} have read other rows")
        if contenders.keys() & run.contenders.keys():
            raise ValueError(f"two runs of {first.model} on {first.dataset} have the same prompt")
        contenders |= {
            each: slice(start + own.start, start + own.stop) for each, own in run.contenders.items()
        }
        start += len(run.correct)
    left_out = {name: np.concatenate([run.left_out[name] for run in runs]) for name in first.left_out}
    correct = np.concatenate([run.correct for run in runs])
    return replace(first, contenders=contenders, left_out=left_out, correct=correct)


def _candidates(storage: str, run_id: str) -> Candidates:
    layout = Layout(storage)
    run = read_staged(layout, run_id, "run").row(0, named=True)
    dataset = read_staged(layout, run_id, "dataset").row(0, named=True)
    prompt = json.loads(run["parameters"]).get("prompt", NO_PROMPT)
    predicted = read_staged(layout, run_id, "prediction").with_columns(
        correct=pl.col("label") == pl.col("predicted")
    )
    correct: list[NDArray[np.bool_]] = []
    contenders: dict[Contender, slice] = {}
    for pooling in (Pooling.MEAN, Pooling.LAST):
        own = by_layer(predicted.filter(pooling=pooling.value), "correct")
        start = sum(len(each) for each in correct)
        contenders[Contender(prompt, pooling, NormState.AS_RETURNED)] = slice(start, start + len(own))
        correct.append(own)
    steps = step_sizes(dataset["train_rows"], len(dataset["classes"]))
    sizes = [*(size for size in steps[:-1] if size <= MOST_ROWS), steps[-1]]
    kept = Path(storage, "races", f"{run_id}.npz")
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        np.savez_compressed(kept, **_leave_out(layout, run, run_id, contenders, sizes))
        print(kept.name, flush=True)
    with np.load(kept) as arrays:
        left_out = dict(arrays)
    model, dataset_name = (parse_source(run[each]).short_name for each in ("model_id", "dataset_id"))
    turns = left_out.pop("turns")
    return Candidates(model, dataset_name, sizes, contenders, left_out, np.concatenate(correct), turns)


def _leave_out(
    layout: Layout,
    run: dict[str, Any],
    run_id: str,
    contenders: dict[Contender, slice],
    sizes: list[int],
) -> dict[str, Any]:
    shards = read_staged(layout, run_id, "embedding_set")["shards"].item()
    uris = [layout.shard(run["embedding_set_id"], index) for index in range(shards)]
    rows = read_layer(uris, layer=0, norm_state="as_returned", pooling="mean")
    labels = pl.DataFrame({"value": rows.label[: sizes[-1]]}).with_row_index("place")
    turns = [stratified_sample(labels, None, draw, in_turn=True)["place"].to_numpy() for draw in range(DRAWS)]

    def leave_out(pooling: str, layer: int) -> dict[str, NDArray[Any]]:
        use_threads(1)
        found = read_layer(uris, layer=layer, norm_state="as_returned", pooling=pooling)
        told: dict[str, NDArray[Any]] = {}
        for draw, turn in enumerate(turns):
            for size in sizes if draw == 0 else sizes[:-1]:
                first = turn[:size]
                ridge = ridge_leave_one_out(found.embeddings[first], found.label[first])
                told[f"loss:{draw}:{size}"] = ridge.log_loss.astype(np.float32)
                told[f"hit:{draw}:{size}"] = ridge.correct
        return told

    wanted = [
        (each.pooling.value, layer)
        for each, own in contenders.items()
        for layer in range(own.stop - own.start)
    ]
    with ThreadPoolExecutor(CORES) as executor:
        by_candidate = list(executor.map(leave_out, *zip(*wanted, strict=True)))
    told = {name: np.stack([each[name] for each in by_candidate]) for name in by_candidate[0]}
    return told | {"turns": np.stack(turns)}


if __name__ == "__main__":
    main(*sys.argv[1:])
