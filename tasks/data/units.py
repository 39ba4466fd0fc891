"""What of a data set's rows is independent of the others, and how much each row counts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.data.dataset import Dataset
from tasks.data.stored_table import read_table
from tasks.numerics.clusters import shares_of_clusters


@dataclass(frozen=True)
class Units:
    """Of some rows, N of them."""

    groups: npt.NDArray[np.int64] | None = None
    """[N]: of which group each row is, where rows of one depend on each other; None where each is for itself."""
    weights: npt.NDArray[np.float64] | None = None
    """[N], above 0; None where all count alike."""

    def __getitem__(self, rows: Any) -> "Units":
        """Those of some of the rows."""
        return Units(
            None if self.groups is None else self.groups[rows],
            None if self.weights is None else self.weights[rows],
        )

    @property
    def are_rows(self) -> bool:
        """Whether every row is independent, and counts as all others do."""
        return self.groups is None and self.weights is None

    def of(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values [..., N] of the rows as those of independent units, of the same mean, weighted if they are: as they
        are, or `shares_of_clusters`."""
        return values if self.are_rows else shares_of_clusters(values, self.groups, self.weights)


ROWS = Units()
"""Of rows that are independent, and all count alike."""


def read_units(dataset: Dataset) -> Units:
    """Of all rows of the data set."""
    return _read(dataset.uri, dataset.group_key, dataset.weight_key)


def stored_units(uri: str) -> Units:
    """Of all rows of the data set whose table lies there, by the columns that it has."""
    there = read_table(uri, range(0)).columns
    groups = next((key for key in ("group_id", "text_id") if key in there), None)
    return _read(uri, groups, "weight" if "weight" in there else None)


def _read(uri: str, group_key: str | None, weight_key: str | None) -> Units:
    columns = [each for each in (group_key, weight_key) if each is not None]
    if not columns:
        return ROWS
    table = read_table(uri, columns=columns)
    groups, weights = (None if key is None else table[key].to_numpy() for key in (group_key, weight_key))
    return Units(groups, weights)
