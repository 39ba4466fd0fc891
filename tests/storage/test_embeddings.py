"""A shard gives back what was written, touches only the layer asked for, and never hides damage."""

import logging
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import embeddings
from storage.embeddings import read_layer, verify_shard, write_shard
from storage.errors import UserError
from storage.manifest import DamagedManifestError, read_manifest, write_manifest

KEYS = [("as_returned", "mean"), ("as_returned", "last"), ("final_norm", "mean")]


def some_states(rows: int = 5, layers: int = 3, width: int = 4, seed: int = 0) -> dict:
    random = np.random.default_rng(seed)
    return {key: random.standard_normal((layers, rows, width)).astype(np.float32) for key in KEYS}


def write(uri: str, states: dict, first_row: int = 0, **options) -> tuple[np.ndarray, np.ndarray]:
    rows = next(iter(states.values())).shape[1]
    row_id = np.arange(first_row, first_row + rows, dtype=np.int64)
    label = (row_id % 3).astype(np.int32)
    write_shard(uri, states, row_id, label, **options)
    return row_id, label


@pytest.mark.parametrize(("value_type", "tolerance"), [("float32", 0), ("float16", 2e-3)])
def test_every_layer_comes_back(tmp_path, value_type, tolerance):
    uri, states = f"{tmp_path}/shard.parquet", some_states()
    row_id, label = write(uri, states, value_type=value_type)
    for (norm_state, pooling), array in states.items():
        for layer in range(3):
            got = read_layer([uri], layer=layer, norm_state=norm_state, pooling=pooling)
            assert got.embeddings.dtype == np.float32
            np.testing.assert_allclose(got.embeddings, array[layer], rtol=0, atol=tolerance)
            np.testing.assert_array_equal(got.row_id, row_id)
            np.testing.assert_array_equal(got.label, label)


def test_shards_are_joined_in_order(tmp_path):
    uris = [f"{tmp_path}/a.parquet", f"{tmp_path}/b.parquet"]
    parts = [some_states(5, seed=1), some_states(2, seed=2)]
    write(uris[0], parts[0])
    write(uris[1], parts[1], first_row=5)
    got = read_layer(uris, layer=1, norm_state="as_returned", pooling="last")
    want = np.concatenate([part["as_returned", "last"][1] for part in parts])
    np.testing.assert_array_equal(got.embeddings, want)
    assert got.row_id.tolist() == list(range(7))
    # The same where it is known how many rows there are at most.
    for most in (7, 9):
        into = read_layer(uris, layer=1, norm_state="as_returned", pooling="last", most_rows=most)
        np.testing.assert_array_equal(into.embeddings, want)
        np.testing.assert_array_equal(into.label, got.label)
    with pytest.raises(ValueError, match="broadcast"):
        read_layer(uris, layer=1, norm_state="as_returned", pooling="last", most_rows=6)


def test_other_readers_see_the_same_table(tmp_path):
    uri, states = f"{tmp_path}/shard.parquet", some_states()
    write(uri, states)
    frame = pl.read_parquet(uri).filter(layer=2, norm_state="final_norm", pooling="mean")
    np.testing.assert_array_equal(frame["embedding"].to_numpy(), states["final_norm", "mean"][2])
    rows = duckdb.sql(
        f"SELECT row_id, embedding FROM '{uri}' WHERE layer = 2 AND norm_state = 'final_norm' ORDER BY row_id"
    ).fetchall()
    np.testing.assert_array_equal(np.array([row[1] for row in rows]), states["final_norm", "mean"][2])


def test_one_row_group_for_each_layer_and_only_its_bytes_are_read(tmp_path, monkeypatch):
    uri, states = f"{tmp_path}/shard.parquet", some_states(rows=2000, layers=3, width=16)
    write(uri, states)
    metadata = pq.read_metadata(uri)
    assert metadata.num_row_groups == 9
    assert {metadata.row_group(group).num_rows for group in range(9)} == {2000}

    touched = []
    real = embeddings.filesystem

    def counting(where):
        _, path = real(where)

        class Counting:
            def open_input_file(self, path):
                return pa.PythonFile(CountingFile(open(path, "rb")), mode="r")

        return Counting(), path

    class CountingFile:
        def __init__(self, raw):
            self.raw = raw

        def read(self, size=-1):
            data = self.raw.read(size)
            touched.append(len(data))
            return data

        def __getattr__(self, name):
            return getattr(self.raw, name)

    monkeypatch.setattr(embeddings, "filesystem", counting)
    read_layer([uri], layer=1, norm_state="as_returned", pooling="last")
    one_layer = 2000 * 16 * 4
    assert one_layer < sum(touched) < 2.5 * one_layer


@pytest.mark.parametrize("value_type", ["float32", "float16"])
@pytest.mark.parametrize("pages", ["one page", "many pages"])
def test_values_come_straight_from_the_file_or_else_through_pyarrow(tmp_path, monkeypatch, value_type, pages):
    if pages == "many pages":
        monkeypatch.setattr(embeddings, "_PAGE_BYTES", 4096)
    straight = []
    real = embeddings._last_values
    monkeypatch.setattr(
        embeddings, "_last_values", lambda *chunk: straight.append(real(*chunk)) or straight[-1]
    )
    uri, states = f"{tmp_path}/shard.parquet", some_states(rows=30_000, layers=2, width=3)
    write(uri, states, value_type=value_type)
    got = read_layer([uri], layer=1, norm_state="final_norm", pooling="mean")
    stored = states["final_norm", "mean"][1].astype(value_type)
    np.testing.assert_array_equal(got.embeddings, stored.astype(np.float32))
    assert [found is not None for found in straight] == [pages == "one page"]


def test_a_layer_that_is_not_there_is_named(tmp_path):
    uri = f"{tmp_path}/shard.parquet"
    write(uri, some_states())
    with pytest.raises(UserError, match=r"shard\.parquet holds no layer 9 with pooling 'mean'"):
        read_layer([uri], layer=9, norm_state="as_returned", pooling="mean")


def test_float16_refuses_to_overflow(tmp_path):
    uri, states = f"{tmp_path}/shard.parquet", some_states()
    states["as_returned", "last"][1, 3, 2] = 70_000
    with pytest.raises(UserError, match=r"70000 at layer 1, last, as_returned, row 3 .* float32"):
        write(uri, states, value_type="float16")
    assert list(tmp_path.iterdir()) == []


def test_an_absent_shard_is_not_whole(tmp_path, caplog):
    assert not verify_shard(f"{tmp_path}/none.parquet", np.arange(5), np.zeros(5, np.int32))
    assert caplog.records == []


def test_every_flipped_or_missing_byte_of_the_values_is_found(tmp_path, caplog):
    path = tmp_path / "shard.parquet"
    states = some_states(rows=40)
    rows = write(str(path), states)
    assert verify_shard(str(path), *rows)
    whole = path.read_bytes()
    at = whole.index(states["as_returned", "last"][2].tobytes())
    for position in (at, at + 317, at + 639):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with caplog.at_level(logging.WARNING):
            assert not verify_shard(str(path), *rows)
        assert str(path) in caplog.text
        caplog.clear()
    for size in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert not verify_shard(str(path), *rows)


def test_a_flipped_byte_anywhere_is_found_or_changes_nothing(tmp_path):
    """Arrow checks pages alone: in the footer some damage ends the process, and some reads as another layer."""
    path, states = tmp_path / "shard.parquet", some_states(rows=6, layers=2)
    row_id, label = np.arange(6, dtype=np.int64), np.array([0, 1, 2, 0, 1, 2], np.int32)
    footer = write_shard(str(path), states, row_id, label)
    whole = path.read_bytes()
    found = 0
    for at in range(0, len(whole), 43):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        if not verify_shard(str(path), row_id, label, footer):
            found += 1
            continue
        for (norm_state, pooling), array in states.items():
            for layer in range(2):
                got = read_layer([str(path)], layer=layer, norm_state=norm_state, pooling=pooling)
                np.testing.assert_array_equal(got.embeddings, array[layer])
                np.testing.assert_array_equal(got.label, label)
    assert found > len(whole) / 86


def test_a_shard_of_other_rows_or_labels_is_not_the_one_that_was_asked_for(tmp_path, caplog):
    uri = f"{tmp_path}/shard.parquet"
    row_id, label = write(uri, some_states())
    assert verify_shard(uri, row_id, label)
    assert not verify_shard(uri, row_id + 1, label)
    assert not verify_shard(uri, row_id, label[::-1])
    assert not verify_shard(uri, row_id[:4], label[:4])
    assert "its label is not that of its rows" in caplog.text


def test_a_failing_write_leaves_the_old_shard(tmp_path):
    uri = f"{tmp_path}/shard.parquet"
    states = some_states()
    write(uri, states)
    broken = some_states(seed=9)
    broken["final_norm", "mean"][0, 0, 0] = 1e6
    with pytest.raises(UserError):
        write(uri, broken, value_type="float16")
    got = read_layer([uri], layer=0, norm_state="as_returned", pooling="mean")
    np.testing.assert_array_equal(got.embeddings, states["as_returned", "mean"][0])


def test_arrays_that_disagree_are_refused(tmp_path):
    with pytest.raises(ValueError, match="do not agree"):
        write_shard(f"{tmp_path}/x.parquet", some_states(5), np.arange(4), np.zeros(4, np.int32))


def test_the_manifest_comes_back(tmp_path):
    uri = f"{tmp_path}/set/manifest.json"
    with pytest.raises(FileNotFoundError):
        read_manifest(uri)
    write_manifest(uri, {"token_budget": 4096, "poolings": ["mean", "last"]})
    assert read_manifest(uri) == {"token_budget": 4096, "poolings": ["mean", "last"]}
    for junk in (b"", b"no JSON", b"\xff\xfe", b"[1]", b"[" * 100_000, b'{"token_budget": 4'):
        Path(uri).write_bytes(junk)
        with pytest.raises(DamagedManifestError, match=r"manifest\.json is damaged"):
            read_manifest(uri)
