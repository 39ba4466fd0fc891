"""Many runs as one self-contained page: atlas, answers, Figure 1, models at equal depth, rules, claims, cost."""

import base64
from collections.abc import Mapping
from typing import Any

import polars as pl

from tasks.reporting.atlas import (
    REACH,
    choices,
    cost_charts,
    curve_key,
    gains_of_layers,
    gains_of_prompts,
    heat_map,
    where_layers_lie,
)
from tasks.reporting.report import page_environment

# The views that the page lays out, and one table; those that are absent or empty are left out.
SHOWN = (
    "atlas",
    "pareto",
    "prompt_comparison",
    "representation",
    "leaderboard",
    "certainty",
    "equal_depth",
    "pooling_comparison",
    "criterion_quality",
    "claims",
    "cost",
    "changes",
)
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 250, 46, 30


def render_grid(views: Mapping[str, pl.DataFrame], figure: bytes) -> str:
    """The page as HTML that reaches for no network.

    Args:
        views: rows of the views of `SHOWN` over the runs of the page.
        figure: Figure 1 of the runs, as SVG.

    Raises:
        ValueError: no run has an answer.
    """
    board = _rows(views, "leaderboard")
    if not board:
        raise ValueError("no run has an answer, so there is nothing to compare")
    answers = [row | {"verdict": sure["verdict"]} for row in board for sure in _of_run(views, row["run_id"])]
    pairs = (
        gains_of_layers(views["representation"], views["leaderboard"]) if "representation" in views else []
    )
    low = min(0.0, *(row["gain_low"] for row in answers), *(row["gain_over_single_low"] for row in pairs))
    high = max(0.0, *(row["gain_high"] for row in answers), *(row["gain_over_single_high"] for row in pairs))
    groups = heat_map(views["atlas"]) if _rows(views, "atlas") else []
    kinds = {row["key"]["dataset_id"]: row["key"].get("kind") for group in groups for row in group["rows"]}
    return (
        page_environment()
        .get_template("grid_report.html")
        .render(
            sentence=_sentence(answers),
            map=groups,
            where=where_layers_lie(groups),
            choices=choices(groups),
            reach=f"{100 * REACH:.0f}",
            prompts=gains_of_prompts(views["prompt_comparison"]) if "prompt_comparison" in views else [],
            pairs=pairs,
            charts=cost_charts(views["pareto"], kinds) if _rows(views, "pareto") else [],
            key_of=lambda row: curve_key(row, kinds),
            answers=answers,
            place=lambda gain: 100 * (gain - low) / (high - low or 1.0),
            figure=base64.b64encode(figure).decode(),
            depths=[_depth_chart(part, name) for name, part in _by_dataset(views)],
            poolings=_rows(views, "pooling_comparison"),
            criteria=_rows(views, "criterion_quality"),
            claims=claims_counted(views["claims"]) if "claims" in views else [],
            costs=_rows(views, "cost"),
            changes=_rows(views, "changes"),
        )
    )


def _rows(views: Mapping[str, pl.DataFrame], name: str) -> list[dict[str, Any]]:
    return views[name].to_dicts() if name in views else []


def _of_run(views: Mapping[str, pl.DataFrame], run_id: str) -> list[dict[str, Any]]:
    return views["certainty"].filter(run_id=run_id).head(1).to_dicts()


def _sentence(answers: list[dict[str, Any]]) -> str:
    """How the answers of all runs fell out."""
    count = len(answers)
    told = {
        "better than the last layer": 0,
        "level with the last layer, within noise": 0,
        "is the last layer": 0,
    }
    for row in answers:
        told[row["verdict"]] = told.get(row["verdict"], 0) + 1
    parts = [f"{number} {words}" for words, number in told.items() if number]
    runs = "run" if count == 1 else "runs"
    return f"{count} {runs}; the chosen layer: {'; '.join(parts)}."


def _by_dataset(views: Mapping[str, pl.DataFrame]) -> list[tuple[str, pl.DataFrame]]:
    """The accuracies at equal depth of each run's answer, a frame a data set that several runs share."""
    if "equal_depth" not in views or views["equal_depth"].is_empty():
        return []
    key = ["run_id", "pooling", "norm_state"]
    own = views["equal_depth"].join(views["leaderboard"].select(key), on=key)
    return [(str(name), part) for (name,), part in own.group_by(["dataset_id"], maintain_order=True)]


def _depth_chart(part: pl.DataFrame, dataset: str) -> dict[str, Any]:
    """Lines of accuracy against depth, one a run, in the units of the picture."""
    low, high = part.select(pl.col("accuracy_low").min(), pl.col("accuracy_high").max()).row(0)

    def x(depth: float) -> float:
        return _LEFT + depth * (_WIDTH - _LEFT - 12)

    def y(accuracy: float) -> float:
        return 8 + (high - accuracy) / (high - low or 1.0) * (_HEIGHT - _BOTTOM - 8)

    lines = []
    repeated = (
        part.group_by("model_id").agg(pl.col("run_id").n_unique()).filter(pl.col("run_id") > 1)["model_id"]
    )
    for number, ((model, run_id), run) in enumerate(
        part.group_by(["model_id", "run_id"], maintain_order=True)
    ):
        run = run.sort("depth")
        lines.append(
            {
                "name": f"{model} ({str(run_id)[:8]})" if model in repeated else model,
                "colour": number % 8,
                "path": "M"
                + "L".join(f"{x(d):.1f},{y(a):.1f}" for d, a in run.select("depth", "accuracy").rows()),
                "accuracies": [f"{100 * a:.1f}" for a in run["accuracy"]],
            }
        )
    return {
        "dataset": dataset,
        "width": _WIDTH,
        "height": _HEIGHT,
        "lines": lines,
        "depths": [(f"{depth:.1f}", x(depth)) for depth in part["depth"].unique().sort()],
        "levels": [(f"{100 * v:.0f} %", y(v)) for v in (low, (low + high) / 2, high)],
    }


def claims_counted(claims: pl.DataFrame) -> list[dict[str, Any]]:
    """How often each of the paper's claims holds, fails, or cannot be told, over the curves of all pairs."""
    counts = [(pl.col("verdict") == each).sum().alias(each) for each in ("holds", "fails", "cannot tell")]
    return claims.group_by("claim", "statement", maintain_order=True).agg(*counts).sort("claim").to_dicts()
