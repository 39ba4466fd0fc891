"""States that another tool has saved: every format gives the rows that were written, and no others pass."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from numpy.typing import NDArray
from safetensors.torch import save_file

from storage.errors import UserError
from tasks.embedding.model import resolve_model
from tasks.embedding.saved_states import open_states, prepare_states

ROWS, LAYERS, WIDTH = 2_500, 3, 8
Write = Callable[[Path, NDArray[np.float32], NDArray[np.int64] | None], Path]


def one_numpy_file(folder: Path, states: NDArray[np.float32], row_id: NDArray[np.int64] | None) -> Path:
    if row_id is not None:
        np.save(folder / "row_id.npy", row_id)
    np.save(folder / "states.npy", states)
    return folder if row_id is not None else folder / "states.npy"


def a_numpy_file_a_layer(folder: Path, states: NDArray[np.float32], row_id: NDArray[np.int64] | None) -> Path:
    for layer in range(states.shape[1]):
        np.save(folder / f"layer_{layer}.npy", states[:, layer])
    if row_id is not None:
        np.save(folder / "row_id.npy", row_id)
    return folder


def an_archive(folder: Path, states: NDArray[np.float32], row_id: NDArray[np.int64] | None) -> Path:
    keys = {} if row_id is None else {"row_id": row_id}
    np.savez(folder / "states.npz", states=states, **keys)
    return folder / "states.npz"


def a_packed_archive(folder: Path, states: NDArray[np.float32], row_id: NDArray[np.int64] | None) -> Path:
    keys = {} if row_id is None else {"row_id": row_id}
    layers = {f"h{layer}": states[:, layer] for layer in range(states.shape[1])}
    np.savez_compressed(folder / "states.npz", **layers, **keys)
    return folder


def safetensors(folder: Path, states: NDArray[np.float32], row_id: NDArray[np.int64] | None) -> Path:
    layers = {f"layer.{layer}": torch.tensor(states[:, layer]) for layer in range(states.shape[1])}
    keys = {} if row_id is None else {"row_id": torch.tensor(row_id)}
    save_file(layers | keys, folder / "states.safetensors")
    return folder / "states.safetensors"


def safetensors_of_bfloat16(
    folder: Path, states: NDArray[np.float32], row_id: NDArray[np.int64] | None
) -> Path:
    keys = {} if row_id is None else {"row_id": torch.tensor(row_id)}
    save_file({"states": torch.tensor(states).bfloat16()} | keys, folder / "states.safetensors")
    return folder


def parquet(folder: Path, states: NDArray[np.float32], row_id: NDArray[np.int64] | None) -> Path:
    width = states.shape[2]
    columns = {
        f"layer_{layer}": pa.FixedSizeListArray.from_arrays(states[:, layer].ravel(), width)
        for layer in range(states.shape[1])
    }
    keys = {} if row_id is None else {"row_id": row_id}
    pq.write_table(pa.table(columns | keys), folder / "states.parquet", row_group_size=700)
    return folder / "states.parquet"


def parquet_of_half_lists(
    folder: Path, states: NDArray[np.float32], row_id: NDArray[np.int64] | None
) -> Path:
    frame = pl.DataFrame({f"layer_{layer}": states[:, layer].tolist() for layer in range(states.shape[1])})
    frame = frame.cast(pl.List(pl.Float32))
    if row_id is not None:
        frame = frame.with_columns(row_id=row_id)
    frame.write_parquet(folder / "states.parquet")
    return folder


def zarr_array(folder: Path, states: NDArray[np.float32], row_id: NDArray[np.int64] | None) -> Path:
    if row_id is None:
        zarr.save_array(str(folder / "states.zarr"), states)
        return folder / "states.zarr"
    group = zarr.open_group(str(folder / "group"), mode="w")
    group.create_array("states", data=states, chunks=(300, 1, states.shape[2]))
    group.create_array("row_id", data=row_id)
    return folder / "group"


FORMATS = [
    one_numpy_file,
    a_numpy_file_a_layer,
    an_archive,
    a_packed_archive,
    safetensors,
    safetensors_of_bfloat16,
    parquet,
    parquet_of_half_lists,
    zarr_array,
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("is_keyed", [False, True], ids=["in order", "keyed"])
@pytest.mark.parametrize("write", FORMATS, ids=[write.__name__.replace("_", " ") for write in FORMATS])
def test_every_format_gives_the_rows_that_were_written(write: Write, is_keyed: bool, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    states = draw.standard_normal((ROWS, LAYERS, WIDTH)).astype(np.float32)
    states = torch.tensor(states).bfloat16().float().numpy()  # which every one of them holds
    row_id = draw.permutation(2 * ROWS)[:ROWS].astype(np.int64) if is_keyed else None
    (tmp_path / "saved").mkdir()
    place, _ = prepare_states(write(tmp_path / "saved", states, row_id), "states:x")
    at = np.arange(ROWS) if row_id is None else row_id
    wanted = draw.permutation(ROWS)[:600]
    with open_states(place, "states:x") as found:
        assert (found.rows, found.layers, found.width) == (ROWS, LAYERS, WIDTH)
        rows = found.rows_of(at[wanted], ROWS if row_id is None else 2 * ROWS)
        for part in (rows, rows[:1], np.sort(rows), np.arange(ROWS)):
            np.testing.assert_array_equal(found.take(part, LAYERS), states[part].swapaxes(0, 1))
        np.testing.assert_array_equal(found.take(rows[:5], 2), states[rows[:5], :2].swapaxes(0, 1))
        np.testing.assert_array_equal(rows, wanted)


def test_the_revision_is_of_the_content(tmp_path: Path) -> None:
    def model(name: str, value: float) -> str:
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "states.npy", np.full((4, 2, 3), value, np.float16))
        found = resolve_model(f"states:{tmp_path / name}")
        assert (found.layers, found.hidden_size, found.is_saved_states) == (1, 3, True)
        return found.revision

    assert model("a", 1.0) == model("b", 1.0) != model("c", 2.0)


def saved(**arrays: NDArray[np.generic]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)

    return write


LAYER = np.zeros((4, 3), np.float32)
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda folder: None, "holds no saved states"),
    "one layer": (saved(layer_0=LAYER), "holds 1 layers of 4 rows"),
    "a layer that is missing": (saved(layer_0=LAYER, layer_2=LAYER), "do not end in the numbers 0 to 1"),
    "layers without numbers": (saved(first=LAYER, second=LAYER), "do not end in the numbers 0 to 1"),
    "tokens": (saved(states=np.zeros((4, 2, 5, 3), np.float32)), "have to be pooled first"),
    "integers": (saved(states=np.zeros((4, 2, 3), np.int32)), "is int32"),
    "objects": (saved(states=np.array([[[None]]])), "cannot be read as saved states"),
    "other shapes": (saved(layer_0=LAYER, layer_1=LAYER[:, :2]), "not of one shape and type"),
    "keys twice": (saved(states=np.zeros((2, 2, 3)), row_id=np.array([1, 1])), "names a row twice"),
    "too few keys": (
        saved(states=np.zeros((2, 2, 3)), row_id=np.array([1])),
        "one integer for each of 2 rows",
    ),
    "no file": (lambda folder: folder.rmdir(), "There is no file or folder"),
    "damage": (
        lambda folder: (folder / "states.safetensors").write_bytes(b"x" * 99),
        "cannot be read as saved states",
    ),
    "a damaged archive": (
        lambda folder: (folder / "states.npz").write_bytes(b"x" * 99),
        "cannot be unpacked",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_layers_of_a_model_is_refused_in_words(bad: str, tmp_path: Path) -> None:
    write, message = BAD[bad]
    (tmp_path / "saved").mkdir()
    write(tmp_path / "saved")
    with pytest.raises(UserError, match=message):
        resolve_model(f"states:{tmp_path / 'saved'}")


def test_rows_saved_in_parts_are_not_taken_for_one_another(tmp_path: Path) -> None:
    for part in range(2):
        layers = {f"layer_{layer}": torch.zeros(4, 3) for layer in range(2)}
        save_file(layers, tmp_path / f"part-{part}.safetensors")
    with pytest.raises(UserError, match=r"Two files of .* hold an array 'layer_0'"):
        resolve_model(f"states:{tmp_path}")


def test_bfloat16_as_numpy_writes_it_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "states.npy", np.zeros((4, 2, 3), np.dtype("V2")))
    with pytest.raises(UserError, match="as NumPy writes bfloat16"):
        resolve_model(f"states:{tmp_path / 'states.npy'}")


def test_a_value_that_is_not_finite_is_found_where_it_is(tmp_path: Path) -> None:
    states = np.zeros((50, 2, 3), np.float64)
    states[41, 1, 2] = 1e300  # finite, but not as float32
    np.save(tmp_path / "states.npy", states)
    with (
        open_states(tmp_path / "states.npy", "states:x") as found,
        pytest.raises(UserError, match=r"Layer 1 of states:x has a value that is not finite at row 41"),
    ):
        found.take(np.array([3, 41, 7]), 2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [(None, "holds 3 rows and the data set 5"), ([0, 1, 4], "no states of row 2 of the data set")],
)
def test_states_of_other_rows_are_refused(keys: list[int] | None, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "states.npy", np.zeros((3, 2, 3), np.float32))
    if keys is not None:
        np.save(tmp_path / "row_id.npy", np.array(keys))
    with open_states(tmp_path, "states:x") as found, pytest.raises(UserError, match=message):
        found.rows_of(np.array([0, 1, 2]), 5)
