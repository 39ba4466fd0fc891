"""The module of this folder for sentence-transformers, which pools a model's last states alone: here any layers' are.

`layerscout export` has put it here, beside the `predict.py` that it is computed by.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import Module

from .predict import find_norm, pool_states  # noqa: TID252 - the two lie side by side in an exported folder


class PooledLayers(Module):
    """Takes the states of all layers from the transformer before it; see `predict.pool_states` for the arguments."""

    config_keys: list[str] = ["states", "final_norm", "embedding_dimension"]  # noqa: RUF012 - as the library has it

    def __init__(
        self, states: list[dict[str, Any]], final_norm: str | None, embedding_dimension: int
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # the library's has no types
        self.states, self.final_norm, self.embedding_dimension = states, final_norm, embedding_dimension
        self._norm: tuple[torch.nn.Module | None] = (None,)

    def on_model_ready(self, model: Any) -> None:
        """Find the model's final norm. In a tuple, so that its weights are not taken for this module's own."""
        self._norm = (find_norm(model[0].auto_model, self.final_norm),)

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add `sentence_embedding`, [B, embedding_dimension]."""
        features["sentence_embedding"] = pool_states(
            self.states,
            features["token_embeddings"],
            features.get("all_layer_embeddings", ()),
            features["attention_mask"].bool(),
            self._norm[0],
        )
        return features

    def get_embedding_dimension(self) -> int:
        """How wide an embedding is."""
        return self.embedding_dimension

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Its configuration, and the code where sentence-transformers looks for it; it has no weights."""
        self.save_config(output_path)
        for script in (Path(__file__), Path(__file__).with_name("predict.py")):
            shutil.copy(script, Path(output_path).parent)
