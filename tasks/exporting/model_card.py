"""The README.md of an exported model: what it is, the evidence, how to use it, and what it was made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.sources.grammar import parse_source
from tasks.reporting.answer import p_value, percent, points


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
    layer: int
    layers: int
    pooling: str
    chosen_as: str
    """The norm state that was audited."""
    norm_state: str
    """The norm state that the exported model puts out."""
    audited_accuracy: float
    """Of the layer in the run."""
    accuracy: float
    """Of the head, on every test row."""
    accuracy_low: float
    accuracy_high: float
    difference: tuple[float, float, float, float]
    """Accuracy less the audited one, its paired 95 % interval and McNemar's p."""
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
    has_sentence_transformers: bool


def write_model_card(found: Evidence) -> str:
    """The page in Markdown, with the head that the hub reads."""
    run = found.run
    source = parse_source(run["model_id"])
    base = source.hub_id or source.spec
    head = [
        "---",
        "library_name: " + _library(found),
        "pipeline_tag: feature-extraction",
        "tags: [layerscout]",
    ]
    if source.hub_id:
        head.append(f"base_model: {source.hub_id}")
    lines = [
        *head,
        "---",
        f"# {base}, layer {found.layer} of {found.layers}",
        f"`{run['model_id']}` cut after layer {found.layer}: its embeddings ({found.pooling} pooling, norm state "
        f"`{found.norm_state}`) and a linear head for the {len(found.dataset['classes'])} classes of "
        f"`{run['dataset_id']}`. Made by layerscout; the licence of the model it was cut from holds.",
        "## Evidence",
        found.answer,
        found.reason,
        _table(found),
        _norm_state(found),
        "## Use",
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


def figures(found: Evidence) -> list[tuple[str, str, str]]:
    """(what, this model, the whole model or what it is compared with), for the card and the terminal."""
    cut, whole = found.tokens_per_second
    return [
        ("blocks", f"{found.layer}", f"{found.layers}"),
        ("parameters", f"{found.parameters[0]:,}", f"{found.parameters[1]:,}"),
        ("bytes", f"{found.bytes[0]:,}", f"{found.bytes[1]:,}"),
        (f"tokens/s ({found.device}, float32)", f"{cut:,.0f} ({cut / whole:.2f}×)", f"{whole:,.0f}"),
        (
            "test accuracy",
            f"{percent(found.accuracy)} ({percent(found.accuracy_low)} to {percent(found.accuracy_high)})",
            f"{percent(found.audited_accuracy)} as audited",
        ),
    ]


def _table(found: Evidence) -> str:
    lines = ["| | this model | whole model |", "|---|---|---|"]
    lines += [f"| {name} | {ours} | {other} |" for name, ours, other in figures(found)]
    lines += [
        "",
        f"Checked on {found.checked_rows:,} test rows before this folder was written: its embeddings differ from the "
        f"whole model's in float32 by at most {found.deviation:.0e} of the largest value, and "
        f"{percent(found.agreement)} of the rows get the label that the head gave them when it was fitted.",
    ]
    return "\n".join(lines)


def _norm_state(found: Evidence) -> str:
    if found.chosen_as == found.norm_state:
        return ""
    difference, low, high, p = found.difference
    return (
        f"The layer was chosen as `{found.chosen_as}`; a model that ends there puts its states through its final norm, "
        f"so the head was fitted and audited again on `{found.norm_state}`: {points(difference)} points "
        f"(95 % interval {points(low)} to {points(high)}, {p_value(p)})."
    )


def _library(found: Evidence) -> str:
    return "sentence-transformers" if found.has_sentence_transformers else "transformers"


def _use(found: Evidence) -> str:
    parts = []
    if found.has_sentence_transformers:
        parts.append(
            "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
            'embeddings = SentenceTransformer("THIS_FOLDER").encode(["a text"])\n```'
        )
    else:
        parts.append(
            f"sentence-transformers has no `{found.pooling}` pooling; `predict.py` has it, in plain torch."
        )
    parts += [
        "```python\nfrom transformers import AutoModel, AutoTokenizer\n\n"
        'model, tokenizer = AutoModel.from_pretrained("THIS_FOLDER"), AutoTokenizer.from_pretrained("THIS_FOLDER")\n'
        "```",
        '```\npython THIS_FOLDER/predict.py "a text" "another text"\n```',
        "`predict.py` rebuilds a fitted scikit-learn pipeline from `head/`, where nothing is pickled.",
    ]
    return "\n\n".join(parts)
