"""What studies read of a run whose embeddings were kept: peers beside our search, and layers side by side."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows.parameters import SweepParameters
from flows.unrecorded_sweep import unrecorded_sweep
from study import peers, together
from tasks.scoring.criteria import score_criteria
from tasks.scoring.features import Features


@pytest.mark.parametrize("seed", range(5))
def test_loes_first_layer_is_that_of_the_criterion(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 150)
    means = rng.standard_normal((6, 4, 10)) * rng.uniform(0, 1, (6, 1, 1))
    layers = (means[:, labels] + rng.standard_normal((6, 150, 10)) * rng.uniform(0.3, 2, (6, 1, 10))).astype(
        np.float32
    )
    scores = [score_criteria(Features(each, labels), names=["loes"])["loes"] for each in layers]
    assert peers.loes_layers(layers, labels, 1) == [int(np.argmax(scores))]
    taken = peers.loes_layers(layers, labels, 3)
    assert len(set(taken)) == 3


def test_a_layer_that_is_another_one_again_is_not_taken_second() -> None:
    """What it could say is said, and it is as like the one that is taken as can be."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    good = np.eye(3)[labels] @ rng.standard_normal((3, 8)) + 0.3 * rng.standard_normal((200, 8))
    other = np.eye(3)[labels] @ rng.standard_normal((3, 8)) + rng.standard_normal((200, 8))
    assert peers.loes_layers([good, good, other], labels, 2) in ([0, 2], [2, 0])


@pytest.mark.parametrize("probe", peers.SOMMELIER_PROBES)
def test_sommelier_takes_the_shallowest_of_the_layers_that_tell(probe: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    noise = [rng.standard_normal((300, 8)).astype(np.float32) for _ in range(5)]
    planted = [each + 8 * np.eye(3, 8)[labels] * (2 <= layer <= 3) for layer, each in enumerate(noise)]
    assert peers.sommelier_layer(planted, labels, probe) == 2


def test_both_read_a_run_whose_embeddings_were_kept(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = str(tmp_path / "out")
    swept = unrecorded_sweep(
        SweepParameters(
            model=f"path:{tiny_model}",
            dataset=f"path:{tiny_dataset}",
            pooling=("mean",),
            together=1,
            storage=storage,
        )
    )
    probe = swept.tables["probe"].sort("layer")["accuracy"]
    for study in (peers, together):
        monkeypatch.setattr(study, "RESULTS", tmp_path / f"{study.__name__}.csv")
        study.main(storage)
    beside, side_by_side = (pl.read_csv(tmp_path / f"study.{name}.csv") for name in ("peers", "together"))
    assert beside.filter(peer="LOES")["size"].to_list() == side_by_side["size"].to_list() == [1, 2, 3]
    assert beside["peer"].unique().sort().to_list() == ["LOES", "PLMSommelier, knn", "PLMSommelier, lr"]
    for single in beside.filter(size=1).iter_rows(named=True):
        assert single["ours"] == pytest.approx(probe[int(single["our_layers"])], abs=1e-5)
        assert single["theirs"] == pytest.approx(probe[int(single["their_layers"])], abs=1e-5)
    assert side_by_side["accuracy"][0] == single["ours"]
