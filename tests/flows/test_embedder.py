"""Which labels a fitted embedder names, whatever they came in; what it embeds is in test_api."""

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import flows.embedder
from layerscout import LayerEmbedder

TAGS = [["O", "B-X"], ["O"], ["B-X", "I-X", "O"]]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "b"], ["a", "b"]),
        (np.array([2, 0, 1]), [0, 1, 2]),
        (torch.tensor([2, 0, 2]), [0, 2]),
        (pd.Series(["b", "a"]), ["a", "b"]),
        (pl.Series([True, False]), [False, True]),
        (TAGS, ["B-X", "I-X", "O"]),
        (pl.Series(TAGS), ["B-X", "I-X", "O"]),
        (pd.Series(TAGS), ["B-X", "I-X", "O"]),
        ([np.array(each) for each in TAGS], ["B-X", "I-X", "O"]),
        ([["O", "X"], ["X", "O"]], ["O", "X"]),
        # Several labels a text.
        ([["joy"], [], ("fear", "joy", None)], ["fear", "joy"]),
        ([[], []], []),
        (np.array([0, 2**63 + 5], dtype=np.uint64), [0, 2**63 + 5]),
        ((each for each in "ba"), ["a", "b"]),
    ],
)
def test_classes_are_all_labels_in_order(
    labels: Any, classes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.embedder, "sweep", lambda *_, **__: None)
    assert LayerEmbedder().fit(["a", "b", "c"], labels).classes_.tolist() == classes
