"""Hidden states that another tool has taken and pooled: files of arrays [N, L, D], or of one [N, D] a layer.

They are read in slices of rows, never whole. Rows are those of the data set as its source has them (train, validation,
test), or are keyed by `row_id`, their places in that order from 0. In a folder `states.json` may say
`{"last_is_normed": true}`.
"""

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from storage.cache import cache_folder
from storage.errors import UserError
from storage.files import sha256_of

STATES_VERSION = 1
"""Raised by hand whenever a change of this file changes a number."""

ROW_ID = "row_id"
ABOUT = "states.json"
KINDS = ("float16", "bfloat16", "float32", "float64")
ENDINGS = (".npy", ".npz", ".safetensors", ".parquet")
# Wanted rows with no more than this many others between them are read in one piece, of at most so many rows.
_GAP, _PIECE = 8, 4_096
_PARQUET_ROWS = 1_024
_PARQUET_KINDS = {"halffloat": "float16", "float": "float32", "double": "float64"}


@dataclass(frozen=True)
class Stored:
    """One array as it lies in a file. read(start, stop): its rows from start up to stop."""

    shape: tuple[int, ...]
    kind: str
    """Its dtype."""
    read: Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True)
class SavedStates:
    """Open files of saved states: N rows, L layers, D features."""

    rows: int
    layers: int
    width: int
    kind: str
    """The dtype that they are saved in."""
    row_id: NDArray[np.int64] | None
    """[N], of rows that are keyed; None where they are in the data set's order."""
    last_is_normed: bool
    """The last layer alone has passed the model's final norm, as in transformers' `hidden_states` of decoders."""
    _arrays: tuple[Stored, ...]
    """One of three axes, or one of two a layer."""
    _spec: str

    def take(self, rows: NDArray[np.int64], layers: int) -> NDArray[np.float32]:
        """The first layers of some rows (0 … N − 1), float32 [layers, n, D].

        Raises:
            UserError: a value is not finite, or not as float32; it says where.
        """
        if len(self._arrays[0].shape) == 3:
            found = _take(self._arrays[0], rows)[:, :layers].swapaxes(0, 1)
        else:
            found = np.stack([_take(array, rows) for array in self._arrays[:layers]])
        finite = np.isfinite(found).all(2)
        if not finite.all():
            layer, row = (int(at[0]) for at in np.nonzero(~finite))
            raise UserError(
                f"Layer {layer} of {self._spec} has a value that is not finite at row {rows[row]:,}: was it taken in "
                "float16, which ends at 65,504? Take the states again in bfloat16 or float32."
            )
        return found

    def rows_of(self, places: NDArray[np.int64], source_rows: int) -> NDArray[np.int64]:
        """Which of the saved rows [n] are those at some places of the data set.

        source_rows: of the data set, before any was sampled.

        Raises:
            UserError: they are not the rows of this data set.
        """
        if self.row_id is None:
            if self.rows != source_rows:
                raise UserError(
                    f"{self._spec} holds {self.rows:,} rows and the data set {source_rows:,} (train, validation and "
                    f"test together, in this order). Save a row each, or their places in that order as {ROW_ID!r}."
                )
            return places
        order = np.argsort(self.row_id)
        at = np.minimum(np.searchsorted(self.row_id, places, sorter=order), self.rows - 1)
        found = order[at]
        missing = self.row_id[found] != places
        if missing.any():
            raise UserError(
                f"{self._spec} has no states of row {places[missing][0]:,} of the data set ({ROW_ID}, counted from 0 "
                f"through train, validation and test); {int(missing.sum()):,} of {len(places):,} rows are missing. "
                "Save them too, or leave these rows out of the data set."
            )
        return found


@contextmanager
def open_states(place: Path, spec: str) -> Iterator[SavedStates]:
    """Open the states of a file or a folder, for as long as the block lasts.

    Raises:
        UserError: it is none of the known formats, or its arrays are not the layers of one model.
    """
    with ExitStack() as opened:
        try:
            arrays = _by_name(_arrays(place, spec, opened), spec)
        except (OSError, ValueError, pa.ArrowException, SafetensorError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{spec} cannot be read as saved states: {str(error).strip().rstrip('.')}."
            ) from error
        keys = arrays.pop(ROW_ID, None)
        layers = _in_order(arrays, spec)
        first = layers[0]
        rows, width = first.shape[0], first.shape[-1]
        count = first.shape[1] if len(first.shape) == 3 else len(layers)
        if rows < 1 or width < 1 or count < 2:
            raise UserError(
                f"{spec} holds {count} layers of {rows:,} rows and {width:,} features. Layers can be compared where "
                "there are two or more."
            )
        row_id, is_normed = _row_id(keys, rows, spec), _last_is_normed(place, spec)
        yield SavedStates(rows, count, width, first.kind, row_id, is_normed, layers, spec)


def prepare_states(place: Path, spec: str) -> tuple[Path, str]:
    """Where the states can be read in slices, and the SHA-256 of their files; an archive is unpacked into the cache."""
    files = sorted(each for each in place.rglob("*") if each.is_file()) if place.is_dir() else [place]
    whole = hashlib.sha256()
    for file in files:
        name = file.relative_to(place) if place.is_dir() else file.suffix
        whole.update(f"{name} {sha256_of(file)}\n".encode())
    revision = whole.hexdigest()
    archives = [file for file in files if file.suffix == ".npz"]
    if not archives:
        return place, revision
    beside = [file for file in files if file.name == ABOUT]
    if len(files) > 1 + len(beside):
        raise UserError(
            f"{spec} holds {archives[0].name} beside other files. Name the one file: states:FILE."
        )
    return _unpacked(archives[0], beside, revision, spec), revision


def _unpacked(archive: Path, beside: Sequence[Path], revision: str, spec: str) -> Path:
    """An .npz is a ZIP file of .npy files, which can be read in slices once they are files of their own."""
    folder = cache_folder() / "states" / revision
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            part = folder.with_name(f".part.{revision}")
            shutil.rmtree(part, ignore_errors=True)
            try:
                with zipfile.ZipFile(archive) as opened:
                    for member in opened.infolist():
                        name = Path(member.filename).name
                        part.mkdir(exist_ok=True)
                        with opened.open(member) as packed, (part / name).open("wb") as plain:
                            shutil.copyfileobj(packed, plain, 1 << 20)
                for about in beside:
                    shutil.copy(about, part)
                part.rename(folder)
            except (zipfile.BadZipFile, OSError) as error:
                shutil.rmtree(part, ignore_errors=True)
                raise UserError(f"{spec} cannot be unpacked into {folder}: {error}.") from error
    return folder


def _arrays(place: Path, spec: str, opened: ExitStack) -> Iterator[tuple[str, Stored]]:
    """Every array below a place by its name."""
    if place.suffix == ".zarr" or any(
        (place / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")
    ):
        yield from _of_zarr(place, spec)
        return
    files = [place] if place.is_file() else sorted(each for each in place.iterdir() if each.suffix in ENDINGS)
    if not files or any(file.suffix not in ENDINGS for file in files):
        raise UserError(
            f"{spec} holds no saved states. Known are {', '.join(ENDINGS)} and Zarr: an array [rows, layers, "
            "features], or one [rows, features] a layer whose name ends in the layer's number."
        )
    for file in files:
        read = {".npy": _of_numpy, ".safetensors": _of_safetensors, ".parquet": _of_parquet}[file.suffix]
        found = dict(read(file, opened))
        alone = len(found) == 1 and len(files) > 1
        for name, array in found.items():
            # Of several files each is a layer, and its own name says which.
            yield (file.stem if alone else name), array


def _by_name(arrays: Iterator[tuple[str, Stored]], spec: str) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for name, array in arrays:
        if name in found:
            raise UserError(
                f"Two files of {spec} hold an array {name!r}. Rows that were saved in parts have to be joined first."
            )
        found[name] = array
    return found


def _of_numpy(file: Path, opened: ExitStack) -> Iterator[tuple[str, Stored]]:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:  # NumPy advises to load it unsafely
        raise UserError(f"{file} cannot be read as saved states: it is no .npy file of numbers.") from error
    kind = (
        "an unnamed 2-byte type, as NumPy writes bfloat16"
        if array.dtype == np.dtype("V2")
        else str(array.dtype)
    )
    yield file.stem, Stored(array.shape, kind, lambda start, stop: array[start:stop])


def _of_safetensors(file: Path, opened: ExitStack) -> Iterator[tuple[str, Stored]]:
    tensors = opened.enter_context(safe_open(file, framework="pt"))
    kinds = {
        "F16": "float16",
        "BF16": "bfloat16",
        "F32": "float32",
        "F64": "float64",
        "I64": "int64",
        "I32": "int32",
    }
    for name in list(tensors.keys()):
        part = tensors.get_slice(name)

        def read(start: int, stop: int, part: Any = part) -> NDArray[Any]:
            values: torch.Tensor = part[start:stop]
            return (values.float() if values.dtype == torch.bfloat16 else values).numpy()

        kind = part.get_dtype()
        yield name, Stored(tuple(part.get_shape()), kinds.get(kind, kind), read)


def _of_parquet(file: Path, opened: ExitStack) -> Iterator[tuple[str, Stored]]:
    table = opened.enter_context(pq.ParquetFile(file))
    rows = table.metadata.num_rows
    groups = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    starts = np.concatenate([[0], np.cumsum(groups)]).astype(int)

    def read(name: str, width: int | None, start: int, stop: int) -> NDArray[Any]:
        within = [g for g in range(len(groups)) if starts[g] < stop and start < starts[g + 1]]
        at, parts = int(starts[within[0]]), []
        # A row group may be the whole file.
        for batch in table.iter_batches(_PARQUET_ROWS, row_groups=within, columns=[name]):
            if at < stop and start < at + len(batch):
                wanted = batch.column(0).slice(max(start - at, 0), stop - max(start, at))
                parts.append(_plain(wanted, name, width))
            at += len(batch)
        return np.concatenate(parts)

    for field in table.schema_arrow:
        if field.name == ROW_ID:
            yield ROW_ID, Stored((rows,), str(field.type), partial(read, ROW_ID, None))
        elif _is_list(field.type):
            first = next(table.iter_batches(1, columns=[field.name])).column(0)[0]
            width = 0 if first.as_py() is None else len(first)
            kind = str(field.type.value_type)
            yield (
                field.name,
                Stored((rows, width), _PARQUET_KINDS.get(kind, kind), partial(read, field.name, width)),
            )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _plain(column: pa.Array, name: str, width: int | None) -> NDArray[Any]:
    if column.null_count:
        raise UserError(
            f"Column {name!r} of the saved states has rows without any: leave them out, and give a {ROW_ID}."
        )
    if width is None:
        return column.to_numpy()
    lengths = set(pc.list_value_length(column).to_pylist())
    if lengths != {width}:
        raise UserError(
            f"Column {name!r} of the saved states has rows of {', '.join(map(str, sorted(lengths | {width})))} "
            "features. Pool the tokens of a text into one row of as many features as the model has."
        )
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def _of_zarr(place: Path, spec: str) -> Iterator[tuple[str, Stored]]:
    try:
        import zarr  # installed only where it is wanted
    except ImportError as error:
        raise UserError(
            f"{spec} is a Zarr store. Install what reads it: pip install 'layerscout[zarr]'."
        ) from error

    def read(array: Any, start: int, stop: int) -> NDArray[Any]:
        return np.asarray(array[start:stop])

    found = zarr.open(str(place), mode="r")
    for name, array in found.arrays() if isinstance(found, zarr.Group) else [("states", found)]:
        yield name, Stored(tuple(array.shape), str(array.dtype), partial(read, array))


def _in_order(arrays: Mapping[str, Stored], spec: str) -> tuple[Stored, ...]:
    """The one array of all layers, or an array a layer; `UserError` where they are neither."""
    for name, array in arrays.items():
        if array.kind not in KINDS:
            raise UserError(
                f"Array {name!r} of {spec} is {array.kind}. Save states as one of: {', '.join(KINDS)}."
            )
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in list(arrays.items())[:5])
    if len(arrays) == 1 and len(next(iter(arrays.values())).shape) == 3:
        return tuple(arrays.values())
    if not arrays or any(len(array.shape) != 2 for array in arrays.values()):
        raise UserError(
            f"{spec} holds neither one array [rows, layers, features] nor one [rows, features] a layer, but: "
            f"{shapes or 'nothing'}. States of every token have to be pooled first."
        )
    if len({(array.shape, array.kind) for array in arrays.values()}) > 1:
        raise UserError(f"The layers of {spec} are not of one shape and type: {shapes}.")
    numbers = {name: int(found[-1]) if (found := re.findall(r"\d+", name)) else None for name in arrays}
    if sorted(numbers.values(), key=str) != sorted(range(len(arrays)), key=str):
        named = ", ".join(f"{name} ({number})" for name, number in list(numbers.items())[:5])
        raise UserError(
            f"The names of the {len(arrays)} layers of {spec} do not end in the numbers 0 to {len(arrays) - 1}: "
            f"{named}. Layer 0 is the embedding output; of layers taken here and there, number those there are."
        )
    return tuple(arrays[name] for name in sorted(arrays, key=lambda name: numbers[name] or 0))


def _row_id(keys: Stored | None, rows: int, spec: str) -> NDArray[np.int64] | None:
    if keys is None:
        return None
    if keys.shape != (rows,) or not keys.kind.startswith(("int", "uint")):
        raise UserError(
            f"{ROW_ID} of {spec} is {keys.kind} {list(keys.shape)}, and has to be one integer for each of {rows:,} "
            "rows."
        )
    found = keys.read(0, rows).astype(np.int64)
    if found.min() < 0 or len(np.unique(found)) < rows:
        raise UserError(
            f"{ROW_ID} of {spec} names a row twice, or one below 0. It is a row's place in the data set."
        )
    return found


def _last_is_normed(place: Path, spec: str) -> bool:
    """What `states.json` beside the arrays says; not, where there is none."""
    file = place / ABOUT
    if not file.is_file():
        return False
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} (from {spec}) is no JSON: {error}. Mend it or leave it out.") from error
    if (
        not isinstance(about, dict)
        or set(about) != {"last_is_normed"}
        or type(about["last_is_normed"]) is not bool
    ):
        raise UserError(
            f'{file} (from {spec}) may say {{"last_is_normed": true}} or false, and nothing else.'
        )
    return bool(about["last_is_normed"])


def _take(array: Stored, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of an array in any order, float32 [n, …]."""
    out = np.empty((len(rows), *array.shape[1:]), np.float32)
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    starts = np.flatnonzero(np.diff(wanted, prepend=-_GAP - 1) > _GAP)
    for run in np.split(np.arange(len(rows)), starts[1:]):
        for piece in np.split(run, range(_PIECE, len(run), _PIECE)):
            first, last = int(wanted[piece[0]]), int(wanted[piece[-1]])
            with np.errstate(over="ignore"):  # what float32 does not hold is found as not finite
                out[order[piece]] = array.read(first, last + 1)[wanted[piece] - first].astype(np.float32)
    return out
