"""What scoring, choosing and reporting share: one layer of a run, one curve of its layers, and where their rows lie."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from storage.layout import Layout
from storage.staged import read_staged
from tasks.data.dataset import Dataset
from tasks.data.units import read_units
from tasks.embedding.set_records import EmbeddingSet
from tasks.vocabulary import NormState, Pooling, Task


@dataclass(frozen=True)
class LayerOfRun:
    """One layer of one run, and where its embeddings are: what every score of it starts from."""

    layout: Layout
    run_id: str
    shard_uris: tuple[str, ...]
    dataset: Dataset
    pooling: Pooling
    norm_state: NormState
    layer: int
    seed: int
    threads: int = 1
    """Or 2 where a core has nothing else to do: silhouettes on the one, criteria and probe on the other."""
    device: str = "cpu"
    """What it is scored on; `cuda` is any GPU that is free."""

    @property
    def part(self) -> str:
        """The name of its staged parts."""
        return Layout.part(self.pooling, self.norm_state, self.layer)

    def key(self) -> pl.DataFrame:
        """The key columns that its rows share, one row."""
        return pl.DataFrame(
            {
                "run_id": [self.run_id],
                "pooling": [self.pooling.value],
                "norm_state": [self.norm_state.value],
                "layer": pl.Series([self.layer], dtype=pl.Int32),
            }
        )


@dataclass(frozen=True)
class CurveOfRun:
    """All layers of one pooling and norm state of one run."""

    layout: Layout
    run_id: str
    pooling: Pooling
    norm_state: NormState
    last_is_normed: bool
    seed: int
    task: Task = Task.SINGLE_LABEL
    dataset: Dataset | None = None
    """Of rows that depend on each other, or count differently (`units`)."""
    is_cut: bool = False
    """The model has deeper layers, which were not run."""

    @property
    def part(self) -> str:
        """The name of its staged parts, and the beginning of the names of its layers' parts."""
        return Layout.part(self.pooling, self.norm_state)

    def key(self) -> pl.DataFrame:
        """The key columns that its rows share, one row."""
        return pl.DataFrame(
            {
                "run_id": [self.run_id],
                "pooling": [self.pooling.value],
                "norm_state": [self.norm_state.value],
            }
        )

    def read(self, table: str) -> pl.DataFrame:
        """The staged rows of all its layers, without the key that they share: it is most of a row."""
        return read_staged(self.layout, self.run_id, table, f"{self.part}-", without=self.key().columns)

    def independent(self, values: npt.NDArray[Any], row_id: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Values [..., N] of these rows as those of independent units, `Units.of`."""
        if self.dataset is None or not len(row_id):
            return values
        return read_units(self.dataset)[row_id].of(values)


def curves_of(
    layout: Layout,
    run_id: str,
    planned: EmbeddingSet,
    poolings: Sequence[Pooling],
    norm_states: Sequence[NormState],
    seed: int,
    dataset: Dataset,
    *,
    is_cut: bool,
) -> list[CurveOfRun]:
    """Every pooling × norm state. is_cut: as of each curve."""
    has_units = dataset.group_key is not None or dataset.weight_key is not None
    return [
        CurveOfRun(
            layout,
            run_id,
            pooling,
            norm_state,
            planned.last_is_normed and norm_state == NormState.AS_RETURNED,
            seed,
            dataset.task,
            dataset if has_units else None,
            is_cut,
        )
        for pooling, norm_state in product(poolings, norm_states)
    ]


def layers_of(
    curves: Iterable[CurveOfRun], planned: EmbeddingSet, dataset: Dataset, numbers: range
) -> list[LayerOfRun]:
    """Every layer of every curve."""
    return [
        LayerOfRun(
            layout=curve.layout,
            run_id=curve.run_id,
            shard_uris=tuple(curve.layout.shard(planned.id, shard.index) for shard in planned.shards),
            dataset=dataset,
            pooling=curve.pooling,
            norm_state=curve.norm_state,
            layer=layer,
            seed=curve.seed,
        )
        for curve in curves
        for layer in numbers
    ]


def drawn_layers(layers: Sequence[LayerOfRun], curve: CurveOfRun, chosen: int) -> list[LayerOfRun]:
    """Of one curve the first, the chosen and the last layer, which the report draws."""
    own = [each for each in layers if (each.pooling, each.norm_state) == (curve.pooling, curve.norm_state)]
    return [each for each in own if each.layer in (0, chosen, own[-1].layer)]
