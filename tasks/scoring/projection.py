"""A sample of texts in two dimensions at a few layers: what the report draws, computed while embeddings are there."""

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from prefect import task

from storage.embeddings import read_layer
from storage.files import exists
from storage.layout import Layout
from storage.staged import is_staged, keyed, stage
from tasks.curves import LayerOfRun
from tasks.numerics.matrix_rows import as_rows, deviation_of, mean_of
from tasks.numerics.principal_axes import PrincipalAxes, decompose
from tasks.retries import LONG_S, RETRIED

# More dots hide each other.
MOST_ROWS = 800


def plane(X: npt.NDArray[np.floating], y: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.float64], float]:
    """The two directions of largest variance of standardised embeddings (principal components).

    Dimensions are standardised first: a decoder has a few that are far larger than the rest and would be the
    whole picture. The directions' signs mean nothing; they are set so that the largest class has positive
    means, which makes the pictures of several layers comparable.

    Args:
        X: embeddings [n, D], n ≥ 3.
        y: labels [n].

    Returns:
        Coordinates, float64 [n, 2], and the share of the variance that they keep, 0–1.
    """
    rows = as_rows(X)
    mean = mean_of(rows)
    deviation = deviation_of(rows, mean)
    scaled = torch.where(deviation > 0, (rows - mean) / deviation, 0.0).float()
    coordinates = np.zeros((len(scaled), 2))
    if not scaled.any():  # the first token's state before any block: the same for every text
        return coordinates, 0.0
    values, vectors = decompose(scaled)
    found = PrincipalAxes.of(scaled, values[-2:], vectors[:, -2:]).coordinates.numpy()[:, ::-1]
    coordinates[:, : found.shape[1]] = found  # one column where texts lie on a line
    largest = np.bincount(y).argmax()
    coordinates *= np.where(coordinates[y == largest].mean(axis=0) < 0, -1.0, 1.0)
    return coordinates, float(values[-2:].sum() / values.sum())


def project(curve: list[LayerOfRun]) -> None:
    """Stage `projection` of the given layers of one pooling and norm state: a sample of the train rows.

    Columns beside the key: row_id, label (class name), x, y, kept (share of variance). A run whose embeddings an
    older version scored and deleted has none to project, and its report leaves the picture out.
    """
    first = curve[0]
    # The layers follow from the scores of the run, so a repeat has the same.
    part = Layout.part(first.pooling, first.norm_state)
    if is_staged(first.layout, first.run_id, "projection", part) or not exists(first.shard_uris[0]):
        return
    frames = []
    for layer in curve:
        found = read_layer(
            layer.shard_uris,
            layer=layer.layer,
            norm_state=layer.norm_state.value,
            pooling=layer.pooling.value,
        )
        train = np.flatnonzero(found.row_id < layer.dataset.train_rows)
        sample = np.sort(np.random.default_rng(layer.seed).permutation(train)[:MOST_ROWS])
        label = found.label[sample]
        coordinates, kept = plane(found.embeddings[sample], label)
        points = {
            "row_id": found.row_id[sample],
            "label": [layer.dataset.classes[each] for each in label],
            "x": coordinates[:, 0],
            "y": coordinates[:, 1],
        }
        frames.append(keyed(layer.key(), pl.DataFrame(points).with_columns(kept=kept)))
    stage(first.layout, first.run_id, "projection", part, pl.concat(frames))


@task(
    name="project",
    task_run_name="project {curve[0].pooling.value} {curve[0].norm_state.value}",
    timeout_seconds=LONG_S,
    **RETRIED,
)
def project_task(curve: list[LayerOfRun]) -> None:
    """A sample of texts in two dimensions at the first, the chosen and the last layer."""
    project(curve)
