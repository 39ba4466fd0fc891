"""What is left out of the first rows of an embedding set is kept, and is what ridge regression says of them."""

from pathlib import Path

import numpy as np
import pytest

from storage.embeddings import read_layer
from storage.layout import Layout
from tasks.data.dataset import prepare_dataset
from tasks.embedding.embedding_set import embed_shard
from tasks.embedding.model import resolve_model
from tasks.embedding.set_plan import plan_embedding_set
from tasks.embedding.settings import Settings
from tasks.scoring import left_out
from tasks.scoring.left_out import FirstRows, leave_out, read_left_out
from tasks.scoring.ridge import ridge_leave_one_out
from tasks.vocabulary import NormState, Pooling

SETTINGS = Settings((Pooling.MEAN,), (NormState.AS_RETURNED,), 128, "float32", "cpu")


@pytest.fixture
def first(tiny_model: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FirstRows:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    layout = Layout(str(tmp_path / "storage"))
    dataset = prepare_dataset(f"path:{tiny_dataset}", layout, in_turn=True)
    model = resolve_model(f"path:{tiny_model}")
    planned = plan_embedding_set(layout, dataset, model, SETTINGS, cuts=(100,))
    for shard in planned.shards[:1]:
        embed_shard(layout, planned, shard, dataset, model, SETTINGS)
    return FirstRows(layout, planned, Pooling.MEAN, NormState.AS_RETURNED, (0, 2), 100)


def test_it_is_what_ridge_regression_says_of_these_rows_alone(first: FirstRows) -> None:
    assert read_left_out(first) is None
    leave_out(first)
    found = read_left_out(first)
    assert found is not None
    log_loss, correct = found
    assert log_loss.shape == correct.shape == (2, 100)
    for place, layer in enumerate(first.layers):
        rows = read_layer(first.shard_uris, layer=layer, norm_state="as_returned", pooling="mean")
        assert rows.row_id.tolist() == list(range(100))
        told = ridge_leave_one_out(rows.embeddings, rows.label)
        assert np.array_equal(correct[place], told.correct)
        assert np.array_equal(log_loss[place], told.log_loss.astype(np.float32))


def test_what_is_kept_is_not_computed_again_and_what_is_damaged_is(
    first: FirstRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out(first)
    whole = read_left_out(first)
    assert whole is not None
    damaged = Path(first.uri(2))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert read_left_out(first) is None
    calls = []
    counted = ridge_leave_one_out
    monkeypatch.setattr(left_out, "ridge_leave_one_out", lambda *given: calls.append(1) or counted(*given))
    leave_out(first)
    again = read_left_out(first)
    assert again is not None
    assert len(calls) == 1
    assert all(np.array_equal(old, new) for old, new in zip(whole, again, strict=True))
