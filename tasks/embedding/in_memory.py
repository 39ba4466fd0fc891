"""A model or its states that somebody has in memory → a folder that `path:` or `states:` reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from storage.errors import UserError
from storage.given import keep_given
from tasks.embedding.saved_states import ABOUT


def keep_model(folder: Path, given: Any) -> Path:
    """Keep a loaded model below `folder`, in the dtype that it has; where it lies.

    given: a pair (model, tokenizer) of transformers, or a SentenceTransformer, of which its transformer is taken.

    Raises:
        UserError: it is neither.
    """
    if isinstance(given, tuple) and len(given) == 2:
        model, tokenizer = given
    elif hasattr(given, "encode") and hasattr(given, "tokenizer") and hasattr(given[0], "auto_model"):
        model, tokenizer = given[0].auto_model, given.tokenizer
    else:
        model = tokenizer = None
    if not (hasattr(model, "save_pretrained") and hasattr(model, "config")) or not hasattr(
        tokenizer, "save_pretrained"
    ):
        raise UserError(
            f"The model is neither a spec such as 'hf:OWNER/NAME' nor a pair (model, tokenizer) nor a "
            f"SentenceTransformer, but {type(given).__name__}."
        )

    def write(into: Path) -> None:
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)

    return keep_given(folder, str(model.config.model_type), write)


def keep_states(
    folder: Path, name: str, splits: Mapping[str, Any], labels: Mapping[str, int], *, last_is_normed: bool
) -> Path:
    """Keep hidden states of each split (`train`, and perhaps `test`) below `folder`, rows after rows; where they lie.

    splits: arrays or tensors [N, L, D], or mappings of layer → [N, D], in any floating type. labels: how many there are
    of each split. last_is_normed: the last layer alone has passed the model's final norm.

    Raises:
        UserError: they are neither, not of as many rows as there are labels, or those of the splits are not of the same
            layers.
    """
    parts = [_by_layer(given, split) for split, given in splits.items()]
    for (split, rows), part in zip(labels.items(), parts, strict=True):
        for key, array in part.items():
            if len(array) != rows:
                raise UserError(
                    f"There are {len(array):,} rows of {key} and {rows:,} labels of {split}: every row needs one."
                )
    shapes = [{key: (array.shape[1:], array.dtype) for key, array in part.items()} for part in parts]
    if shapes[0] != shapes[-1]:
        raise UserError("The states of train and of test have not the same layers, features and type.")

    def write(into: Path) -> None:
        (into / ABOUT).write_text(json.dumps({"last_is_normed": last_is_normed}))
        for key in parts[0]:
            arrays = [part[key] for part in parts]
            shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
            kept = np.lib.format.open_memmap(into / f"{key}.npy", "w+", arrays[0].dtype, shape)
            np.concatenate(arrays, out=kept)
            kept.flush()

    return keep_given(folder, name, write)


def _by_layer(given: Any, split: str) -> dict[str, NDArray[Any]]:
    """Arrays by the names of their files: `states` [N, L, D], or `layer_I` [N, D] each."""
    if isinstance(given, Mapping):
        found = {f"layer_{layer}": _as_array(states) for layer, states in given.items()}
    else:
        found = {"states": _as_array(given)}
    axes = 2 if isinstance(given, Mapping) else 3
    for name, array in found.items():
        if array.ndim != axes or array.dtype.kind != "f":
            wanted = "an array [rows, layers, features]" if axes == 3 else "arrays [rows, features] by layer"
            raise UserError(
                f"The states of {split} have to be {wanted} of floating numbers, and {name} is {array.dtype} "
                f"{list(array.shape)}. States of every token have to be pooled first."
            )
    return found


def _as_array(values: Any) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)
