"""The exported folder, loaded as anybody would, held against the whole model: embeddings, labels, size and pace."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModel, AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from storage.errors import UserError
from tasks.embedding.model import LoadedModel
from tasks.embedding.text_pairs import PARTS
from tasks.exporting.cut import quiet
from tasks.exporting.linear_head import Head
from tasks.exporting.predict import embed, load_classifier, reduce_states
from tasks.exporting.recorded_run import DrawnTexts, RecordedRun, draw_test_texts
from tasks.exporting.states import Cut
from tasks.exporting.whole_model import embed_cut
from tasks.scoring.probe import Probe
from tasks.vocabulary import Task

# Test rows of which exported and whole model are compared, and the first of them, on which both are timed.
CHECKED_ROWS = 256
TIMED_ROWS = 16
# Of the largest value: rounding stays far below it, a wrong block far above.
TOLERANCE = 1e-4
# Numbers are told alike within this share of their deviation.
CLOSE = 0.01

_REPEATS = 5


@dataclass(frozen=True)
class CheckedRows:
    """Test rows on which whole and exported model must agree."""

    drawn: DrawnTexts
    expected: NDArray[np.float32]
    """float32 [C, D]: the whole model's embeddings of them, or features of their texts."""


@dataclass(frozen=True)
class ExportedCheck:
    """What the comparison found. Pairs are of the cut and of the whole model."""

    checked_rows: int
    deviation: float
    """Largest difference of an embedding from the whole model's, over the largest value of those; before they are
    reduced to fewer dimensions, which divides by the features' deviations and so enlarges what is but rounding."""
    agreement: float
    """Share of the checked rows that the exported model and the head's own embeddings label alike, 0–1."""
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    """Of the safetensors files."""
    tokens_per_second: tuple[float, float]


@dataclass(frozen=True)
class Size:
    """What a headless model weighs."""

    parameters: int
    bytes: int
    """Of the safetensors files in its folder."""


@dataclass(frozen=True)
class Rates:
    """Tokens per second of a plain forward pass, float32: medians of alternating repeats on the same texts."""

    whole: float
    cut: float


def whole_model_embeddings(run: RecordedRun, whole: LoadedModel, cut: Cut) -> CheckedRows:
    """Draw the rows to check by the run's seed, and embed them with the whole model."""
    drawn = draw_test_texts(run, CHECKED_ROWS)
    return CheckedRows(drawn, embed_cut(run, whole, cut, drawn.texts)[drawn.own])


def check_exported(
    run: RecordedRun, cut: Cut, folder: Path, head: Head, checked: CheckedRows
) -> ExportedCheck:
    """Load the folder as anybody would, and hold its embeddings and labels against the whole model's.

    cut: what the folder gives the embeddings of. checked: of the whole model, reduced to no fewer dimensions.

    Raises:
        UserError: the embeddings are not those of the whole model.
    """
    device, trust = run.settings.device, run.settings.trust_remote_code
    texts = checked.drawn.texts
    try:
        given = list(zip(texts[::2], texts[1::2], strict=True)) if run.of_pairs else texts
        states = embed(folder, given, trust_remote_code=trust, device=device, reduced=False)
        states = states[checked.drawn.own]
        model, tokenizer = load_plain(folder, device, trust_remote_code=trust)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a stranger's code, with fewer blocks than it was made for
        raise UserError(
            f"The {run.model.family!r} model cut after layer {cut.deepest} does not run as anybody would load it "
            f"({type(error).__name__}: {error}), so this family cannot be cut there. Nothing was written."
        ) from error
    deviation = _deviation(states, checked.expected, len(cut.states) if run.of_pairs else 0)
    if not deviation <= TOLERANCE:
        raise UserError(
            f"The {run.model.family!r} model cut after layer {cut.deepest} does not give the whole model's embeddings: "
            f"they differ by {deviation:.1e} of the largest value, so this family cannot be cut there. Nothing was "
            "written."
        )
    original, _ = load_plain(Path(run.model.folder), device, trust_remote_code=trust)
    sizes = size_of(model, folder), size_of(original, Path(run.model.folder))
    timed = [" ".join(words) for words in texts[:TIMED_ROWS]] if run.of_words else texts[:TIMED_ROWS]
    rates = measure_rates(original, model, tokenizer, timed, run.settings.max_length)
    rows = checked.drawn.rows
    return ExportedCheck(
        checked_rows=len(rows),
        deviation=deviation,
        agreement=_agreement(run, head, rows, load_classifier(folder).predict(reduce_states(folder, states))),
        parameters=(sizes[0].parameters, sizes[1].parameters),
        bytes=(sizes[0].bytes, sizes[1].bytes),
        tokens_per_second=(rates.cut, rates.whole),
    )


def _deviation(found: NDArray[np.floating], expected: NDArray[np.float32], states: int) -> float:
    """Largest difference over the largest value.

    states: of text pairs, how many states have features side by side; else 0. The parts of such features are of other
    sizes, so each is held against its own: u and v against their largest, |u - v| against that of both, of which it
    is a difference, and u * v against their product.
    """
    away = np.abs(found - expected)
    if not states:
        return float(away.max() / np.abs(expected).max())
    parts = (len(expected), states, PARTS, -1)
    largest = np.abs(expected).reshape(parts).max(axis=(0, 3))
    u, v = largest[:, 0], largest[:, 1]
    scales = np.stack([u, v, np.maximum(u, v), u * v], axis=1)
    return float((away.reshape(parts).max(axis=(0, 3)) / scales).max())


def _agreement(
    run: RecordedRun, head: Head, rows: NDArray[np.integer], predicted: NDArray[np.generic]
) -> float:
    """Of some test rows the share, 0–1, that the folder tells what the head was fitted to tell."""
    if isinstance(head, Probe):
        names = np.array([run.dataset.classes[label] for label in head.classes.tolist()])
        return float((predicted == names[np.searchsorted(head.classes, head.predictions[rows])]).mean())
    found, fitted = predicted.reshape(len(rows), -1).astype(np.float64), head.predicted[rows]
    if run.dataset.task is Task.MULTI_LABEL:
        same = (found > head.rule.threshold) == (fitted > head.rule.threshold)
    else:
        same = np.abs(found - fitted) <= CLOSE * head.predicted.std()
    return float(same.all(axis=1).mean())


def load_plain(
    folder: Path, device: str = "cpu", *, trust_remote_code: bool = False
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Model and tokenizer as anybody loads them: AutoModel in float32, nothing of ours."""
    with quiet():
        model = AutoModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=trust_remote_code
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    return model.eval().to(device), tokenizer


def measure_rates(
    whole: nn.Module,
    cut: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
) -> Rates:
    """Time whole and cut model in turns on one batch of texts, tokens without padding counted."""
    batch = _inputs(whole, tokenizer, texts, max_length)
    tokens = int(batch["attention_mask"].sum())
    seconds: dict[nn.Module, list[float]] = {whole: [], cut: []}
    for repeat in range(_REPEATS + 1):
        for model, times in seconds.items():
            started = time.perf_counter()
            with torch.inference_mode():
                model(**batch).last_hidden_state.sum().item()  # `item` waits for a GPU
            if repeat:  # the first of each warms up
                times.append(time.perf_counter() - started)
    return Rates(tokens / statistics.median(seconds[whole]), tokens / statistics.median(seconds[cut]))


def size_of(model: nn.Module, folder: Path) -> Size:
    """Parameters of the model and bytes of its weights on disk."""
    return Size(
        sum(each.numel() for each in model.parameters()),
        sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    )


def _inputs(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> dict[str, torch.Tensor]:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    encoded = tokenizer(
        list(texts),
        padding=True,
        padding_side="right",
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
    )
    device = next(model.parameters()).device
    # Token types of a single text are all 0, which every model takes for granted.
    return {name: encoded[name].to(device) for name in ("input_ids", "attention_mask")}
