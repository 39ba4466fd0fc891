"""The answer of a run in words, for every place that shows it."""

import math
from collections.abc import Mapping
from typing import Any

from tasks.embedding.text_pairs import FORMULA
from tasks.reporting.layer_curves import LayerCurves, Row, Tables, answer_curves

MOST_SHOWN = 60
"""Characters of a prompt in a sentence; the table of figures has all of it."""
SHIFT_LEVEL = 0.002
"""Test rows are said not to be like train rows below this p-value. About one sweep in a hundred says it by chance: the
fit to all rows is another one than those that were judged on train rows, which no p-value here counts. Of 400 random
splits each of 2,000 film reviews with 100, 200 and 500 train rows 3.3, 3.0 and 2.3 % fell below 0.01, and 1.3, 1.5 and
0.8 % below 0.002 (MiniLM, layer 4, 2026-12-01, by a script that is not kept)."""


def answer_sentence(tables: Tables) -> str:
    """The answer of one run in one sentence, with what it was worth on test rows. Plain text.

    Raises:
        ValueError: the tables hold no scored run, or more than one.
    """
    curves = answer_curves(tables)
    if curves.choice is None:
        return f"No layer of {curves.run['model_id']} has been chosen for {curves.run['dataset_id']} yet."
    told = [
        _choice_sentence(curves),
        *_entities(curves),
        *_sure(curves),
        *_read(curves),
        *_beside(curves),
        *_shifted(curves),
    ]
    return " ".join([*_beaten(curves), *told])


def _beaten(curves: LayerCurves) -> list[str]:
    """What does as well without the model, which comes before any layer."""
    audit = curves.audit
    if audit is None or not curves.baselines:
        return []
    own, floor = audit["chosen_accuracy"], curves.baselines["majority"]["accuracy"]
    if own <= floor:
        return [f"Nothing was read from this model: {curves.measure.floor.format(percent(floor))}."]
    if "text" not in curves.baselines:
        return []
    words = curves.baselines["text"]["accuracy"]
    if own <= words:
        how = "do better" if audit["gain_over_text_high"] < 0 else "do as well"
        return [
            f"The words alone {how} without the model: {curves.measure.words_alone} "
            f"{curves.measure.says.format(percent(words))}."
        ]
    return []


def _entities(curves: LayerCurves) -> list[str]:
    """How many entities the chosen layer's probe finds, where tags are of entities."""
    if curves.audit is None or curves.probe is None or curves.probe.get("entity_f1") is None:
        return []
    return [f"Its entity F1 is {percent(curves.probe['entity_f1'])}."]


def _sure(curves: LayerCurves) -> list[str]:
    """How near the best layer the chosen one is; older versions did not know."""
    choice = curves.choice
    if choice is None or choice.get("expected_regret") is None:
        return []
    sure = f"is within half a point of the best layer with {100 * choice['confidence']:.0f} % confidence."
    return [f"{'Layer ' + str(curves.chosen) if _speaks_against(curves) else 'It'} {sure}"]


def _speaks_against(curves: LayerCurves) -> bool:
    """Whether test rows say that the layer it is compared with is better than the chosen one."""
    return (
        curves.audit is not None and curves.chosen != curves.deepest and bool(curves.audit["gain_high"] < 0)
    )


def _read(curves: LayerCurves) -> list[str]:
    """How many rows the answer took, where a race decided it."""
    if not curves.race:
        return []
    last = next(row for row in reversed(curves.race) if row["is_leader"])
    rows, of = f"{last['train_rows']:,}", f"{last['train_rows_in_all']:,}"
    if last["ended_by"] == "confidence" and last["train_rows"] < last["train_rows_in_all"]:
        told = f"{rows} of {of} train rows were enough to tell{_with_all(last, curves)}."
    elif last["ended_by"] == "budget":
        told = f"The budget was spent after {rows} of {of} train rows."
    else:
        told = f"It took all {of} train rows."
    return [told, *_audited(last)]


def _with_all(last: Row, curves: LayerCurves) -> str:
    """What accuracy further rows promise; version 0.2, which told no test rows, told that of the rows read.

    Of the layer that led: the sweep that follows a race goes by the rows that were read, and may take one next to it.
    """
    if last.get("test_rows") is None:
        return ""
    led = (last["layer"], last["pooling"], last["norm_state"])
    there = ""
    if led != (curves.chosen, curves.pooling, curves.norm_state):
        there = f" at layer {led[0]} ({led[1]} pooling), which led"
    right = percent(last["expected_accuracy"])
    return f"; with all of them ridge regression is expected to be right on {right}{there}"


def _audited(last: Row) -> list[str]:
    """On how many test rows that answer is judged, where not on all; older versions judged on all."""
    if last.get("test_rows") is None or last["test_rows"] == last["test_rows_in_all"]:
        return []
    return [f"It is judged by {last['test_rows']:,} of {last['test_rows_in_all']:,} test rows."]


def _beside(curves: LayerCurves) -> list[str]:
    """What further layers add side by side with the chosen one, where train rows were sure that they do."""
    both = curves.together
    if both is None:
        return []
    interval = (
        f"{points(both['gain_over_single'])} points, 95 % interval {points(both['gain_over_single_low'])} to "
        f"{points(both['gain_over_single_high'])}, {p_value(both['gain_over_single_p_value'])}"
    )
    if both["gain_over_single_low"] > 0:
        worth = f"more than alone ({interval})"
    elif both["gain_over_single_high"] < 0:
        worth = f"less than alone, so leave it at one ({interval})"
    else:
        worth = f"level with it alone ({interval})"
    right = curves.measure.says.format(percent(both["accuracy"]))
    it = f"layer {curves.chosen}" if _speaks_against(curves) else "it"
    return [f"Side by side with {others(both)} {it} {right}, {worth}, at {both['size']} times the width."]


def others(both: Row) -> str:
    """The layers beside the first: `layer 1 (last pooling) and layer 30 (mean pooling, final_norm)`."""
    named = []
    for layer, pooling, state in list(
        zip(both["layers"], both["poolings"], both["norm_states"], strict=True)
    )[1:]:
        states = "" if state == "as_returned" else f", {state}"
        named.append(f"layer {layer} ({pooling} pooling{states})")
    return " and ".join(named)


def _shifted(curves: LayerCurves) -> list[str]:
    """Whether test rows are other than train rows, so that what was chosen on these may not suit those."""
    audit = curves.audit
    if audit is None or audit.get("shift_p_value") is None or audit["shift_p_value"] >= SHIFT_LEVEL:
        return []
    return [
        "Test rows are not like train rows: on train rows that it was not fitted on, the same layer "
        f"{curves.measure.says.format(percent(audit['held_out_accuracy']))} ({p_value(audit['shift_p_value'])})."
    ]


def _choice_sentence(curves: LayerCurves) -> str:
    layer, last = curves.chosen, curves.last
    against = curves.compared_with
    states = "" if curves.norm_state == "as_returned" else f", {curves.norm_state}"
    what = "the embedding output, " if layer == 0 else ""
    prompt = "" if curves.prompt is None else f", with the prompt {shortened(curves.prompt)}"
    pairs = ", features of both texts" if curves.of_pairs else ""
    where = f"layer {layer} of {last} ({what}{curves.pooling} pooling{states}{pairs}{prompt})"
    audit = curves.audit
    if audit is None:
        return f"Take {where}: chosen from train rows, and not yet audited on test rows."
    right = curves.measure.sentence.format(percent(audit["chosen_accuracy"]))
    if layer == curves.deepest:
        kept = f"Keep the last layer, {where}" if layer == last else f"Take {where}, the deepest run"
        return f"{kept}: {right}, and no earlier layer promised more."
    interval = (
        f"95 % interval {points(audit['gain_low'])} to {points(audit['gain_high'])}, "
        f"{p_value(audit['p_value'])}"
    )
    gain = audit["gain_over_last"]
    if audit["gain_low"] > 0:
        return f"Take {where}: {right}, {100 * gain:.1f} points better than {against} ({interval})."
    if _speaks_against(curves):
        return (
            f"Keep {against}: the rule chose {where}, {right}, and the test rows speak against it, "
            f"{-100 * gain:.1f} points worse than {against} ({interval})."
        )
    return (
        f"Take {where}: {right}, level with {against}{',' if curves.deepest < last else ''} within noise "
        f"({points(gain)} points, {interval}), at {layer} of {last} blocks."
    )


def answer_markdown(tables: Tables) -> str:
    """The answer as a short Markdown page: the sentence, its reason, a table of key figures.

    Raises:
        ValueError: the tables hold no scored run, or more than one.
    """
    curves = answer_curves(tables)
    lines = [
        f"## {_plain(curves.run['model_id'])} × {_plain(curves.run['dataset_id'])}",
        f"**{_plain(answer_sentence(tables))}**",
    ]
    if curves.choice is not None:
        lines.append(_plain(curves.choice["reason"]))
    figures = key_figures(curves)
    if figures:
        table = ["| figure | value | |", "|---|---|---|"]
        table += [f"| {name} | {_plain(value)} | {_plain(note)} |" for name, value, note in figures]
        lines.append("\n".join(table))
    lines.append(f"Run `{curves.run['run_id']}`.")
    return "\n\n".join(lines) + "\n"


def key_figures(curves: LayerCurves) -> list[tuple[str, str, str]]:
    """(name, value, remark) of the figures that a reader asks for first."""
    if curves.choice is None or curves.chosen is None:
        return []
    prompt = [] if curves.prompt is None else [("prompt", one_line(curves.prompt), "around every text")]
    pairs = [("text pairs", FORMULA, "u and v are each text by itself")] if curves.of_pairs else []
    figures = [
        *prompt,
        *pairs,
        ("chosen layer", f"{curves.chosen} of {curves.last}", f"depth {curves.chosen / curves.last:.2f}"),
        ("confidence", f"{100 * curves.choice['confidence']:.0f} %", _meant(curves.choice)),
    ]
    audit = curves.audit
    if audit is not None:
        figures += [
            (
                f"gain over {curves.deepest_name}",
                f"{points(audit['gain_over_last'])} points",
                f"{points(audit['gain_low'])} to {points(audit['gain_high'])}, {p_value(audit['p_value'])}",
            ),
            (
                "regret",
                f"{100 * audit['regret']:.1f} points",
                f"best is layer {audit['best_layer']}, {percent(audit['best_accuracy'])}",
            ),
            (
                f"test {curves.measure.name}",
                percent(audit["chosen_accuracy"]),
                f"{curves.compared_with.removeprefix('the ')} {percent(audit['last_accuracy'])}",
            ),
        ]
    if curves.probe is not None and curves.probe.get("auroc") is not None:
        found = f"{percent(curves.probe['tpr_at_1_percent_fpr'])} of {curves.probe['positive_class']}"
        figures.append(("AUROC", f"{curves.probe['auroc']:.3f}", f"{found} found at 1 % false positives"))
    if curves.probe is not None and curves.probe.get("entity_f1") is not None:
        figures.append(("entity F1", f"{curves.probe['entity_f1']:.3f}", _last_entities(curves)))
    figures += _further(curves.probe)
    if curves.together is not None:
        both = curves.together
        gain = f"{points(both['gain_over_single'])} points over the layer alone"
        figures.append((f"beside {others(both)}", percent(both["accuracy"]), gain))
    if audit is not None and curves.baselines:
        if "text" in curves.baselines:
            gain = f"{points(audit['gain_over_text'])} points by the layer, {p_value(audit['gain_over_text_p_value'])}"
            figures.append(("words alone", percent(curves.baselines["text"]["accuracy"]), gain))
        floor = percent(curves.baselines["majority"]["accuracy"])
        figures.append((curves.measure.floor_name, floor, f"told of all {curves.measure.rows}"))
    return figures


def _last_entities(curves: LayerCurves) -> str:
    at_last = curves.last_probe
    named = curves.compared_with.removeprefix("the ")
    level = "" if at_last is None else f", {named} {at_last['entity_f1']:.3f}"
    return f"micro, of entities whose type, first and last word are told{level}"


def _further(probe: Row | None) -> list[tuple[str, str, str]]:
    """What else people measure several labels, or a number, by."""
    named = (
        ("micro_f1", "micro F1", "over all labels of all test texts"),
        ("macro_f1", "macro F1", "mean over the labels"),
        ("average_precision", "average precision", "mean over the labels"),
        ("r2", "R²", "share of the numbers' variance that is told"),
        ("spearman", "Spearman", "rank correlation of numbers told and true"),
        ("mean_absolute_error", "mean absolute error", "in their own unit"),
    )
    if probe is None or (probe.get("micro_f1") is None and probe.get("mean_absolute_error") is None):
        return []
    return [(name, f"{probe[key]:.3f}", note) for key, name, note in named if probe[key] is not None]


def _meant(choice: Row) -> str:
    """What the confidence says; older versions meant something else by it."""
    if choice.get("expected_regret") is None:
        return "of redrawn rows agree"
    short = f"{100 * choice['expected_regret']:.1f} points short of it"
    return f"to be within half a point of the best, expected {short}"


def layer_table(tables: Tables) -> list[Row]:
    """One row a layer of the answer's pooling and norm state: what the CLI and Prefect show.

    Columns: layer; depth, 0–1; `silhouette_<metric>`, −1 … 1; accuracy, accuracy_low and accuracy_high, 0–1;
    marks, words joined by commas. Plain Python values; None where nothing was scored.

    Raises:
        ValueError: the tables hold no scored run, or more than one.
    """
    return table_of(answer_curves(tables))


def table_of(curves: LayerCurves) -> list[Row]:
    """The layer table of any pooling and norm state."""
    table: dict[int, Row] = {}
    for silhouette in curves.silhouettes:
        for layer, mean in zip(silhouette.layers, silhouette.mean, strict=True):
            table.setdefault(layer, {})[f"silhouette_{silhouette.name}"] = mean
    columns = [f"silhouette_{silhouette.name}" for silhouette in curves.silhouettes]
    if (accuracy := curves.accuracy) is not None:
        columns += ["accuracy", "accuracy_low", "accuracy_high"]
        values = zip(accuracy.accuracy, accuracy.low, accuracy.high, strict=True)
        for layer, (middle, low, high) in zip(accuracy.layers, values, strict=True):
            table.setdefault(layer, {}).update(accuracy=middle, accuracy_low=low, accuracy_high=high)
    return [
        {"layer": layer, "depth": layer / curves.last}
        | {column: table[layer].get(column) for column in columns}
        | {"marks": ", ".join(marks(curves, layer))}
        for layer in sorted(table)
    ]


def marks(curves: LayerCurves, layer: int) -> list[str]:
    """Why a layer stands out: chosen, best, last or deepest, and inflection points by metric."""
    named = {"chosen": curves.chosen, "best": curves.best, curves.deepest_name: curves.deepest}
    found = [name for name, marked in named.items() if marked == layer]
    kinds: dict[str, list[str]] = {}
    for silhouette in curves.silhouettes:
        for point in silhouette.points:
            if point["layer"] == layer:
                kinds.setdefault(point["kind"], []).append(silhouette.name)
    return found + [f"{kind} ({' + '.join(names)})" for kind, names in kinds.items()]


def split_words(embedded: Mapping[str, Any]) -> str:
    """What became of long texts that were split, and what it cost. embedded: the row of `embedding_set`."""
    tokens, more = embedded["tokens"], embedded["split_tokens"]
    return (
        f"{percent(embedded['split_share'])} of the texts were longer than {embedded['max_length']:,} tokens and were "
        f"read whole, in windows: {tokens:,} tokens, {tokens / (tokens - more):.2f} times as many as cut."
    )


def one_line(prompt: str) -> str:
    """A template with its line breaks as signs."""
    return prompt.replace("\n", "⏎")


def shortened(prompt: str) -> str:
    """A template for the middle of a sentence, in quotation marks of another kind than its own are likely to be."""
    line = one_line(prompt)
    return f"“{line if len(line) <= MOST_SHOWN else line[: MOST_SHOWN - 1] + '…'}”"


def percent(fraction: float) -> str:
    """0.6823 → `68.2 %`."""
    return f"{100 * fraction:.1f} %"


def points(fraction: float) -> str:
    """A difference of fractions in percentage points, with its sign: 0.064 → `+6.4`."""
    rounded = round(100 * fraction, 1)
    if rounded == 0:
        return "0.0"
    return f"+{rounded:.1f}" if rounded > 0 else f"−{-rounded:.1f}"


def p_value(p: float) -> str:
    """`p = 0.012` to two significant digits, `p < 0.001` below that."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.{max(2, 1 - math.floor(math.log10(p)))}f}"


def _plain(text: str) -> str:
    """Data as literal text in Markdown and in a table cell of it."""
    for special in "\\`*_{}[]#|~":
        text = text.replace(special, "\\" + special)
    # A backslash before < is shown as it is by some renderers; an entity is not.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
