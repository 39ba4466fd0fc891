"""Many curves at one view: a map over depth, where layers lie, what prompts and pairs gain, accuracy against cost."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import polars as pl

from storage.errors import UserError
from storage.sources.grammar import parse_source
from tasks.reporting.answer import percent, points, shortened

Row = dict[str, Any]
# Points below the best of its row at which a cell has no colour left, and above or below the last layer all of it.
REACH = 0.05
_TENTHS = 11
_MARKS = {"is_chosen": ("c", "chosen"), "is_best": ("b", "best on test rows"), "is_turning": ("t", "turning")}
_CURVE = ["run_id", "pooling", "norm_state"]
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM = 560, 260, 54, 14, 30


def short_names(ids: Iterable[str]) -> dict[str, str]:
    """Each source under the last part of its name, or under all of it where two would be told alike."""
    short: dict[str, str] = {}
    for each in dict.fromkeys(ids):
        try:
            short[each] = parse_source(each).short_name
        except UserError:
            short[each] = each
    count = Counter(short.values())
    return {each: name if count[name] == 1 else each for each, name in short.items()}


def heat_map(atlas: pl.DataFrame) -> list[Row]:
    """The curves of the view `atlas`, in its order, in groups of a family and kind of task.

    Returns:
        a dict a group: family, kind and its `rows`; a row has the curve's key and names, `cells` of (shade 0-1, letters
        of the marks, words) by layer, `accuracies`, and what stands beside them.
    """
    models, datasets = short_names(atlas["model_id"]), short_names(atlas["dataset_id"])
    groups: list[Row] = []
    for _, curve in atlas.group_by(_CURVE, maintain_order=True):
        row = _heat_row(curve.to_dicts(), models, datasets)
        if not groups or (groups[-1]["family"], groups[-1]["kind"]) != (row["family"], row["kind"]):
            groups.append({"family": row["family"], "kind": row["kind"], "rows": []})
        groups[-1]["rows"].append(row)
    return groups


def _heat_row(layers: list[Row], models: Mapping[str, str], datasets: Mapping[str, str]) -> Row:
    first, chosen = layers[0], next((each for each in layers if each["is_chosen"]), None)
    best = next(each for each in layers if each["is_best"])
    return {
        "family": first["family"] or "of unknown family",
        "kind": first["kind"] or "of an unknown kind",
        "key": curve_key(first) | {"answer": "yes" if first["is_answer"] else "no"},
        "model": models[first["model_id"]],
        "dataset": datasets[first["dataset_id"]],
        "about": _about(first),
        "run_id": first["run_id"],
        "cells": [_cell(each, _deepest(layers)) for each in layers],
        "accuracies": " ".join(f"{100 * each['accuracy']:.2f}" for each in layers),
        "chosen": chosen,
        "best": best,
        "places": {name: " ".join(str(tenth) for tenth in _tenths(layers, name)) for name in _MARKS},
        "size": ", ".join(_size(first)),
    }


def _size(row: Mapping[str, Any]) -> list[str]:
    """Numbers have no classes, nor have sets of labels, though silhouettes take them for some."""
    has_classes = row["kind"] not in ("a number", "several labels")
    of_text = f"{row['text_tokens']:.0f} tokens a text" if row["text_tokens"] else "saved states"
    return [*([f"{row['classes'] or '?'} classes"] if has_classes else []), of_text]


def curve_key(row: Mapping[str, Any], kinds: Mapping[str, str | None] | None = None) -> Row:
    """What a filter of the page tells rows apart by.

    Args:
        row: of a view or table with the columns of the key, or some of them.
        kinds: dataset_id → kind of task, for rows that do not say it.
    """
    key = {name: row[name] for name in ("model_id", "dataset_id", "pooling") if row.get(name)}
    kind = row.get("kind") or (kinds or {}).get(row["dataset_id"])
    return (
        key
        | ({"kind": kind} if kind else {})
        | {"prompt": "none" if row["prompt"] is None else row["prompt"]}
    )


def _about(row: Mapping[str, Any]) -> str:
    states = "" if row["norm_state"] == "as_returned" else f", {row['norm_state'].replace('_', ' ')}"
    prompt = "" if row.get("prompt") is None else f", {shortened(row['prompt'])}"
    return f"{row['pooling']}{states}{prompt}"


def _deepest(layers: list[Row]) -> str:
    """What layers are held against: the last one, where it was run."""
    last = layers[-1]
    return "the last layer" if last["layer"] == last["layers"] else f"layer {last['layer']}, the deepest run"


def _cell(layer: Row, against: str) -> tuple[float, str, str]:
    marks = [_MARKS[name] for name in _MARKS if layer[name]]
    words = [f"layer {layer['layer']} of {layer['layers']}: {percent(layer['accuracy'])}"]
    words += [f"{points(layer['gain_over_last'])} against {against}", *(told for _, told in marks)]
    shade = max(0.0, 1.0 - layer["regret"] / REACH)
    return shade, "".join(letter for letter, _ in marks), ", ".join(words)


def _tenths(layers: list[Row], mark: str) -> list[int]:
    # Half up, as people round; Python's own takes 2.5 to 2 and 3.5 to 4.
    return [int(10 * each["depth"] + 0.5) for each in layers if each[mark]]


def where_layers_lie(groups: list[Row]) -> list[Row]:
    """Of each mark, how many layers of all rows lie at each tenth of the depth."""
    found = []
    told = {"is_best": "Best on test rows", "is_chosen": "Chosen from train rows", "is_turning": "Turning"}
    for mark, title in told.items():
        places = Counter(
            int(tenth) for group in groups for row in group["rows"] for tenth in row["places"][mark].split()
        )
        counts = [places[tenth] for tenth in range(_TENTHS)]
        found.append({"mark": mark, "title": title, "counts": counts, "most": max(counts)})
    return found


def choices(groups: list[Row]) -> list[Row]:
    """The filters of the page that have something to choose between: name, words and (value, words) pairs."""
    keys = [row["key"] for group in groups for row in group["rows"]]
    words: dict[str, tuple[str, Mapping[str, str]]] = {
        "model_id": ("Model", short_names(key["model_id"] for key in keys)),
        "dataset_id": ("Data set", short_names(key["dataset_id"] for key in keys)),
        "kind": ("Task", {}),
        "pooling": ("Pooling", {}),
        "prompt": ("Prompt", {key["prompt"]: shortened(key["prompt"]) for key in keys} | {"none": "none"}),
    }
    found = []
    for name, (title, word) in words.items():
        values = list(dict.fromkeys(key[name] for key in keys if name in key))
        if len(values) > 1:
            offered = sorted((word.get(value, value), value) for value in values)
            found.append({"name": name, "title": title, "offered": offered})
    if len({key["answer"] for key in keys}) > 1:
        found.append({"name": "answer", "title": "Curves", "offered": [("of the answers", "yes")]})
    return found


def gains_of_prompts(compared: pl.DataFrame) -> list[Row]:
    """Answers with a prompt beside that without one, those that gain most first. Gains have no interval."""
    prompted = compared.filter(pl.col("prompt").is_not_null())
    return prompted.sort("accuracy_against_no_prompt", descending=True, nulls_last=True).to_dicts()


def gains_of_layers(together: pl.DataFrame, board: pl.DataFrame) -> list[Row]:
    """Of each run that took more than one layer side by side: which, and what that gained, the most first."""
    taken = together.filter(pl.col("is_answer"), pl.col("size") > 1)
    names = board.select("run_id", "model_id", "dataset_id", "prompt")
    rows = taken.join(names, on="run_id").sort("gain_over_single", descending=True)
    return [row | {"words": " + ".join(_side_by_side(row))} for row in rows.to_dicts()]


def _side_by_side(row: Row) -> Iterator[str]:
    for layer, pooling in zip(row["layers"], row["poolings"], strict=True):
        yield f"{layer} {pooling}"


def cost_charts(pareto: pl.DataFrame, kinds: Mapping[str, str | None]) -> list[Row]:
    """One chart for all that the view `pareto` compares: a line a curve, the front, and who lies near the best.

    Args:
        pareto: the rows of the view.
        kinds: dataset_id → kind of task.
    """
    models, datasets = short_names(pareto["model_id"]), short_names(pareto["dataset_id"])
    colour = {model: number % 8 for number, model in enumerate(dict.fromkeys(pareto["model_id"].sort()))}
    same = ["dataset_id", "dataset_fingerprint", "device_kind"]
    charts = []
    for (dataset, fingerprint, device), part in pareto.group_by(same, maintain_order=True):
        chart = _cost_chart(part, models, colour, kinds)
        chart |= {"dataset_id": dataset, "dataset": datasets[str(dataset)], "kind": kinds.get(str(dataset))}
        beside = pareto.filter(dataset_id=dataset)
        told = {"dataset_fingerprint": str(fingerprint)[:6], "device_kind": str(device)}
        chart["told"] = " ".join(word for name, word in told.items() if beside[name].n_unique() > 1)
        charts.append(chart)
    return charts


def _cost_chart(
    part: pl.DataFrame, models: Mapping[str, str], colour: Mapping[str, int], kinds: Mapping[str, str | None]
) -> Row:
    most = max(part["milliseconds_per_text"].to_list())
    high = max(part["accuracy"].to_list())
    # Lines of poor layers may leave the picture, so that what lies near the best is told apart.
    marked = part.filter(pl.col("on_front") | (pl.col("is_chosen") & pl.col("is_answer")))
    low = min(marked["accuracy"].to_list()) - 0.01

    def x(milliseconds: float) -> float:
        # By square roots: models differ by orders of magnitude, and layer 0 costs nothing.
        return _LEFT + (milliseconds / (most or 1.0)) ** 0.5 * (_WIDTH - _LEFT - _RIGHT)

    def y(accuracy: float) -> float:
        return 10 + (high - accuracy) / (high - low) * (_HEIGHT - _BOTTOM - 14)

    rows = [
        row
        | {"x": x(row["milliseconds_per_text"]), "y": y(row["accuracy"])}
        | {"model": models[row["model_id"]], "colour": colour[row["model_id"]]}
        | {
            "key": curve_key(row, kinds),
            "about": _about(row),
            "words": _cut_in_words(row, models[row["model_id"]]),
        }
        for row in part.sort("layer", maintain_order=True).to_dicts()
    ]
    curves: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        curves.setdefault(tuple(row[name] for name in _CURVE), []).append(row)
    front = sorted((row for row in rows if row["on_front"]), key=lambda row: row["x"])
    ticks = [most * share for share in (0.0, 1 / 16, 1 / 4, 9 / 16, 1.0)]
    return {
        "left": _LEFT,
        "right": _WIDTH - _RIGHT,
        "width": _WIDTH,
        "height": _HEIGHT,
        "lines": [
            {
                "path": "M" + "L".join(f"{row['x']:.1f},{row['y']:.1f}" for row in own),
                "colour": own[0]["colour"],
                "key": own[0]["key"],
                "words": f"{own[0]['model']} {own[0]['about']}",
            }
            for own in curves.values()
        ],
        "front": front,
        "steps": f"M{front[0]['x']:.1f},{front[0]['y']:.1f}"
        + "".join(f"H{row['x']:.1f}V{row['y']:.1f}" for row in front[1:])
        + f"H{_WIDTH - _RIGHT}",
        "band": (y(high), y(high - 0.005)),
        "levels": [(percent(v), y(v)) for v in (low, (low + high) / 2, high)],
        "ticks": [(f"{v:.1f}" if most >= 1 else f"{v:.2f}", x(v)) for v in ticks],
        "best": next(row for row in front if row["accuracy"] == high),
        "near": next(row for row in rows if row["is_cheapest_near_best"]),
        "answers": [row for row in rows if row["is_chosen"] and row["is_answer"]],
        "models": [(models[each], colour[each]) for each in dict.fromkeys(row["model_id"] for row in rows)],
    }


def _cut_in_words(row: Row, model: str) -> str:
    told = f"{model} cut after layer {row['layer']} of {row['layers']} ({_about(row)})"
    return f"{told}: {percent(row['accuracy'])}, {row['milliseconds_per_text']:.2f} ms a text"
