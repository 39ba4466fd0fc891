"""The README.md of an exported model: what it is, the evidence, how to use it, and what it was made of."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from storage.sources.grammar import parse_source
from tasks.exporting.cut import SENTENCE_TRANSFORMERS_POOLING
from tasks.exporting.exported_check import ExportedCheck
from tasks.exporting.recorded_run import Cut, RecordedRun, probe_row
from tasks.reporting.answer import answer_sentence, one_line, p_value, percent, points
from tasks.scoring.probe import Probe


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
    runs_own_code: bool
    """The model runs Python code that it brings."""


def evidence_of(
    run: RecordedRun,
    cut: Cut,
    head: Probe,
    difference: tuple[float, float, float, float],
    check: ExportedCheck,
) -> Evidence:
    """All that the export found, in one record. difference: of `linear_head.audit_again`."""
    answer = run.answer
    by_hand = f"Layer {cut.layer} was named by hand in place of the chosen layer {answer['layer']}."
    return Evidence(
        run=run.row,
        dataset=run.tables["dataset"].row(0, named=True),
        answer=answer_sentence(run.tables),
        reason=answer["reason"] if cut.layer == answer["layer"] else by_hand,
        layer=cut.layer,
        layers=run.model.layers,
        pooling=cut.pooling.value,
        chosen_as=cut.chosen_as.value,
        norm_state=cut.norm_state.value,
        audited_accuracy=probe_row(run, cut)["accuracy"],
        accuracy=head.accuracy,
        accuracy_low=head.accuracy_low,
        accuracy_high=head.accuracy_high,
        difference=difference,
        device=run.settings.device,
        has_sentence_transformers=cut.pooling in SENTENCE_TRANSFORMERS_POOLING,
        runs_own_code=run.model.runs_own_code,
        **asdict(check),
    )


def write_model_card(found: Evidence) -> str:
    """The page in Markdown, with the head that the hub reads."""
    run = found.run
    source = parse_source(run["model_id"])
    base = source.hub_id or _for_others(source.spec)
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
        f"`{_for_others(run['model_id'])}` cut after layer {found.layer}: its embeddings ({found.pooling} pooling, "
        f"norm state `{found.norm_state}`) and a linear head for the {len(found.dataset['classes'])} classes of "
        f"`{_for_others(run['dataset_id'])}`. Made by layerscout; the licence of the model it was cut from holds.",
        "## Evidence",
        found.answer,
        found.reason,
        _table(found),
        _norm_state(found),
        "## Use",
        _prompt(found),
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


def _prompt(found: Evidence) -> str:
    prompt = found.run.get("prompt")  # runs of older versions do not say
    if prompt is None:
        return ""
    return (
        f"The tokenizer puts every text into the prompt `{one_line(prompt)}`, with which the layer was "
        "chosen: give it the text alone, and no prompt of another library's beside it."
    )


def _norm_state(found: Evidence) -> str:
    if found.chosen_as == found.norm_state:
        return ""
    difference, low, high, p = found.difference
    return (
        f"The layer was chosen as `{found.chosen_as}`; a model that ends there puts its states through its final norm, "
        f"so the head was fitted and audited again on `{found.norm_state}`: {points(difference)} points "
        f"(95 % interval {points(low)} to {points(high)}, {p_value(p)})."
    )


def _for_others(spec: str) -> str:
    """The spec, or of a place on this machine the last part of its path."""
    source = parse_source(spec)
    return source.short_name if source.is_local else spec


def _library(found: Evidence) -> str:
    return "sentence-transformers" if found.has_sentence_transformers else "transformers"


def _use(found: Evidence) -> str:
    parts = []
    trust, flag = (", trust_remote_code=True", " --trust-remote-code") if found.runs_own_code else ("", "")
    if found.runs_own_code:
        parts.append(
            "**The model runs Python code of its own**, which lies in this folder: read it before you allow it. "
            "Without `trust_remote_code=True` the folder does not load, or loads as another model."
        )
    if found.has_sentence_transformers:
        parts.append(
            "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
            f'embeddings = SentenceTransformer("THIS_FOLDER"{trust}).encode(["a text"])\n```'
        )
    else:
        parts.append(
            f"sentence-transformers has no `{found.pooling}` pooling; `predict.py` has it, in plain torch."
        )
    parts += [
        "```python\nfrom transformers import AutoModel, AutoTokenizer\n\n"
        f'model = AutoModel.from_pretrained("THIS_FOLDER"{trust})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER"{trust})\n```',
        f'```\npython THIS_FOLDER/predict.py{flag} "a text" "another text"\n```',
        "`predict.py` rebuilds a fitted scikit-learn pipeline from `head/`, where nothing is pickled.",
    ]
    return "\n\n".join(parts)
