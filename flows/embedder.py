"""A transformer for scikit-learn's pipelines: texts in, embeddings of the layer that separates labels best out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from flows.api import sweep

if TYPE_CHECKING:
    from collections.abc import Mapping


class LayerEmbedder(TransformerMixin, BaseEstimator):
    """Choose a layer of a frozen model by the labels of the fitted texts, and embed texts with it.

    Args:
        model: as of `layerscout.sweep`.
        together: embed with all layers that stand side by side, where fitting finds some.
        storage: the folder of embeddings and results.
        options: further ones of `layerscout.sweep`, by name.

    Attributes:
        answer_: the `layerscout.Answer`. A part of the fitted rows is set aside for its audit.
        classes_: the labels, in order; of lists of tags or labels what all of them hold.
    """

    def __init__(
        self,
        model: Any = "wheel:smollm2-135m",
        *,
        together: bool = False,
        storage: str = "layerscout-out",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.together = together
        self.storage = storage
        self.options = options

    def fit(self, X: Any, y: Any) -> Self:
        """Sweep over the model's layers with texts X [N] and labels y [N].

        Raises:
            UserError: in words, whatever is wrong with them.
        """
        self.answer_ = sweep(self.model, X, y, storage=self.storage, **(self.options or {}))
        self.classes_ = _distinct(y)
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Texts [N] → float32 [N, D]."""
        check_is_fitted(self, "answer_")
        together = self.together and len(self.answer_.layers) > 1
        return self.answer_.encode(X, together=together)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        return tags


def _distinct(y: Any) -> NDArray[Any]:
    if y is None:  # the texts were a table with labels of its own
        return np.asarray([])
    rows = list(y.tolist() if hasattr(y, "tolist") else y)
    if any(hasattr(row, "__len__") and not isinstance(row, str | bytes) for row in rows):
        rows = [label for row in rows if row is not None for label in row if label is not None]
    return np.unique(np.asarray(rows))
