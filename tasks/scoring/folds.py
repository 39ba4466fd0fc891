"""Parts of the train rows that are held out in turn, to choose a penalty."""

from dataclasses import dataclass

import numpy as np

FOLDS = 5


@dataclass(frozen=True)
class Folds:
    """Of N rows."""

    fold: np.ndarray
    """int [N]: with which rows each is held out; −1 never."""
    predicted: np.ndarray
    """bool [N]: whether it is predicted then. Of a class that would be missing from the others nothing is learnt."""

    def share_told(self, codes: np.ndarray, count: int) -> float:
        """Of the rows, 0–1, the share whose class has rows that are predicted, if the first `count` folds are."""
        held = self.predicted & (self.fold >= 0) & (self.fold < count)
        return float(np.isin(codes, codes[held]).mean())


def folds_of(codes: np.ndarray, groups: np.ndarray | None, seed: int) -> Folds:
    """Folds of rows with these class numbers [N]; groups: [N], of rows that depend on each other."""
    return _of_rows(codes, seed) if groups is None else _of_groups(codes, groups, seed)


def _of_rows(codes: np.ndarray, seed: int) -> Folds:
    """Every class spread evenly; those under FOLDS rows are never held out."""
    draw = np.random.default_rng(seed)
    fold = np.full(len(codes), -1)
    for c in range(codes.max() + 1):
        members = draw.permutation(np.flatnonzero(codes == c))
        if len(members) >= FOLDS:
            fold[members] = (np.arange(len(members)) + c) % FOLDS
    return Folds(fold, np.ones(len(codes), dtype=bool))


def _of_groups(codes: np.ndarray, groups: np.ndarray, seed: int) -> Folds:
    """All rows of a group are held out together; those of a class that no other fold has are not predicted then."""
    numbers, of_row = np.unique(groups, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(numbers)) % FOLDS)[of_row]
    folds_of_class = np.bincount(np.unique(np.stack([codes, fold]), axis=1)[0])
    return Folds(fold, folds_of_class[codes] > 1)
