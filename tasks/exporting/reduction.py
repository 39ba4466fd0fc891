"""Fewer dimensions for an embedding: principal components of its standardised features, fitted on train rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from storage.errors import UserError


@dataclass(frozen=True)
class Reduction:
    """An affine map of embeddings x [D]: weight · x + bias."""

    weight: NDArray[np.float64]
    """[W, D]."""
    bias: NDArray[np.float64]
    """[W]."""

    def apply(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [N, D] → float32 [N, W]."""
        return (embeddings @ self.weight.T + self.bias).astype(np.float32)


def check_width(width: int, rows: int, dimensions: int) -> None:
    """Raises UserError where so many train rows of so many dimensions have not that many components."""
    most = min(rows - 1, dimensions)
    if not 1 <= width <= most:
        raise UserError(
            f"The embedding can be reduced to 1 to {most:,} dimensions, not to {width:,} (--width): it has "
            f"{dimensions:,}, and {rows:,} train rows."
        )


def fit_reduction(train: NDArray[np.float32], width: int) -> Reduction:
    """The first `width` principal components of the train rows [N, D], each feature standardised before.

    Layers side by side come in one scale so, whichever of them has the larger values.

    Raises:
        UserError: there are not so many components.
    """
    check_width(width, *train.shape)
    scaler = StandardScaler()
    found = PCA(width, svd_solver="full").fit(scaler.fit_transform(train.astype(np.float64)))
    weight = found.components_ / scaler.scale_
    return Reduction(weight, -weight @ scaler.mean_ - found.components_ @ found.mean_)
