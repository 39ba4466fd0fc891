"""`python -m study.attention STORAGE`: does what attention falls on predict the best layer? Of a finished grid.

A measure has a value for each block; the layer that the block reads is the one it speaks of, and the last layer, which
no block reads, is never picked by a measure alone. Beside another score it has there what it has at the layer before.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from storage.layout import Layout
from storage.staged import read_staged
from study.__main__ import RESULTS
from study.curves import Curve, read_curves
from study.measures import set_means, split_regret
from study.rules import DEFAULT, Rule, best_elsewhere, maximum, priced, together
from tasks.choosing.audit import audit_score
from tasks.embedding.attention_measures import MEASURES

RESAMPLES = 10_000
DEFAULT_SCORE, SILHOUETTE = "log_loss", "silhouette:cosine"
_DIGITS = 4


def main(storage: str) -> dict[str, pl.DataFrame]:
    """Write one CSV a table; the tables."""
    curves = with_attention(Layout(storage), read_curves(storage))
    tables = {
        "attention": measure_table(curves),
        "attention_measures": correlation_table(curves),
        "attention_rules": rule_table(curves),
    }
    for name, table in tables.items():
        table.write_csv(RESULTS / f"{name}.csv", float_precision=_DIGITS)
    return tables


def with_attention(layout: Layout, curves: Sequence[Curve]) -> list[Curve]:
    """The curves of runs that have rows of attention, with each measure among their scores as `attention:NAME`, [L]."""
    found = []
    for curve in curves:
        rows = read_staged(layout, curve.run_id, "attention").sort("layer")
        own = {name: rows.filter(measure=name)["value"].to_numpy() for name in MEASURES}
        if not rows.is_empty():
            scores = {f"attention:{name}": np.append(each, each[-1]) for name, each in own.items()}
            found.append(replace(curve, scores={**curve.scores, **scores}))
    return found


def places(name: str) -> dict[str, Rule]:
    """Where a measure's curve stands out: its ends, and the layer after which it rises or falls most."""

    def values(curve: Curve) -> NDArray[np.float64]:
        return curve.scores[f"attention:{name}"][:-1]

    return {
        f"{name} highest": lambda curve: int(values(curve).argmax()),
        f"{name} lowest": lambda curve: int(values(curve).argmin()),
        f"{name} rises most": lambda curve: int(np.diff(values(curve)).argmax()) + 1,
        f"{name} falls most": lambda curve: int(np.diff(values(curve)).argmin()) + 1,
    }


def families() -> dict[str, dict[str, Rule]]:
    """Of each, the rule that is best elsewhere is taken: alone, or beside a score, as `study.rules.together` does."""
    alone = {f"attention alone: {name}": places(name) for name in MEASURES}
    every = {rule: pick for of_measure in alone.values() for rule, pick in of_measure.items()}
    found = {**alone, "attention alone: any measure": every}
    for called, score in (("silhouette", SILHOUETTE), ("default's score", DEFAULT_SCORE)):
        found[f"{called} with a measure"] = {
            f"{called} and {name}": together(score, f"attention:{name}") for name in MEASURES
        }
    return found


def rule_table(curves: Sequence[Curve]) -> pl.DataFrame:
    """One row a rule or family: split regret over data sets, and against each rival, with bootstrap intervals."""
    known: Mapping[str, Rule] = {
        DEFAULT: priced(0.0),
        "last layer": lambda curve: curve.last,
        "best layer on other sets": best_elsewhere(curves),
        SILHOUETTE: maximum(SILHOUETTE),
    }
    picked = {name: [rule(curve) for curve in curves] for name, rule in known.items()}
    rivals = {name: _regrets(curves, layers) for name, layers in picked.items()}
    rows = [_row(curves, name, "", layers, rivals, "") for name, layers in picked.items()]
    for family, rules in families().items():
        tried = {name: [rule(curve) for curve in curves] for name, rule in rules.items()}
        for by in ("dataset", "model"):
            layers, fitted = left_out(curves, tried, by)
            if fitted:
                rows.append(_row(curves, family, by, layers, rivals, "; ".join(sorted(fitted))))
    return pl.DataFrame(rows)


def left_out(
    curves: Sequence[Curve], tried: Mapping[str, Sequence[int]], by: str
) -> tuple[list[int], set[str]]:
    """Each curve's layer by the rule of least mean regret over sets on all that differ in `by`; those rules.

    tried: rule → its layer on each curve.
    """
    regrets = {name: _regrets(curves, layers) for name, layers in tried.items()}
    fitted: dict[str, str] = {}
    for place in sorted({str(getattr(curve, by)) for curve in curves}):
        outside = [i for i, curve in enumerate(curves) if getattr(curve, by) != place]
        if not outside:
            return [], set()
        elsewhere = {
            name: set_means([curves[i] for i in outside], [values[i] for i in outside])
            for name, values in regrets.items()
        }
        fitted[place] = min(elsewhere, key=lambda name: np.mean(list(elsewhere[name].values())))
    layers = [tried[fitted[str(getattr(curve, by))]][i] for i, curve in enumerate(curves)]
    return layers, set(fitted.values())


def correlation_table(curves: Sequence[Curve]) -> pl.DataFrame:
    """One row a measure and model: how closely it follows accuracy over the layers that blocks read, by rank."""
    rows = []
    for model in sorted({curve.model for curve in curves}):
        own = [curve for curve in curves if curve.model == model]
        for name in MEASURES:
            found = [
                audit_score(curve.scores[f"attention:{name}"][:-1], curve.correct[:-1]).rank_correlation
                or 0.0
                for curve in own
            ]
            rows.append(
                {"measure": name, "model": model, "sets": len(own)}
                | _interval("rank_correlation", own, found)
                | {"least": min(found), "most": max(found)}
            )
    return pl.DataFrame(rows)


def measure_table(curves: Sequence[Curve]) -> pl.DataFrame:
    """One row a model, set and layer: every measure, and the accuracy on the test rows."""
    return pl.concat(
        pl.DataFrame(
            {"model": [curve.model] * curve.last, "dataset": [curve.dataset] * curve.last}
            | {"layer": range(curve.last)}
            | {name: curve.scores[f"attention:{name}"][:-1] for name in MEASURES}
            | {"accuracy": curve.accuracy[:-1]}
        )
        for curve in curves
    )


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of one value a data set, sets being drawn."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _row(
    curves: Sequence[Curve],
    name: str,
    by: str,
    layers: Sequence[int],
    rivals: Mapping[str, Sequence[float]],
    fitted: str,
) -> dict[str, Any]:
    regrets = _regrets(curves, layers)
    row: dict[str, Any] = {"rule": name, "left_out_by": by}
    row |= _interval("split_regret", curves, regrets) | {"worst": max(regrets)}
    for rival, theirs in rivals.items():
        beside = [own - their for own, their in zip(regrets, theirs, strict=True)]
        row |= _interval(f"above {rival}", curves, beside)
    return row | {"layers": _counted(curves, layers), "fitted": fitted}


def _counted(curves: Sequence[Curve], layers: Sequence[int]) -> str:
    """Which layers were taken, as `minilm-l6 5 (3), 6 (2); …`: where it is one, the data made no difference."""
    taken: dict[str, Counter[int]] = {}
    for curve, layer in zip(curves, layers, strict=True):
        taken.setdefault(curve.model, Counter())[layer] += 1
    return "; ".join(
        f"{model} " + ", ".join(f"{layer} ({times})" for layer, times in sorted(counts.items()))
        for model, counts in sorted(taken.items())
    )


def _interval(name: str, curves: Sequence[Curve], values: Sequence[float]) -> dict[str, float]:
    means = list(set_means(curves, values).values())
    low, high = bootstrap(means)
    return {name: float(np.mean(means)), f"{name}_low": low, f"{name}_high": high}


def _regrets(curves: Sequence[Curve], layers: Sequence[int]) -> list[float]:
    return [split_regret(curve, layer) for curve, layer in zip(curves, layers, strict=True)]


if __name__ == "__main__":
    for name, table in main(sys.argv[1]).items():
        if name != "attention":
            print(f"\n{name}")
            with pl.Config(tbl_rows=200, tbl_cols=30, tbl_width_chars=240, fmt_str_lengths=70):
                print(table)
