"""What the first train rows of an embedding set tell of each layer: ridge regression with every row left out once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from prefect import task

from storage.embeddings import read_layer
from storage.layout import Layout
from storage.staged import read_sealed, write_sealed
from tasks.embedding.set_records import EmbeddingSet
from tasks.numerics.cores import use_threads
from tasks.retries import LONG_S, RETRIED
from tasks.scoring.layer_scores import SCORING_VERSION
from tasks.scoring.ridge import ridge_leave_one_out
from tasks.vocabulary import NormState, Pooling


@dataclass(frozen=True)
class FirstRows:
    """Some layers of one pooling and norm state, and how many of the set's first rows are looked at."""

    layout: Layout
    planned: EmbeddingSet
    """Its shards end with these rows, among others."""
    pooling: Pooling
    norm_state: NormState
    layers: tuple[int, ...]
    rows: int

    @property
    def shard_uris(self) -> list[str]:
        """Of the shards that hold these rows and no other; ValueError where one holds others too."""
        held = [each for each in self.planned.shards if each.stop <= self.rows]
        if not held or held[-1].stop != self.rows:
            raise ValueError(
                f"no shard of embedding set {self.planned.id} ends with its first {self.rows} rows"
            )
        return [self.layout.shard(self.planned.id, each.index) for each in held]

    def uri(self, layer: int) -> str:
        """Where what is told of a layer is kept."""
        part = Layout.part(self.pooling, self.norm_state, layer)
        return self.layout.left_out(self.planned.id, f"{SCORING_VERSION}-{self.rows}-{part}")


def leave_out(first: FirstRows) -> None:
    """Keep `log_loss` and `correct` of each of the rows at each of the layers, where that is not kept yet."""
    use_threads(1)
    for layer in first.layers:
        if read_sealed(first.uri(layer)) is not None:
            continue
        found = read_layer(
            first.shard_uris, layer=layer, norm_state=first.norm_state.value, pooling=first.pooling.value
        )
        told = ridge_leave_one_out(found.embeddings, found.label)
        rows = pl.DataFrame({"log_loss": told.log_loss.astype(np.float32), "correct": told.correct})
        write_sealed(first.uri(layer), rows)


def read_left_out(first: FirstRows) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]] | None:
    """The log loss in nats, [layers, rows], and whether each was a hit; None where a layer's is not kept."""
    kept: Sequence[pl.DataFrame | None] = [read_sealed(first.uri(layer)) for layer in first.layers]
    whole = [each for each in kept if each is not None]
    if len(whole) < len(kept):
        return None
    return (
        np.stack([each["log_loss"].to_numpy() for each in whole]),
        np.stack([each["correct"].to_numpy() for each in whole]),
    )


@task(
    name="leave-out",
    task_run_name="leave out of {first.rows} rows {first.pooling.value} {first.norm_state.value}",
    timeout_seconds=LONG_S,
    **RETRIED,
)
def leave_out_task(first: FirstRows) -> None:
    """Ridge regression with every row left out once, at some layers."""
    leave_out(first)
