"""`python -m study STORAGE [FOLDER]`: tables and figures of docs/study.md, out of a finished grid's storage folder."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl

from storage.layout import Layout
from storage.results import query
from study import sureness
from study.curves import Curve, read_curves
from study.draws import SIZES, read_draws
from study.measures import OverSets, over_sets, significant_against_last, split_regret
from study.rules import BASELINES, DEFAULT, FAMILIES, Rule, every_rule, fit_left_out, maximum, priced
from tasks.choosing.audit import audit_score
from tasks.choosing.comparison import compare

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images" / "study"
KINDS = {
    "sentiment": (
        "emotion",
        "sst5",
        "customer_reviews",
        "nsmc",
        "tweet_irony",
        "tweet_emoji",
        "offensive3",
        "subj",
    ),
    "topic": (
        "ag_news",
        "medical_abstracts",
        "reuters-r8",
        "reuters-r52",
        "20newsgroups",
        "sms_spam",
        "election-tweets",
    ),
    "intent": ("clinc150", "clinc_domain", "atis_intent"),
    "truth": ("truth_cities", "truth_claims"),
    "question": ("trec6",),
}
LABEL_FREE = ("effective_rank", "intrinsic_dimension", "anisotropy", "top_variance_share")
# Of the database; runs have content ids of their own, and their times are another machine's: neither is a result.
QUERIES = {
    "pairs": "SELECT model, dataset, probe.n_train, probe.n_test, max_length, truncated_share, pair.layers FROM pair "
    "JOIN run USING (run_id) JOIN embedding_set USING (embedding_set_id) "
    "JOIN (SELECT run_id, max(n_train) AS n_train, max(n_test) AS n_test FROM probe GROUP BY run_id) AS probe "
    "USING (run_id) ORDER BY ALL",
    "claims": "SELECT claims.* EXCLUDE (run_id, statement) FROM claims WHERE claim <> 'e'",
}
_DIGITS = 4


def main(storage: str, results: Path = RESULTS, images: Path = IMAGES) -> dict[str, pl.DataFrame]:
    """Write one CSV a table and the reliability plot as SVG; the tables."""
    curves, draws = read_curves(storage), list(read_draws(storage))
    rules = every_rule(curves)
    picks = {name: [rule(curve) for curve in curves] for name, rule in rules.items()}
    tables = {name: query(Layout(storage).results, sql) for name, sql in QUERIES.items()}
    tables["claims_counted"] = count_claims(tables.pop("claims"))
    tables["curves"] = curve_table(curves, picks[DEFAULT])
    tables["rules"] = rule_table(curves, picks)
    tables["left_out"] = left_out_table(curves)
    tables["answers"] = answer_table(curves, picks[DEFAULT])
    tables["few_rows"] = few_rows_table(draws)
    tables["label_free"] = score_table(curves, LABEL_FREE)
    tables["scores"] = score_table(curves, sorted(set(curves[0].scores) - set(LABEL_FREE)))
    cases = sureness.cases_of([*((curve.train_rows, curve) for curve in curves), *draws])
    tables["sureness"], tables["reliability"] = sureness_tables(cases)
    results.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.write_csv(results / f"{name}.csv", float_precision=_DIGITS)
    images.mkdir(parents=True, exist_ok=True)
    draw_reliability(tables["reliability"], images / "reliability.svg")
    return tables


def curve_table(curves: Sequence[Curve], picks: Sequence[int]) -> pl.DataFrame:
    """One row a curve: what the default chose and what it was worth. Accuracies, regrets and gains are fractions."""
    rows = []
    for curve, layer in zip(curves, picks, strict=True):
        expected = curve.expectation
        over_last = compare(curve.correct[layer], curve.correct[-1])
        rows.append(
            _place(curve)
            | {"classes": curve.classes, "train_rows": curve.train_rows, "test_rows": curve.correct.shape[1]}
            | {"chosen_layer": layer, "best_layer": int(curve.accuracy.argmax()), "last_layer": curve.last}
            | {"chosen_accuracy": curve.accuracy[layer], "best_accuracy": curve.accuracy.max()}
            | {"last_accuracy": curve.accuracy[-1], "split_regret": split_regret(curve, layer)}
            | {"gain_over_last": over_last.difference, "p_value": over_last.p_value}
            | {"confidence": expected.confidence(layer), "expected_regret": expected.regret(layer)}
        )
    return pl.DataFrame(rows)


def rule_table(curves: Sequence[Curve], picks: Mapping[str, Sequence[int]]) -> pl.DataFrame:
    """One row a rule: split regret over data sets, against the default and the last layer, and by pooling."""
    regrets = {
        name: [split_regret(curve, layer) for curve, layer in zip(curves, layers, strict=True)]
        for name, layers in picks.items()
    }
    rows = []
    for name, layers in picks.items():
        beside = [own - default for own, default in zip(regrets[name], regrets[DEFAULT], strict=True)]
        better, worse = significant_against_last(curves, layers)
        row: dict[str, Any] = {"rule": name} | _interval("split_regret", over_sets(curves, regrets[name]))
        row |= _interval("above_default", over_sets(curves, beside))
        row |= {"better_than_last": better, "worse_than_last": worse}
        row |= {
            "depth": float(np.mean([layer / curve.last for curve, layer in zip(curves, layers, strict=True)]))
        }
        for what, values in (("pooling", ("mean", "mean_tail", "last")), ("model", _names(curves, "model"))):
            for value in values:
                inside = [i for i, curve in enumerate(curves) if getattr(curve, what) == value]
                if inside:
                    part = over_sets([curves[i] for i in inside], [regrets[name][i] for i in inside])
                    row |= {f"split_regret_{value}": part.mean, f"worst_{value}": part.worst}
        rows.append(row)
    return pl.DataFrame(rows)


def left_out_table(curves: Sequence[Curve]) -> pl.DataFrame:
    """One row a family and way of leaving out: what the rules that were fitted on the rest are worth there."""
    rows = []
    for by in ("dataset", "model"):
        found = fit_left_out(curves, by)
        for family in FAMILIES:
            own = [each for each in found if each.family == family]
            if not own:
                continue  # nothing to leave out
            there, values = [each.curve for each in own], [each.split_regret for each in own]
            fitted = "; ".join(sorted({each.rule for each in own}))
            rows.append(
                {"family": family, "left_out_by": by}
                | _interval("split_regret", over_sets(there, values))
                | {"rules": fitted}
            )
    return pl.DataFrame(rows)


def answer_table(curves: Sequence[Curve], picks: Sequence[int]) -> pl.DataFrame:
    """One row a way to take one of a run's curves: how far its chosen layer falls short of the best of them."""
    runs: dict[str, list[int]] = {}
    for place, curve in enumerate(curves):
        runs.setdefault(curve.run_id, []).append(place)
    ways: dict[str, Callable[[int], float]] = {
        "highest left-out information": lambda i: curves[i].scores["ridge_loo_information"][picks[i]],
        "highest ridge leave-one-out accuracy": lambda i: curves[i].scores["ridge_loo"][picks[i]],
    } | {
        f"always {pooling}": lambda i, pooling=pooling: float(curves[i].pooling == pooling)
        for pooling in _names(curves, "pooling")
    }
    rows = []
    for name, worth in ways.items():
        short = []
        for places in runs.values():
            accuracy = [curves[i].accuracy[picks[i]] for i in places]
            taken = max(range(len(places)), key=lambda n: worth(places[n]))
            short.append(max(accuracy) - accuracy[taken])
        rows.append(
            {"way": name} | _interval("short", over_sets([curves[p[0]] for p in runs.values()], short))
        )
    return pl.DataFrame(rows)


def few_rows_table(draws: Sequence[tuple[int, Curve]]) -> pl.DataFrame:
    """One row a number of train rows and rule: split regret over data sets, and against two rules of version 0.1."""
    rules: dict[str, Rule] = {DEFAULT: maximum("log_loss")}
    rules |= {name: BASELINES[name] for name in ("last layer", "ridge leave-one-out hits", "LogME")}
    rules |= {f"depth price {points:g}": priced(points) for points in (0.5, 1.0)}
    rules |= {
        "squared error": maximum("squared_error"),
        "whitened silhouette": maximum("whitened_silhouette"),
    }
    rows = []
    for size in SIZES:
        own = [curve for rows_asked, curve in draws if rows_asked == size]
        if not own:
            continue
        regrets = {name: [split_regret(curve, rule(curve)) for curve in own] for name, rule in rules.items()}
        for name, values in regrets.items():
            beside = [one - default for one, default in zip(values, regrets[DEFAULT], strict=True)]
            rows.append(
                {"train_rows": size, "rule": name, "curves": len(own)}
                | _interval("split_regret", over_sets(own, values))
                | _interval("above_default", over_sets(own, beside))
            )
    return pl.DataFrame(rows)


def score_table(curves: Sequence[Curve], names: Sequence[str]) -> pl.DataFrame:
    """One row a score and pooling: its rank correlation with accuracy, and what its maximum is worth."""
    rows = []
    for name in names:
        for pooling in _names(curves, "pooling"):
            own = [curve for curve in curves if curve.pooling == pooling]
            sign = -1 if name.endswith(("error", "loss")) else 1
            audits = [audit_score(sign * curve.scores[name], curve.correct) for curve in own]
            follows = [0.0 if audit.rank_correlation is None else audit.rank_correlation for audit in audits]
            values = [split_regret(curve, audit.layer) for curve, audit in zip(own, audits, strict=True)]
            rows.append(
                {"score": name, "pooling": pooling, "curves": len(own)}
                | _interval("rank_correlation", over_sets(own, follows))
                | _interval("split_regret", over_sets(own, values))
            )
    return pl.DataFrame(rows)


def sureness_tables(cases: sureness.Cases) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The numbers fitted on all, with their calibration errors on what was left out; and the reliability of it."""
    rows, reliability = [], []
    a, b, c = sureness.fit(cases)
    for by in ("dataset", "model"):
        if len(set(getattr(cases, by))) < 2:
            continue
        told = sureness.left_out(cases, getattr(cases, by))
        parts = {"chosen layers": cases.is_chosen, "all layers": np.ones(len(told), dtype=bool)}
        parts |= {f"chosen layers, {n:,} rows": cases.is_chosen & (cases.rows == n) for n in (*SIZES, 2_000)}
        for part, inside in parts.items():
            if not inside.any():
                continue
            there = cases.where(inside)
            error = sureness.calibration_error(told[inside], there)
            rows.append({"left_out_by": by, "part": part, "a": a, "b": b, "c": c, "calibration_error": error})
            if "," not in part:
                tenths = sureness.reliability(told[inside], there)
                reliability += [{"left_out_by": by, "part": part} | tenth for tenth in tenths]
    return pl.DataFrame(rows), pl.DataFrame(reliability)


def count_claims(claims: pl.DataFrame) -> pl.DataFrame:
    """How often each claim of the paper holds, by pooling, metric and kind of task."""
    kind = {name: kind for kind, names in KINDS.items() for name in names}
    verdict = pl.col("verdict")
    return (
        claims.with_columns(kind=pl.col("dataset").replace_strict(kind, default="other"))
        .group_by("claim", "pooling", "metric", "kind")
        .agg(
            curves=pl.len(),
            holds=(verdict == "holds").sum(),
            fails=(verdict == "fails").sum(),
            cannot_tell=(verdict == "cannot tell").sum(),
            mean_value=pl.col("value").mean(),
        )
        .sort("claim", "pooling", "metric", "kind", nulls_last=True)
    )


def draw_reliability(reliability: pl.DataFrame, file: Path) -> None:
    """Told against found, a line a part; on the diagonal they agree."""
    figure, axes = plt.subplots(figsize=(5, 4.2), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1)
    for (by, part), rows in reliability.group_by("left_out_by", "part", maintain_order=True):
        sizes = 20 + 300 * rows["share"].to_numpy()
        axes.plot(rows["told"], rows["found"], linewidth=1, label=f"{part}, each {by} left out")
        axes.scatter(rows["told"], rows["found"], s=sizes, alpha=0.5)
    axes.set(
        xlabel="confidence told", ylabel="share within half a point of the best", xlim=(0, 1), ylim=(0, 1)
    )
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def _place(curve: Curve) -> dict[str, Any]:
    return {name: getattr(curve, name) for name in ("model", "dataset", "pooling", "norm_state")}


def _names(curves: Sequence[Curve], what: str) -> list[str]:
    return sorted({str(getattr(curve, what)) for curve in curves})


def _interval(name: str, found: OverSets) -> dict[str, float]:
    return {
        name: found.mean,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_worst": found.worst,
    }


if __name__ == "__main__":
    # Of other models in a folder of their own, figures among them.
    for name, table in main(sys.argv[1], *(Path(each) for each in sys.argv[2:3] * 2)).items():
        print(f"\n{name}")
        with pl.Config(tbl_rows=200, tbl_cols=30, tbl_width_chars=220, fmt_str_lengths=60):
            print(table)
