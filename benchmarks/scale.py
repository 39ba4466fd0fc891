"""As large as it gets: `run()` measures what more rows, a model larger than memory, and a dtype cost.

- A million rows of 384 features, 7 layers, all scores of a sweep, against a tenth of them: seconds a row.
- 10 GB of saved states, 25,000 rows of 100 layers of 1,024 features: the most memory that their sweep has. It takes
  20 GB of disk and up to half an hour.
- Qwen2.5-Coder-1.5B (`python -m benchmarks.qwen`) read block by block against the whole model: the same texts, equal
  embeddings, seconds, and the most memory that the process had of its own (files that are mapped are the kernel's).
- The dtype that `auto` chooses here against the other one: tokens a second.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.bars import Bar, bar
from benchmarks.extraction import texts_of
from benchmarks.qwen import join
from flows.parameters import SweepParameters
from flows.unrecorded_sweep import unrecorded_sweep
from tasks.embedding.embed import choose_dtype, embed_texts
from tasks.embedding.model import load_model, resolve_model
from tasks.embedding.set_plan import STREAMED_TOKENS
from tasks.embedding.shards import plan_shards
from tasks.embedding.tokens import tokenise
from tasks.vocabulary import NormState, Pooling

ROWS, TENTH = 1_000_000, 100_000
FEATURES, LAYERS, CLASSES = 384, 7, 6
A_ROW = 1.25
STATES = (25_000, 1_024, 100)
STATES_BYTES = 2_000_000_000
MODEL = "qwen2.5-coder-1.5b"
STREAMED_TEXTS = 500
OWN_BYTES = 1_500_000_000
STREAMED = 1.5
DTYPE_TEXTS = {"wheel:smollm2-135m": 400, "wheel:minilm-l6": 1_000}
REPEATS = 2
LOOK_SECONDS = 0.02
MAX_LENGTH = 128
BUDGET = 1_024


def run() -> list[Bar]:
    """All bars of scale."""
    return [*dtypes(), streaming(), states(), rows()]


def dtypes() -> list[Bar]:
    """`auto` against the other dtype, for each built-in model."""
    chosen = str(choose_dtype(torch.device("cpu"))).removeprefix("torch.")
    other = "float32" if chosen == "bfloat16" else "bfloat16"
    bars = []
    for spec, count in DTYPE_TEXTS.items():
        folder, texts = resolve_model(spec).folder, texts_of("emotion", count)
        rates: dict[str, list[float]] = {chosen: [], other: []}
        for _ in range(REPEATS):
            for dtype in rates:
                rates[dtype].append(_embed(folder, dtype, texts, stream=False)["tokens_per_second"])
        ours, peer = max(rates[chosen]), max(rates[other])
        name = f"{spec}: tokens/s in {chosen}, which auto chooses here, over {other}"
        bars.append(bar(name, ours, peer, ours / peer, 1.0, ours >= peer, rates))
    return bars


def streaming() -> Bar:
    """A model block by block in little memory against the whole model."""
    folder = resolve_model(f"gguf:{join(MODEL)}").folder
    dtype = "bfloat16"
    whole = _in_own_process(folder, dtype, "whole")
    streamed = _in_own_process(folder, dtype, "streamed")
    ratio = streamed["seconds"] / whole["seconds"]
    equal = streamed["digest"] == whole["digest"]
    return bar(
        f"{MODEL} ({dtype}) block by block, seconds over the whole model's",
        streamed["seconds"],
        whole["seconds"],
        ratio,
        f"<= {STREAMED}, equal, own memory <= {OWN_BYTES:,}",
        ratio <= STREAMED and equal and streamed["own_bytes"] <= OWN_BYTES,
        {"whole": whole, "streamed": streamed},
    )


def _in_own_process(folder: str, dtype: str, how: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", folder, dtype, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{how}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _embed(folder: str, dtype: str, texts: Sequence[str], *, stream: bool) -> dict[str, Any]:
    """Seconds without loading, tokens a second, and a digest of all embeddings, shard by shard as a sweep does it."""
    loaded = load_model(folder, dtype, "cpu", stream=stream)
    counts = tokenise(loaded.tokenizer, texts, MAX_LENGTH).counts
    digest = hashlib.sha256()
    started = time.perf_counter()
    for shard in plan_shards(counts, STREAMED_TOKENS[0]):
        found = embed_texts(
            loaded.backbone,
            loaded.tokenizer,
            texts[shard.start : shard.stop],
            poolings=[Pooling.MEAN],
            norm_states=[NormState.AS_RETURNED],
            max_length=MAX_LENGTH,
            token_budget=BUDGET,
        )
        for states in found.states.values():
            digest.update(states.tobytes())
    seconds = time.perf_counter() - started
    tokens = int(counts.sum())
    return {
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "digest": digest.hexdigest(),
    }


def rows() -> Bar:
    """All of a sweep of saved states: reading, scoring, choosing, audit, tables, report."""
    seconds = {count: _sweep_of(count) for count in (TENTH, ROWS)}
    a_row = {count: found["seconds"] / count for count, found in seconds.items()}
    ratio = a_row[ROWS] / a_row[TENTH]
    return bar(
        f"a sweep of {ROWS:,} rows × {FEATURES} × {LAYERS} layers, seconds a row over {TENTH:,} rows",
        a_row[ROWS],
        a_row[TENTH],
        ratio,
        f"<= {A_ROW}",
        ratio <= A_ROW,
        {str(count): found for count, found in seconds.items()},
    )


def states() -> Bar:
    """Of a whole sweep of more states than fit memory, what `getrusage` calls the largest resident set."""
    count, features, layers = STATES
    found, size = _sweep_of(count, "states"), 4.0 * count * features * layers
    share = found["peak_bytes"] / size
    name = f"a sweep of {size:,.0f} bytes of saved states, {count:,} rows × {layers} layers: peak memory over them"
    holds = found["peak_bytes"] <= STATES_BYTES
    return bar(name, found["peak_bytes"], size, share, f"<= {STATES_BYTES:,} bytes", holds, found)


def _sweep_of(count: int, how: str = "rows") -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="layerscout-bench-") as folder:
        command = [sys.executable, "-m", "benchmarks.scale", folder, str(count), how]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{count} rows: {done.stderr[-2000:]}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def _score_rows(folder: Path, count: int, features: int, layers: int) -> dict[str, float]:
    """Half of the rows are train rows. Class means lie the further apart the nearer a layer is to the middle one."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, CLASSES, count)
    means = draw.standard_normal((CLASSES, features), dtype=np.float32)
    states = folder / "states"
    states.mkdir()
    for layer in range(layers):
        apart = 0.12 - 0.14 * abs(layer - layers // 2) / layers
        kept = np.lib.format.open_memmap(
            states / f"layer_{layer}.npy", mode="w+", dtype=np.float32, shape=(count, features)
        )
        for start in range(0, count, 50_000):
            some = labels[start : start + 50_000]
            noise = draw.standard_normal((len(some), features), dtype=np.float32)
            kept[start : start + len(some)] = apart * means[some] + noise
        kept.flush()
        del kept
    split = np.where(np.arange(count) % 2 == 0, "train", "test")
    table = pl.DataFrame({"label": labels, "split": split})
    table.write_parquet(folder / "rows.parquet")
    parameters = SweepParameters(
        model=f"states:{states}",
        dataset=f"path:{folder / 'rows.parquet'}",
        split_column="split",
        pooling=("mean",),
        storage=str(folder / "out"),
    )
    started = time.perf_counter()
    unrecorded_sweep(parameters)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak_bytes": float(peak)}


@contextmanager
def _own_memory() -> Iterator[list[int]]:
    """The most anonymous memory that this process has had, in bytes, looked at every LOOK_SECONDS."""
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            (line,) = (each for each in status if each.startswith("RssAnon:"))
            most[0] = max(most[0], int(line.split()[1]) * 1024)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield most
    finally:
        ended.set()
        looking.join()


def main() -> int:
    """One side of one bar, in a process of its own; prints JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("folder")
    parser.add_argument("what", help="a dtype, or a number of rows")
    parser.add_argument("how", choices=["whole", "streamed", "rows", "states"])
    asked = parser.parse_args()
    if asked.how in ("rows", "states"):
        features, layers = STATES[1:] if asked.how == "states" else (FEATURES, LAYERS)
        found = _score_rows(Path(asked.folder), int(asked.what), features, layers)
    else:
        texts = texts_of("emotion", STREAMED_TEXTS)
        with _own_memory() as most:
            found = _embed(asked.folder, asked.what, texts, stream=asked.how == "streamed")
        found["own_bytes"] = most[0]
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
