"""What a sweep will cost, from configuration and tokenizer alone: rows, tokens, shards, seconds and bytes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from storage.files import exists
from storage.layout import Layout
from tasks.data.dataset import Dataset
from tasks.embedding.backbone import find_blocks
from tasks.embedding.description import empty_model, load_tokenizer
from tasks.embedding.model import ModelFolder
from tasks.embedding.prompts import with_prompt
from tasks.embedding.row_tokens import UNCUT, tokenise_uncut
from tasks.embedding.set_plan import BATCHES_PER_SHARD, SECONDS_PER_SHARD
from tasks.embedding.set_records import kept_calibration, kept_plan
from tasks.embedding.settings import Settings, embedding_set_id
from tasks.embedding.shards import plan_shards
from tasks.embedding.text_pairs import row_width
from tasks.embedding.tokens import around_to_split, check_known, check_room, tokens_in_windows
from tasks.embedding.windows import check_joined
from tasks.scoring.criteria import score_criteria
from tasks.scoring.features import Features
from tasks.scoring.layer_scores import ScoringSettings, silhouette_of
from tasks.scoring.probe import fit_probe_on
from tasks.vocabulary import LongTexts

ASSUMED_SHARE = 0.5
"""Of what one large matrix product makes on this machine, where no calibration of the same set exists."""
_ASSUMED_BUDGET = {"cpu": 2_048, "cuda": 65_536}
_ROWS = 1_024
_MEASURED_S = 0.5
# Rows of the made-up layer that is scored to see how fast this machine does it.
_SCORED_ROWS = 5_000
_WARM_UP_ROWS = 500


@dataclass(frozen=True)
class Forecast:
    """Seconds are of embedding alone; bytes of the embeddings as stored. Shards that lie there cost nothing."""

    rows: int
    tokens: int
    cut_share: float
    """Share of the texts, 0–1, that are cut at the maximum length."""
    split_share: float
    """Share of the texts, 0–1, that are read in windows."""
    split_tokens: int
    """Of the tokens those of windows after each text's first."""
    shards: int
    shards_done: int
    seconds: float
    basis: str
    """Where the seconds come from, for people."""
    bytes: int
    parameters: int
    """Of the headless model, its embedding tables included."""


def count_tokens(
    model: ModelFolder,
    texts: Sequence[str] | Sequence[Sequence[str]],
    *,
    max_length: int = UNCUT,
    prompt: str | None = None,
    trust_remote_code: bool = False,
) -> npt.NDArray[np.int32]:
    """Tokens of each text with its prompt, uncut: int32 [N]. texts: or the words of each.

    Raises:
        UserError: `max_length` would leave no token of any text.
    """
    tokenizer = load_tokenizer(Path(model.folder), trust_remote_code=trust_remote_code)
    tokenizer = with_prompt(tokenizer, prompt)
    check_room(tokenizer, max_length)
    tokens = tokenise_uncut(tokenizer, texts)
    check_known(tokens, tokenizer, model.id)
    return tokens.counts


def forecast_sweep(
    layout: Layout,
    dataset: Dataset,
    model: ModelFolder,
    settings: Settings,
    token_counts: npt.NDArray[np.int32],
) -> Forecast:
    """The plan and its cost. settings: resolved. token_counts: int32 [N], uncut; of text pairs [2·N], as `texts_of`.

    The plan is the one that an earlier run of the same set has written, else shards are cut for the speed that an
    earlier calibration measured, else for ASSUMED_SHARE of a matrix product's that is measured now.
    """
    rows = dataset.train_rows + dataset.test_rows
    of_texts = cut = np.minimum(token_counts, settings.max_length)
    if splits := settings.long_texts is LongTexts.SPLIT:
        of_texts = _in_windows(token_counts, model, settings)
    counts = of_texts.reshape(-1, 2 if dataset.text_pairs == "features" else 1).sum(axis=1)
    blocks, parameters = _parameters(model, settings.trust_remote_code)
    depth = model.layers if settings.max_layer is None else settings.max_layer
    set_id = embedding_set_id(dataset, model, settings)
    done = 0
    left = int(counts.sum())
    if calibration := kept_calibration(set_id):
        rate, budget = calibration.tokens_per_second, settings.token_budget or calibration.token_budget
        basis = f"this machine's calibration of the same set, {rate:,.0f} tokens/s"
    else:
        flops = _flops(model.hidden_size, settings.dtype, settings.device)
        rate = ASSUMED_SHARE * flops / (2 * blocks * depth / model.layers)
        budget = settings.token_budget or _ASSUMED_BUDGET["cpu" if settings.device == "cpu" else "cuda"]
        basis = (
            f"assumed: {ASSUMED_SHARE:.0%} of the {flops / 1e9:,.0f} GFLOP/s that a {settings.dtype} matrix product "
            f"makes here just now, {rate:,.0f} tokens/s"
        )
    if plan := kept_plan(layout, set_id, rows):
        finished = [each for each in plan.shards if exists(layout.shard_record(set_id, each.index))]
        number, done = len(plan.shards), len(finished)
        left -= sum(each.tokens for each in finished)
    else:
        number = len(plan_shards(counts, max(int(rate * SECONDS_PER_SHARD), budget * BATCHES_PER_SHARD)))
    longer = float((token_counts > settings.max_length).mean())
    vectors = rows * (depth + 1) * len(settings.poolings) * len(settings.norm_states)
    return Forecast(
        rows=rows,
        tokens=int(counts.sum()),
        cut_share=0.0 if splits else longer,
        split_share=longer if splits else 0.0,
        split_tokens=int(counts.sum() - cut.sum()),
        shards=number,
        shards_done=done,
        seconds=left / rate,
        basis=basis,
        bytes=vectors * row_width(dataset, model) * (2 if settings.storage_dtype == "float16" else 4),
        parameters=parameters,
    )


def _in_windows(
    token_counts: npt.NDArray[np.int32], model: ModelFolder, settings: Settings
) -> npt.NDArray[np.int32]:
    """Tokens that are computed of each text where long ones are split: int32 [N]; `UserError` where they cannot be."""
    check_joined(settings.poolings)
    tokenizer = load_tokenizer(Path(model.folder), trust_remote_code=settings.trust_remote_code)
    around = sum(around_to_split(with_prompt(tokenizer, settings.prompt), settings.max_length))
    return np.array(
        [tokens_in_windows(int(each), settings.max_length, around) for each in token_counts], dtype=np.int32
    )


def forecast_scoring(dataset: Dataset, width: int, layers: int, settings: ScoringSettings) -> float:
    """Seconds to score `layers` layers of the data set on the cores here, from one made-up layer of as many rows, or
    fewer.

    Silhouettes and criteria look at pairs of train rows, and the probe at rows: so the time is scaled up, that of
    silhouettes to no more rows than they take.
    """
    draw = np.random.default_rng(0)
    classes = len(dataset.classes)
    train, test = (min(rows, _SCORED_ROWS) for rows in (dataset.train_rows, dataset.test_rows))
    y = np.arange(train + test) % classes
    centres = 0.1 * draw.standard_normal((classes, width), dtype=np.float32)
    X = draw.standard_normal((train + test, width), dtype=np.float32) + centres[y]

    def seconds(train: slice, test: slice) -> tuple[float, float, float]:
        """Of silhouettes, of criteria and of the probe."""
        started = time.perf_counter()
        for metric in settings.metrics:
            silhouette_of(torch.from_numpy(X[train]), y[train], metric, settings, seed=0)
        silhouettes = time.perf_counter()
        features = Features(X[train], y[train])
        score_criteria(features, names=settings.criteria)
        criteria = time.perf_counter()
        fit_probe_on(features, X[test], y[test], protocol=settings.protocol)
        return silhouettes - started, criteria - silhouettes, time.perf_counter() - criteria

    few = slice(0, max(2 * classes, min(train, _WARM_UP_ROWS)))
    seconds(few, few)  # the first one warms up
    silhouettes, criteria, probe = seconds(slice(0, train), slice(train, None))
    larger = dataset.train_rows / train
    sampled = min(dataset.train_rows, settings.silhouette_rows) / min(train, settings.silhouette_rows)
    return layers * (silhouettes * sampled**2 + criteria * larger**2 + probe * larger)


def _parameters(model: ModelFolder, trust_remote_code: bool) -> tuple[int, int]:
    """Of everything but the embedding tables, and of all; the model is described, not built."""
    described = empty_model(Path(model.folder), model.id, trust_remote_code=trust_remote_code)
    find_blocks(described)  # what a sweep would refuse, it refuses here already
    whole = sum(each.numel() for each in described.parameters())
    tables = sum(each.weight.numel() for each in described.modules() if isinstance(each, nn.Embedding))
    return whole - tables, whole


def _flops(width: int, dtype: str, device: str) -> float:
    """Floating point operations a second of a product as wide as the model's, on all cores."""
    kind = getattr(torch, dtype)
    rows = torch.ones(_ROWS, width, dtype=kind, device=device)
    weights = torch.ones(width, 4 * width, dtype=kind, device=device)
    (rows @ weights)[0, 0].item()  # the first one warms up
    products, started = 0, time.perf_counter()
    while time.perf_counter() - started < _MEASURED_S:
        (rows @ weights)[0, 0].item()
        products += 1
    return products * 2 * _ROWS * width * 4 * width / (time.perf_counter() - started)
