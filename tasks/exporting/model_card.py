"""The README.md of an exported model: what it is, the evidence, how to use it, and what it was made of."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from storage.sources.grammar import parse_source
from tasks.choosing.comparison import Comparison
from tasks.embedding.text_pairs import FORMULA
from tasks.exporting.cut import SavedCut
from tasks.exporting.exported_check import ExportedCheck
from tasks.exporting.linear_head import Head
from tasks.exporting.recorded_run import RecordedRun, audited_accuracy, found_side_by_side, side_by_side
from tasks.exporting.sentence_transformers_files import needs_code
from tasks.exporting.states import Cut, ExportedState, Source
from tasks.measures import MEASURES
from tasks.reporting.answer import answer_sentence, one_line, p_value, percent, points
from tasks.vocabulary import LongTexts, Task


@dataclass(frozen=True)
class Evidence:
    """What the export knows of the model that it wrote. Accuracies and agreement are fractions 0–1."""

    run: Mapping[str, Any]
    """The row of `run`."""
    dataset: Mapping[str, Any]
    """The row of `dataset`."""
    answer: str
    """The run's answer in a sentence."""
    reason: str
    """Why this layer: the choice's reason, or that it was named by hand."""
    cut: Cut
    states: tuple[ExportedState, ...]
    final_norm: str | None
    """The end of the module's name, where a state has to be put through it."""
    blocks: int
    """Of the exported model."""
    layers: int
    """Of the whole model."""
    audited_accuracy: float
    """Of the layers in the run."""
    accuracy: float
    """Of the head, on every test row."""
    accuracy_low: float
    accuracy_high: float
    train_rows: int
    """That the head was fitted to: those of the run, or all that the data set has."""
    beside: Mapping[str, Any] | None
    """Of layers side by side, the row of `representation`."""
    is_more_side_by_side: bool
    """The run found more in layers side by side than in the one that was exported."""
    hidden_size: int
    """Dimensions of a state."""
    width: int
    """Dimensions of an embedding."""
    reduction: Comparison | None
    """Of fewer dimensions against all, on the same test rows: what they cost; None where none were left out."""
    checked_rows: int
    deviation: float
    """Largest difference of an embedding from the whole model's, over the largest value of those."""
    agreement: float
    """Share of the checked rows that the exported model and the head's own embeddings label alike."""
    parameters: tuple[int, int]
    """Cut and whole."""
    bytes: tuple[int, int]
    tokens_per_second: tuple[float, float]
    device: str
    needs_own_module: bool
    """sentence-transformers needs the module that lies in the folder."""
    runs_own_code: bool
    """The model runs Python code that it brings."""
    split_at: int | None
    """Tokens of a window, where the run read longer texts whole; None where it cut them."""

    @property
    def of_pairs(self) -> bool:
        """The head takes the features of two texts."""
        return self.dataset.get("text_pairs") == "features"

    @property
    def of_words(self) -> bool:
        """The head tags words."""
        return _task(self) is Task.TOKEN_CLASSIFICATION


def evidence_of(
    run: RecordedRun,
    cut: Cut,
    saved: SavedCut,
    head: Head,
    reduction: Comparison | None,
    check: ExportedCheck,
) -> Evidence:
    """All that the export found, in one record. reduction: see `Evidence`."""
    answer = run.answer
    by_hand = f"Layer {cut.deepest} was named by hand in place of the chosen layer {answer['layer']}."
    is_chosen = len(cut.states) > 1 or cut.deepest == answer["layer"]
    return Evidence(
        run=run.row,
        dataset=run.tables["dataset"].row(0, named=True),
        answer=answer_sentence(run.tables),
        reason=answer["reason"] if is_chosen else by_hand,
        cut=cut,
        states=saved.states,
        final_norm=saved.final_norm,
        blocks=saved.blocks,
        layers=run.model.layers,
        audited_accuracy=audited_accuracy(run, cut),
        accuracy=head.accuracy,
        accuracy_low=head.accuracy_low,
        accuracy_high=head.accuracy_high,
        train_rows=head.n_train,
        beside=side_by_side(run) if len(cut.states) > 1 else None,
        is_more_side_by_side=len(cut.states) == 1 and not found_side_by_side(run).is_empty(),
        hidden_size=run.model.hidden_size,
        width=head.coefficients.shape[1],
        reduction=reduction,
        device=run.settings.device,
        needs_own_module=not run.of_words and needs_code(saved.states),
        runs_own_code=run.model.runs_own_code,
        split_at=run.settings.max_length if run.settings.long_texts is LongTexts.SPLIT else None,
        **asdict(check),
    )


def write_model_card(found: Evidence) -> str:
    """The page in Markdown, with the head that the hub reads."""
    run = found.run
    source = parse_source(run["model_id"])
    base = source.hub_id or _for_others(source.spec)
    head = [
        "---",
        f"library_name: {'transformers' if found.of_words else 'sentence-transformers'}",
        f"pipeline_tag: {'token-classification' if found.of_words else 'feature-extraction'}",
        "tags: [layerscout]",
    ]
    if source.hub_id:
        head.append(f"base_model: {source.hub_id}")
    lines = [
        *head,
        "---",
        f"# {base}, {found.cut.named} of {found.layers}{', side by side' if found.beside else ''}",
        f"`{_for_others(run['model_id'])}` cut after layer {found.cut.deepest}: its embeddings ({_embedding(found)}) "
        f"and a linear head for {_told(found)} of `{_for_others(run['dataset_id'])}`. "
        "Made by layerscout; the licence of the model it was cut from holds.",
        "## Evidence",
        found.answer,
        found.reason,
        _table(found),
        *costs(found),
        "## Use",
        _prompt(found),
        _columns(found),
        _use(found),
        "## Made of",
        f"Run `{run['run_id']}` (layerscout {run['code_version']}): model revision `{run['model_revision']}`, data "
        f"set fingerprint `{run['dataset_fingerprint']}`, {found.dataset['train_rows']:,} train and "
        f"{found.dataset['test_rows']:,} test rows, embedded in {run['dtype']}.",
        f"Versions: `{run['versions']}`.",
    ]
    # Front matter is one block; everything after it is a paragraph of its own.
    front = "\n".join(lines[: len(head) + 1])
    return "\n\n".join([front, *(line for line in lines[len(head) + 1 :] if line)]) + "\n"


def _task(found: Evidence) -> Task:
    return Task(found.dataset.get("task") or Task.SINGLE_LABEL)


def _told(found: Evidence) -> str:
    if _task(found) is Task.REGRESSION:
        return "the numbers"
    if found.of_words:
        return f"the {len(found.dataset['classes'])} tags of words"
    names = found.dataset.get("label_names")
    return f"the {len(names)} labels" if names else f"the {len(found.dataset['classes'])} classes"


def figures(found: Evidence) -> list[tuple[str, str, str]]:
    """(what, this model, the whole model or what it is compared with), for the card and the terminal."""
    cut, whole = found.tokens_per_second
    return [
        ("blocks", f"{found.blocks}", f"{found.layers}"),
        (
            "features of a pair" if found.of_pairs else "dimensions",
            f"{found.width:,}",
            f"{found.hidden_size:,}",
        ),
        ("parameters", f"{found.parameters[0]:,}", f"{found.parameters[1]:,}"),
        ("bytes", f"{found.bytes[0]:,}", f"{found.bytes[1]:,}"),
        (f"tokens/s ({found.device}, float32)", f"{cut:,.0f} ({cut / whole:.2f}×)", f"{whole:,.0f}"),
        (
            f"test {MEASURES[_task(found)].name}",
            f"{percent(found.accuracy)} ({percent(found.accuracy_low)} to {percent(found.accuracy_high)})",
            f"{percent(found.audited_accuracy)} as audited{_of_fewer(found)}",
        ),
    ]


def _of_fewer(found: Evidence) -> str:
    """That another head was audited, lest what more rows gain is taken for what the layer does."""
    read = found.dataset["train_rows"]
    return (
        f", with a head of {read:,} rows in place of {found.train_rows:,}" if found.train_rows > read else ""
    )


def costs(found: Evidence) -> list[str]:
    """What layers side by side gain, what fewer dimensions and sentence-transformers cost, for card and terminal."""
    said = []
    if found.beside is not None:
        row = found.beside
        gain, low, high = (row[f"gain_over_single{end}"] for end in ("", "_low", "_high"))
        said.append(
            f"Side by side the layers were audited {points(gain)} points above layer {row['layers'][0]} alone "
            f"(95 % interval {points(low)} to {points(high)}, {p_value(row['gain_over_single_p_value'])})."
        )
    if found.reduction is not None:
        cost = found.reduction
        said.append(
            f"Principal components of the train rows reduce an embedding to {found.width:,} dimensions: "
            f"{points(cost.difference)} points against all of them (95 % interval {points(cost.low)} to "
            f"{points(cost.high)}, {p_value(cost.p_value)})."
        )
    read = found.dataset["train_rows"]
    if found.train_rows > read:
        said.append(
            f"The head is fitted to all {found.train_rows:,} train rows, of which the run read {read:,} to choose and "
            "audit."
        )
    if found.split_at is not None:
        said.append(
            f"The run read texts of more than {found.split_at:,} tokens whole, in windows, as predict.py does. "
            f"sentence-transformers cuts them at {found.split_at:,} tokens, so that it gives other embeddings of them."
        )
    return said


def _embedding(found: Evidence) -> str:
    if len(found.states) == 1:
        state = found.states[0].state
        return f"{state.pooling.value} pooling, norm state `{state.norm_state.value}`"
    each = (one.state for one in found.states)
    return ", then ".join(
        f"layer {state.layer} with {state.pooling.value} pooling as `{state.norm_state.value}`"
        for state in each
    )


def _table(found: Evidence) -> str:
    rows = "words" if found.of_words else "rows"
    lines = ["| | this model | whole model |", "|---|---|---|"]
    lines += [f"| {name} | {ours} | {other} |" for name, ours, other in figures(found)]
    lines += [
        "",
        f"Checked on {found.checked_rows:,} test {rows} before this folder was written: its embeddings differ from the "
        f"whole model's in float32 by at most {found.deviation:.0e} of the largest value, and "
        f"{percent(found.agreement)} of the {rows} get the label that the head gave them when it was fitted.",
    ]
    return "\n".join(lines)


def _prompt(found: Evidence) -> str:
    prompt = found.run.get("prompt")  # runs of older versions do not say
    if prompt is None:
        return ""
    return (
        f"The tokenizer puts every text into the prompt `{one_line(prompt)}`, with which the layer was "
        "chosen: give it the text alone, and no prompt of another library's beside it."
    )


def _columns(found: Evidence) -> str:
    asked = json.loads(found.run["parameters"])
    if "joined_by" not in asked:
        return ""
    if found.of_pairs:
        one, other = (f"`{each}`" for each in asked["text_column"])
        each = ", of each of its layers in turn" if len(found.states) > 1 else ""
        return (
            f"The head takes a pair of texts, what {one} and {other} say. Each is embedded by itself, as u and v, and "
            f"the features of the pair are {FORMULA}{each} (`pair_features` in `predict.py`). What "
            "sentence-transformers and transformers give is the embedding of one text, which is u or v."
        )
    columns = ", ".join(f"`{each}`" for each in asked["text_column"])
    return f"A text is what {columns} say, in this order, joined by `{json.dumps(asked['joined_by'])}`."


def _for_others(spec: str) -> str:
    """The spec, or of a place on this machine the last part of its path."""
    source = parse_source(spec)
    return source.short_name if source.is_local else spec


def _use(found: Evidence) -> str:
    parts = []
    one_row = '"one text" "its other text"' if found.of_pairs else '"a text" "another text"'
    if found.of_words:
        one_row = '"words with spaces between them"'
    trust, flag = (", trust_remote_code=True", " --trust-remote-code") if found.runs_own_code else ("", "")
    if found.runs_own_code:
        parts.append(
            "**The model runs Python code of its own**, which lies in this folder: read it before you allow it. "
            "Without `trust_remote_code=True` the folder does not load, or loads as another model."
        )
    module = ", trust_remote_code=True" if found.needs_own_module else trust
    if not found.of_words:
        parts.append(
            "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
            f'embeddings = SentenceTransformer("THIS_FOLDER"{module}).encode(["a text"])\n```'
        )
    if found.needs_own_module:
        parts.append(
            "sentence-transformers has no module that pools these states, so `pooled_layers.py` and `predict.py` of "
            "this folder do, which it runs with `trust_remote_code=True` alone: read them first, they are short."
        )
    parts += [
        "```python\nfrom transformers import AutoModel, AutoTokenizer\n\n"
        f'model = AutoModel.from_pretrained("THIS_FOLDER"{trust})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER"{trust})\n```',
        _read(found),
        f"```\npython THIS_FOLDER/predict.py{flag} {one_row}\n```",
        "`predict.py` rebuilds a fitted scikit-learn pipeline from `head/`, where nothing is pickled.",
    ]
    return "\n\n".join(parts)


def _read(found: Evidence) -> str:
    """Where plain transformers has the states."""
    places = {
        Source.LAST: "`model(…).last_hidden_state`",
        Source.HIDDEN: "`model(…, output_hidden_states=True).hidden_states[{layer}]`",
        Source.NORMED: "`model.{norm}(model(…, output_hidden_states=True).hidden_states[{layer}])`",
    }
    read = " and ".join(
        f"{places[each.source].format(layer=each.state.layer, norm=found.final_norm)} "
        f"({each.state.pooling.value} pooling)"
        for each in found.states
    )
    reduction = ", reduced by `head/reduction.safetensors`" if found.reduction is not None else ""
    if found.of_words:
        return (
            f"The embedding of a word there is {read}{reduction}, over the word's own tokens: those that `word_ids()` "
            "gives it, where the text is handed over as a list of words (`encode_words` in `predict.py`)."
        )
    return f"Its embedding there is {read}{reduction}."
