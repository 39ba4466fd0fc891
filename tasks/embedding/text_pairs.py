"""Two texts a row: each is embedded by itself, and the features of the row tell how the two embeddings relate.

What is stored of such a row is one embedding of PARTS times the width, so that all that reads embeddings reads it as
any other. The features are those of InferSent (Conneau et al. 2017, arXiv:1705.02364); Sentence-BERT (Reimers and
Gurevych 2019, arXiv:1908.10084) takes the first three parts. They are stored as they come: the scores that choose a
layer and the probe standardise every feature, so that it does not matter to them that u * v is in the square of a
state's unit.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.data.dataset import Dataset
from tasks.embedding.model import ModelFolder

PARTS = 4
"""u, v, |u - v|, u * v."""
FORMULA = "[u, v, |u − v|, u ∗ v]"

K = TypeVar("K")


def are_pairs(table: pl.DataFrame) -> bool:
    """Whether rows of a data set's table have two texts each, which are embedded by themselves."""
    return "pair" in table.columns


def row_width(dataset: Dataset, model: ModelFolder) -> int:
    """Dimensions of what is stored and scored of a row at one layer."""
    return model.hidden_size * (PARTS if dataset.text_pairs == "features" else 1)


def texts_a_row(table: pl.DataFrame) -> int:
    """How many texts of a row are embedded: 1, or 2 of pairs."""
    return 2 if are_pairs(table) else 1


def texts_of(table: pl.DataFrame) -> list[str]:
    """The texts that are embedded of some rows, in their order: N, or of pairs 2·N, the two of a row side by side."""
    if not are_pairs(table):
        return table["text"].to_list()
    return table["pair"].explode(empty_as_null=False).to_list()


def flat(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The texts of N pairs, 2·N, as `texts_of` has them."""
    return [text for pair in pairs for text in pair]


def pair_features(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """[…, 2·N, D], the embeddings u and v of N rows in turn → […, N, 4·D]: u, v, |u - v|, u * v, in float32."""
    u, v = states[..., 0::2, :], states[..., 1::2, :]
    width = states.shape[-1]
    features = np.empty((*u.shape[:-1], PARTS * width), np.float32)
    features[..., :width], features[..., width : 2 * width] = u, v
    np.abs(np.subtract(u, v), out=features[..., 2 * width : 3 * width])
    np.multiply(u, v, out=features[..., 3 * width :])
    return features


def features_of_states(states: dict[K, NDArray[np.float32]]) -> Mapping[K, NDArray[np.float32]]:
    """`pair_features` of each; the states are let go of one by one, so that both are never there of all."""
    return {key: pair_features(states.pop(key)) for key in list(states)}
