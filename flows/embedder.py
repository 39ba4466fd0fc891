"""A transformer for scikit-learn's pipelines: texts in, embeddings of the layer that separates labels best out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from flows.api import sweep
from storage.errors import UserError
from tasks.vocabulary import Task

if TYPE_CHECKING:
    from flows.answer import Answer


class LayerEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Choose a layer of a frozen model by the labels of the fitted texts, and embed texts with it.

    Args:
        model: as of `layerscout.sweep`.
        together: embed with all layers that stand side by side, where fitting finds some.
        storage: the folder of embeddings and results.
        options: further ones of `layerscout.sweep`, by name.

    Attributes:
        answer_: the `layerscout.Answer`. A part of the fitted rows is set aside for its audit.
        classes_: the labels, in order; of lists of tags or labels what all of them hold, of numbers in a table none.
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

    def fit(self, X: Any, y: Any = None) -> Self:
        """Sweep over the model's layers with texts X [N] and labels y [N]; or with a table X that has both.

        Raises:
            UserError: in words, whatever is wrong with them.
        """
        options = {} if self.options is None else self.options
        own = {"model", "texts", "labels", "storage"}
        if not isinstance(options, Mapping) or own & set(options):
            raise UserError(
                f"options={options!r:.100} are to be a mapping of further options of layerscout.sweep; model and "
                "storage are arguments of their own, texts and labels those of fit."
            )
        y = list(y) if isinstance(y, Iterator) else y  # a sweep reads it first
        self.answer_ = sweep(self.model, X, y, storage=self.storage, **options)
        self.classes_ = _told_by(self.answer_) if y is None else _distinct(y)
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Texts [N] → float32 [N, D]."""
        check_is_fitted(self, "answer_")
        together = self.together and len(self.answer_.layers) > 1
        return self.answer_.encode(X, together=together)

    @property
    def _n_features_out(self) -> int:
        """What names of features are made of."""
        tables = self.answer_.tables
        layers = len(self.answer_.layers) if self.together else 1
        features = 1 if tables["dataset"]["text_pairs"].item() is None else 4
        return int(tables["model"]["hidden_size"].item()) * layers * features

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        return tags


def _told_by(answer: Answer) -> NDArray[Any]:
    """The labels of a table that had them."""
    told = answer.tables["dataset"].row(0, named=True)
    if told["task"] == Task.REGRESSION:
        return np.asarray([])
    return np.unique(np.asarray(told["label_names"] or told["classes"]))


def _distinct(y: Any) -> NDArray[Any]:
    if isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype != object:
        return np.unique(y)  # as they are: Python's numbers may become others
    rows = list(y.tolist() if hasattr(y, "tolist") else y)
    if any(hasattr(row, "__len__") and not isinstance(row, str | bytes) for row in rows):
        rows = [label for row in rows if row is not None for label in row if label is not None]
    return np.unique(np.asarray(rows))
