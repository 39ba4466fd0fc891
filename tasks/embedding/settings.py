"""How embeddings are made, as asked for and as resolved on this machine, and the id of the set that comes out."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers

from storage.embeddings import ValueType
from storage.errors import UserError
from tasks.data.dataset import Dataset
from tasks.embedding.comparison import COMPARED_VERSION
from tasks.embedding.embed import EMBED_VERSION, choose_dtype
from tasks.embedding.model import ModelFolder
from tasks.embedding.saved_states import STATES_VERSION
from tasks.vocabulary import LongTexts, NormState, Pooling

PROMPTED_VERSION = 1
"""Raised by hand whenever a change moves a number of texts with a prompt alone; before it, a prompt was not shared."""
SPLIT_VERSION = 1
"""Raised by hand whenever a change moves a number of texts that are split, and of no other."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How embeddings are made: all that changes a number beyond model and data. dtype and device are resolved."""

    poolings: tuple[Pooling, ...]
    norm_states: tuple[NormState, ...]
    max_length: int
    dtype: str
    device: str
    trust_remote_code: bool = False
    max_layer: int | None = None
    token_budget: int | None = None
    storage_dtype: ValueType = "float32"
    prompt: str | None = None
    """The template around every text, with `{text}` in it; None: nothing is."""
    stream_blocks: bool | None = None
    """Read blocks one by one; None: where the weights do not fit. The numbers are the same."""
    long_texts: LongTexts = LongTexts.CUT
    """What becomes of texts of more than `max_length` tokens."""


def resolve_settings(asked: Settings, model: ModelFolder | None = None) -> Settings:
    """Turn `auto` into this machine's device and the dtype that suits it and, where it is known, the model.

    Raises:
        UserError: the device is not one that torch has here.
    """
    if model is not None and model.is_saved_states:
        return replace(asked, device="cpu", dtype="float32")  # in which they are scored
    device, dtype = asked.device, asked.dtype
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).tolist()  # `meta` makes tensors, and keeps no number
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".!")
        raise UserError(
            f"torch has no device {device!r} here (--device): {reason}. Use --device cpu or auto."
        ) from error
    if dtype == "auto":
        dtype = str(choose_dtype(torch.device(device))).removeprefix("torch.")
    if dtype != "float32" and model is not None and model.chooses_experts:
        told = "%s sends each token to some of its experts, and in %s some tokens would get others"
        if asked.dtype == "auto":
            log.warning(f"{told}: it is computed in float32", model.id, dtype)
            dtype = "float32"
        else:
            log.warning(f"{told} than in float32 (--dtype)", model.id, dtype)
    return replace(asked, device=device, dtype=dtype)


def embedding_set_id(
    dataset: Dataset, model: ModelFolder, settings: Settings, cuts: Sequence[int] = ()
) -> str:
    """32 hex digits of a SHA-256 over everything that changes a number.

    cuts: rows before which a shard has to end. A set with them is another one: what reads it relies on its shards.
    """
    if model.is_saved_states:
        made_of = _made_of_states(dataset, model, settings)
    else:
        made_of = _made_by_model(dataset, model, settings)
    if cuts:
        made_of["cuts"] = list(cuts)
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]


def _made_of_states(dataset: Dataset, model: ModelFolder, settings: Settings) -> dict[str, Any]:
    return {
        "dataset": dataset.fingerprint,
        "places": None if dataset.places is None else dataset.places.rpartition("/")[2],
        "states": model.revision,
        "max_layer": settings.max_layer,
        "storage_dtype": settings.storage_dtype,
        "poolings": sorted(settings.poolings),
        "states_version": STATES_VERSION,
    }


def _made_by_model(dataset: Dataset, model: ModelFolder, settings: Settings) -> dict[str, Any]:
    made_of: dict[str, Any] = {
        "dataset": dataset.fingerprint,
        "model": model.id,
        "revision": model.revision,
        "dtype": settings.dtype,
        "max_length": settings.max_length,
        "max_layer": settings.max_layer,
        "token_budget": settings.token_budget,
        "storage_dtype": settings.storage_dtype,
        "poolings": sorted(settings.poolings),
        "norm_states": sorted(settings.norm_states),
        "device_kind": torch.device(settings.device).type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "embed_version": EMBED_VERSION,
    }
    if dataset.words is not None:
        made_of["words"] = dataset.words.rpartition("/")[2]
    if settings.prompt is not None:
        made_of["prompt"] = settings.prompt
        made_of["prompted_version"] = PROMPTED_VERSION
    if settings.long_texts is LongTexts.SPLIT:
        made_of["long_texts"] = settings.long_texts
        made_of["split_version"] = SPLIT_VERSION
    if model.runs_own_code:
        made_of["trust_remote_code"] = True
    if not model.tested:
        made_of["compared"] = COMPARED_VERSION
    return made_of
