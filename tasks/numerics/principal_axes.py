"""Rows in the coordinates of their principal axes: what ridge, LogME, whitening and probes of a layer start from."""

from dataclasses import dataclass
from functools import reduce

import torch

from tasks.numerics.cores import cores, one_thread
from tasks.numerics.matrix_products import eigh, gram, product

# Up to this width the Gram matrix and its decomposition are done in float64. Beyond it float32
# serves (a test says how well), and saves much of the time.
FLOAT64_WIDTH = 256
# Rows whose float32 products are added up in float64.
GRAM_ROWS = 2_048
# Rows that a core multiplies at a time.
ROTATED_ROWS = 1_024


@dataclass(frozen=True)
class PrincipalAxes:
    """Centred rows Z [N, D] = coordinates · axes. Columns of the coordinates are uncorrelated over all N rows."""

    coordinates: torch.Tensor
    """float32 [N, r]: r = D where there are more rows than features, else at most N − 1."""
    axes: torch.Tensor
    """float64 or float32 [r, D], orthonormal rows."""

    @classmethod
    def of(
        cls, Z: torch.Tensor, values: torch.Tensor, vectors: torch.Tensor, *, in_place: bool = False
    ) -> "PrincipalAxes":
        """From what `decompose` gives for Z, or from its last values and vectors for the largest axes alone.

        in_place: with all axes, where there are more rows than features the coordinates take the place of Z.
        """
        if len(Z) > Z.shape[1]:
            axes = vectors.T
            return cls(_rotated(Z, axes.float().contiguous(), Z if in_place else None), axes)
        # Under this share an eigenvalue is what rounding leaves of nothing, and has no axis.
        share = 1e-10 if vectors.dtype == torch.float64 else 1e-6
        kept = values > share * values[-1].clamp_min(0.0)
        left, size = vectors[:, kept], values[kept].sqrt()
        return cls((left * size).float(), (left / size).T.to(vectors.dtype) @ Z.to(vectors.dtype))


def decompose(Z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues, float64 [m], increasing, and eigenvectors [m, m] of `smaller_gram`; Z float32 [N, D]."""
    return decompose_gram(smaller_gram(Z))


def smaller_gram(Z: torch.Tensor) -> torch.Tensor:
    """The smaller of ZᵀZ and ZZᵀ, float64 [m, m], of float32 products if it is wide; Z float32 [N, D]."""
    return _gram(Z) if len(Z) > Z.shape[1] else _gram(Z.T.contiguous())


def decompose_gram(total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues, float64 [m], increasing, and eigenvectors [m, m] of what `smaller_gram` gave."""
    # Half of the work is reading the matrix over and over: a second thread mostly waits.
    with one_thread():
        values, vectors = eigh(total if len(total) <= FLOAT64_WIDTH else total.float())
    return values.double(), vectors


def _gram(Z: torch.Tensor) -> torch.Tensor:
    """ZᵀZ [D, D] float64, of float32 products if it is wide."""
    dtype = torch.float64 if Z.shape[1] <= FLOAT64_WIDTH else torch.float32
    blocks = Z.split(GRAM_ROWS)

    def part(which: range) -> torch.Tensor:
        total = torch.zeros(Z.shape[1], Z.shape[1], dtype=torch.float64, device=Z.device)
        for i in which:
            total += gram(blocks[i].to(dtype))
        return total

    with cores(Z.device) as shared:
        count = min(shared.count, len(blocks))
        return reduce(torch.add, shared.map(part, [range(i, len(blocks), count) for i in range(count)]))


def _rotated(Z: torch.Tensor, axes: torch.Tensor, into: torch.Tensor | None) -> torch.Tensor:
    """Z [N, D] · axes [r, D]ᵀ, float32 [N, r]; into: where it is put, which may be Z."""
    out = torch.empty(len(Z), len(axes), dtype=torch.float32, device=Z.device) if into is None else into

    def fill(at: slice) -> None:
        out[at] = product(Z[at], axes)

    with cores(Z.device) as shared:
        shared.map(fill, [slice(start, start + ROTATED_ROWS) for start in range(0, len(Z), ROTATED_ROWS)])
    return out
