"""Embeddings on any filesystem: one Parquet file a shard, one row group a layer."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.errors import UserError
from storage.files import filesystem, write_atomically

log = logging.getLogger(__name__)

ValueType = Literal["float32", "float16"]

# One page for each column of a row group: embeddings are read whole, and a small page costs a header and a copy.
_PAGE_BYTES = 1 << 30
_LONGEST_PAGE_HEADER = 512


@dataclass(frozen=True)
class Layer:
    """One layer of some shards: embeddings float32 [N, D], row_id int64 [N], label int32 [N]."""

    embeddings: NDArray[np.float32]
    row_id: NDArray[np.int64]
    label: NDArray[np.int32]


def shard_schema(hidden_size: int, value_type: ValueType) -> pa.Schema:
    """The columns of a shard. No value is ever null, and readers can rely on it."""
    value = pa.field("element", pa.float32() if value_type == "float32" else pa.float16(), nullable=False)
    return pa.schema(
        [
            pa.field("layer", pa.int16(), nullable=False),
            pa.field("norm_state", pa.string(), nullable=False),
            pa.field("pooling", pa.string(), nullable=False),
            pa.field("row_id", pa.int64(), nullable=False),
            pa.field("label", pa.int32(), nullable=False),
            pa.field("embedding", pa.list_(value, hidden_size), nullable=False),
        ]
    )


def write_shard(
    uri: str,
    states: Mapping[tuple[str, str], NDArray[np.float32]],
    row_id: NDArray[np.int64],
    label: NDArray[np.int32],
    *,
    value_type: ValueType = "float32",
) -> str:
    """Write one shard, whole or not at all: a row group for each (norm state, pooling, layer).

    states: (norm_state, pooling) → [L, N, D]. row_id: [N]. label: [N]. Pages carry checksums and are not
    compressed: embeddings hardly shrink. `UserError` where a value does not fit `float16` (beyond ±65,504).

    Returns the SHA-256 of the file's footer, which has no checksum of its own: `verify_shard` takes it.
    """
    shapes = {array.shape for array in states.values()}
    if len(shapes) != 1 or len(row_id) != len(label) or next(iter(shapes))[1] != len(row_id):
        raise ValueError(
            f"{uri}: states {shapes}, {len(row_id)} row ids and {len(label)} labels do not agree."
        )
    layers, rows, hidden_size = next(iter(shapes))
    schema = shard_schema(hidden_size, value_type)

    def write(sink: BinaryIO) -> None:
        with pq.ParquetWriter(
            sink,
            schema,
            compression="none",
            use_dictionary=["norm_state", "pooling"],
            write_statistics=["layer", "norm_state", "pooling", "row_id"],
            write_page_checksum=True,
            data_page_size=_PAGE_BYTES,
            max_rows_per_page=max(rows, 1),
            store_schema=True,
        ) as writer:
            for (norm_state, pooling), array in states.items():
                for layer in range(layers):
                    where = f"layer {layer}, {pooling}, {norm_state}"
                    values = _as_stored(array[layer], value_type, where)
                    batch = pa.record_batch(
                        [
                            pa.array(np.full(rows, layer, np.int16)),
                            pa.array([norm_state] * rows, pa.string()),
                            pa.array([pooling] * rows, pa.string()),
                            pa.array(np.ascontiguousarray(row_id, np.int64)),
                            pa.array(np.ascontiguousarray(label, np.int32)),
                            pa.FixedSizeListArray.from_arrays(pa.array(values), type=schema[-1].type),
                        ],
                        schema=schema,
                    )
                    writer.write_batch(batch, row_group_size=max(rows, 1))

    write_atomically(uri, write)
    system, path = filesystem(uri)
    with system.open_input_file(path) as written:
        return _footer_hash(written)


def verify_shard(
    uri: str, row_id: NDArray[np.int64], label: NDArray[np.int32], footer: str | None = None
) -> bool:
    """Whether the whole shard of these rows lies at `uri`, read through with its checksums. A damaged one is logged.

    row_id: [N]. label: [N]. footer: what `write_shard` returned; None of a shard whose writer did not keep it.
    """
    try:
        system, path = filesystem(uri)
        with system.open_input_file(path) as source:
            # Before anything parses it: some damage ends the whole process inside Arrow.
            if footer is not None and _footer_hash(source) != footer:
                raise OSError("its footer is not the one that was written")
            file = pq.ParquetFile(source, page_checksum_verification=True)
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                for name, expected in (("row_id", row_id), ("label", label)):
                    if not np.array_equal(rows.column(name).to_numpy(), expected):
                        raise OSError(f"its {name} is not that of its rows")
    except FileNotFoundError:
        return False
    except (OSError, KeyError, pa.ArrowException) as error:
        log.warning("The shard %s is damaged: %s", uri, error)
        return False
    return True


def _footer_hash(source: pa.NativeFile) -> str:
    """Of the footer and all after it: its length and the four letters that end a Parquet file."""
    size = source.size()
    source.seek(max(size - 8, 0))
    length = int.from_bytes(source.read(4), "little")
    source.seek(max(size - 8 - length, 0))
    return hashlib.sha256(source.read()).hexdigest()


def read_layer(
    uris: Sequence[str], *, layer: int, norm_state: str, pooling: str, most_rows: int | None = None
) -> Layer:
    """One layer of all rows of some shards, in the order of `uris`, reading only the bytes of that layer.

    most_rows: that the shards have together, where it is known: no row is held twice then.

    `UserError` names the shard that has no such layer, norm state or pooling.
    """
    if len(uris) == 1:
        return _read_layer_of(uris[0], layer, norm_state, pooling)
    ids, labels, embeddings, read = [], [], [], 0
    for uri in uris:
        part = _read_layer_of(uri, layer, norm_state, pooling)
        ids.append(part.row_id)
        labels.append(part.label)
        if most_rows is None:
            embeddings.append(part.embeddings)
            continue
        if not embeddings:
            embeddings.append(np.empty((most_rows, part.embeddings.shape[1]), np.float32))
        embeddings[0][read : read + len(part.row_id)] = part.embeddings
        read += len(part.row_id)
    rows = np.concatenate(embeddings) if most_rows is None else embeddings[0][:read]
    return Layer(rows, np.concatenate(ids), np.concatenate(labels))


def hand_back_read_memory() -> None:
    """Have Arrow give the kernel what it keeps of layers that were read, and that nobody holds any more."""
    pa.default_memory_pool().release_unused()


def _as_stored(
    values: NDArray[np.float32], value_type: ValueType, where: str
) -> NDArray[np.float32] | NDArray[np.float16]:
    """[N, D] → flat [N·D] in the stored type."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    if value_type == "float32":
        return flat
    with np.errstate(over="ignore"):
        half = flat.astype(np.float16)
    overflowed = np.isinf(half) & np.isfinite(flat)
    if overflowed.any():
        row = int(np.flatnonzero(overflowed)[0]) // values.shape[1]
        raise UserError(
            f"The value {flat[overflowed][0]:.0f} at {where}, row {row} of the shard, does not fit float16 "
            "(at most 65,504). Store the embeddings as float32, which is the default."
        )
    return half


def _read_layer_of(uri: str, layer: int, norm_state: str, pooling: str) -> Layer:
    system, path = filesystem(uri)
    with system.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        group = _row_group(file.metadata, layer, norm_state, pooling)
        if group is None:
            raise UserError(
                f"The shard {uri} holds no layer {layer} with pooling {pooling!r} and norm state {norm_state!r}. "
                "Ask for one that was extracted, or extract again with it."
            )
        # Here: beside layers that keep the cores busy, a thread of Arrow's would first wait for a core.
        ids = file.read_row_group(group, columns=["row_id", "label"], use_threads=False)
        value = file.schema_arrow.field("embedding").type
        values = _last_values(source, file.metadata.row_group(group).column(5), value.value_type)
        if values is None:
            column = file.read_row_group(group, columns=["embedding"]).column("embedding")
            values = column.combine_chunks().flatten().to_numpy(zero_copy_only=True)
    return Layer(
        values.astype(np.float32, copy=False).reshape(ids.num_rows, value.list_size),
        ids.column("row_id").to_numpy(),
        ids.column("label").to_numpy(),
    )


def _last_values(
    source: pa.NativeFile, chunk: pq.ColumnChunkMetaData, value_type: pa.DataType
) -> NDArray[Any] | None:
    """The values of a column chunk, flat, straight from the file, if it is one plain, uncompressed page.

    That is how `write_shard` lays it out (up to what fits one page), and a page ends in its values. Reading lists
    through pyarrow is slower (`make bench ONLY=extraction` has ours over numpy.fromfile), since it decodes levels that
    say "no nulls" for every single value.
    """
    if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
        return None
    source.seek(chunk.data_page_offset)
    header_length = chunk.total_compressed_size - _page_size(source.read(16))
    if not 0 < header_length < _LONGEST_PAGE_HEADER:
        return None  # more pages than one
    size = chunk.num_values * value_type.bit_width // 8
    source.seek(chunk.data_page_offset + chunk.total_compressed_size - size)
    return np.frombuffer(source.read_buffer(size), dtype=value_type.to_pandas_dtype())


def _page_size(header: bytes) -> int:
    """Bytes of a page without its header, from the header's start.

    The header is Thrift's compact protocol (github.com/apache/parquet-format): fields 1 to 3 are the type and the
    sizes before and after compression, each a byte 0x15 and a zigzag varint.
    """
    at = 0
    number = 0
    for _ in range(3):
        at += 1
        number = shift = 0
        while True:
            byte = header[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
    return number >> 1


def _row_group(metadata: pq.FileMetaData, layer: int, norm_state: str, pooling: str) -> int | None:
    """Each row group is of one layer, norm state and pooling, so the smallest value of each column tells it."""
    wanted = (layer, norm_state, pooling)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if all(group.column(column).statistics.min == value for column, value in enumerate(wanted)):
            return number
    return None
