"""Whether a model's numbers are its checkpoint's: transformers fills what it does not find with random ones."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

import transformers

from storage.errors import UserError
from tasks.embedding.backbone import find_blocks

log = logging.getLogger(__name__)

PREFIXES = r"^(module|_orig_mod|base_model\.model)\."
"""What training wrappers (DataParallel, torch.compile, PEFT) put before every tensor's name."""

# Parts that `find_backbone` leaves out: whatever they hold, no hidden state depends on it.
_UNUSED = ("pooler.", "project_out.")
_NUMBERED = re.compile(r"^(.*?)\.(\d+)\.")
_SHOWN = 3

# Untyped, as transformers types it.
Load = Callable[..., Any]


def load_whole(load: Load, place: str) -> transformers.PreTrainedModel:
    """The model, if every tensor that its hidden states depend on came from the checkpoint.

    Args:
        load: `from_pretrained` with `output_loading_info=True`; takes a `key_mapping`.
        place: where the checkpoint lies, for people.

    Raises:
        UserError: tensors are missing, of another shape, or of blocks that the configuration does not have.
    """
    model, info = _load(load, place)
    prefixes = sorted({found[0] for key in info["unexpected_keys"] if (found := re.match(PREFIXES, key))})
    if prefixes and _needed(model, info["missing_keys"]):
        log.warning(
            "The tensors of %s carry a training wrapper's prefix, left out: %s", place, ", ".join(prefixes)
        )
        model, info = _load(load, place, key_mapping={PREFIXES: ""})
    missing = _needed(model, info["missing_keys"])
    if missing:
        raise UserError(
            f"{len(missing)} tensors of the model are not in {place} ({_some(missing)}), and transformers would fill "
            "them with random numbers. Does the configuration belong to these weights, and are all files there? Save "
            "the model again with `model.save_pretrained(FOLDER)`."
        )
    surplus = _surplus(model, info["unexpected_keys"])
    if surplus:
        raise UserError(
            f"{place} holds {len(surplus)} tensors of blocks that its configuration does not have ({_some(surplus)}): "
            "its num_hidden_layers is too small for these weights. Mend config.json, or save the model again with "
            "`model.save_pretrained(FOLDER)`."
        )
    return model


def _load(load: Load, place: str, **options: Any) -> Any:
    try:
        return load(**options)
    except RuntimeError as error:
        # How transformers says that shapes differ.
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise UserError(
            f"Tensors in {place} have other shapes than its configuration says. Does the configuration belong to these "
            "weights? Save the model again with `model.save_pretrained(FOLDER)`."
        ) from error


def _needed(model: transformers.PreTrainedModel, missing: Iterable[str]) -> list[str]:
    """Of the tensors that are missing, those that the hidden states depend on: of an encoder-decoder the encoder's."""
    body, _, _ = find_blocks(model)
    prefix = next(name for name, module in model.named_modules() if module is body)
    within = f"{prefix}." if prefix else ""
    unused = tuple(within + part for part in _UNUSED)
    return sorted(key for key in missing if key.startswith(within) and not key.startswith(unused))


def _surplus(model: transformers.PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Tensors of a list of blocks that the model has, beyond its last one."""
    count: dict[str, int] = {}
    for key in model.state_dict():
        if found := _NUMBERED.match(key):
            count[found[1]] = max(count.get(found[1], 0), int(found[2]) + 1)
    prefix = f"{model.base_model_prefix}."
    beyond = []
    for key in unexpected:
        found = _NUMBERED.match(key.removeprefix(prefix))
        if found and int(found[2]) >= count.get(found[1], int(found[2]) + 1):
            beyond.append(key)
    return sorted(beyond)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (" …" if len(keys) > _SHOWN else "")
