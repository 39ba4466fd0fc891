"""What makes a model folder one of sentence-transformers'. Plain JSON and weights; the library is not needed."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tasks.embedding.pooling import POOLINGS
from tasks.exporting import predict
from tasks.exporting.cut import SavedCut
from tasks.exporting.reduction import Reduction
from tasks.exporting.states import ExportedState, Source

_MODULES = "sentence_transformers.models"
_OWN = "pooled_layers"


def needs_code(states: Sequence[ExportedState]) -> bool:
    """Whether sentence-transformers has no modules of its own for these states: it takes `pooled_layers.py` then."""
    return (
        len(states) > 1
        or POOLINGS[states[0].state.pooling].sentence_transformers is None
        or states[0].source == Source.NORMED
    )


def write_sentence_transformers(
    into: Path,
    saved: SavedCut,
    hidden_size: int,
    max_length: int,
    reduction: Reduction | None = None,
) -> None:
    """Add the modules after the transformer: what pools the states, and what reduces them.

    `SentenceTransformer(folder)` computes in float32 unless told otherwise.
    """
    modules = ["Transformer"]
    settings = [
        ("sentence_bert_config.json", {"max_seq_length": max_length, "model_args": {"dtype": "float32"}}),
        ("config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"}),
    ]

    def add(name: str, config: dict[str, Any]) -> Path:
        modules.append(name)
        place = into / _path(len(modules) - 1, name)
        place.mkdir()
        settings.append((f"{place.name}/config.json", config))
        return place

    if needs_code(saved.states):
        described = [each.described() for each in saved.states]
        width = hidden_size * len(saved.states)
        add(
            "PooledLayers",
            {"states": described, "final_norm": saved.final_norm, "embedding_dimension": width},
        )
        for script in (_OWN, "predict"):  # the one imports the other
            shutil.copyfile(Path(predict.__file__).with_name(f"{script}.py"), into / f"{script}.py")
    else:
        (only,) = saved.states
        if only.source == Source.HIDDEN:
            # The mean of one layer: the only one from `layer_start` on, where one block more was not kept.
            layers = {"layer_start": only.state.layer, "num_hidden_layers": saved.blocks}
            place = add("WeightedLayerPooling", {"embedding_dimension": hidden_size, **layers})
            weights = np.zeros(saved.blocks + 1 - only.state.layer, np.float32)
            weights[0] = 1
            save_file({"layer_weights": weights}, place / "model.safetensors")
        mode = POOLINGS[only.state.pooling].sentence_transformers
        flags = [each.sentence_transformers for each in POOLINGS.values() if each.sentence_transformers]
        add("Pooling", {"word_embedding_dimension": hidden_size, **{each: each == mode for each in flags}})
    if reduction is not None:
        width, wide = reduction.weight.shape
        place = add(
            "Dense",
            {
                "in_features": wide,
                "out_features": width,
                "bias": True,
                "activation_function": "torch.nn.modules.linear.Identity",
            },
        )
        save_file(
            {
                "linear.weight": np.ascontiguousarray(reduction.weight, np.float32),
                "linear.bias": reduction.bias.astype(np.float32),
            },
            place / "model.safetensors",
        )
    listed = [
        {"idx": i, "name": str(i), "path": _path(i, name) if i else "", "type": _type(name)}
        for i, name in enumerate(modules)
    ]
    for name, content in [("modules.json", listed), *settings]:
        (into / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _path(index: int, name: str) -> str:
    return f"{index}_{name}"


def _type(name: str) -> str:
    return f"{_OWN}.{name}" if name == "PooledLayers" else f"{_MODULES}.{name}"
