"""Extraction against its peers: `run()` measures every bar of this part, one object a bar.

Texts are rows of Emotion and AG News, from `LAYERSCOUT_BENCH_DATA` (a folder with emotion/ and ag_news/) or
`../shared/data`. The model is SmolLM2-135M, for all in the dtype that `auto` chooses here. Ours makes all layers × mean
and last; a peer makes its one layer. Every ratio comes from runs that alternate in one process, and takes the best of
each side's repeats: what else runs on the machine only ever makes a run slower.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from benchmarks.bars import Bar, bar, seconds_of
from benchmarks.peak import Peak
from storage.embeddings import read_layer, write_shard
from tasks.embedding import embed
from tasks.embedding.calibration import calibrate
from tasks.embedding.embed import EmbeddedTexts, choose_dtype, embed_texts
from tasks.embedding.model import load_model, resolve_model
from tasks.embedding.prompts import with_prompt
from tasks.embedding.tokens import tokenise
from tasks.vocabulary import NormState, Pooling

MODEL = "wheel:smollm2-135m"
DTYPE = choose_dtype(torch.device("cpu"))
DTYPE_NAME = str(DTYPE).removeprefix("torch.")
ROWS = {"emotion": 1000, "ag_news": 400}
OVER_SENTENCE_TRANSFORMERS = {"emotion": 2.7, "ag_news": 2.05}
OF_THE_PEAK = 0.85
MEMORY = 1.2
LINEAR = 0.10
WRITING = 0.05
READING = 2.0
MAX_LENGTH = 256
REPEATS = 3
PEER_BATCHES = (32, 64, 128)
# As Qwen2.5's chat template begins and ends.
CHAT = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
)
OF_THE_TOKENS = 0.8


def run() -> list[Bar]:
    """All bars of extraction. About ten minutes on two cores."""
    folder = resolve_model(MODEL).folder
    bars: list[Bar] = []
    for name in ROWS:
        bars += _speed(folder, name)
    bars += [_shared_prefix(folder), _memory(), _linear(folder)]
    bars += _storage(folder)
    return bars


def texts_of(name: str, rows: int) -> list[str]:
    """The first rows of a data set's train split."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LAYERSCOUT_BENCH_DATA", beside))
    return pl.read_parquet(folder / name / "train.parquet")["text"].head(rows).to_list()


class _Ours:
    """Our engine with the model loaded and the budget calibrated, as a sweep has it."""

    def __init__(self, folder: str, texts: Sequence[str]) -> None:
        loaded = load_model(folder, DTYPE_NAME, "cpu")
        self.tokenizer, self.backbone = loaded.tokenizer, loaded.backbone
        # The engine lays its weights out anew: shapes are those of a model as it comes.
        with torch.device("meta"):
            plain = AutoModel.from_config(AutoConfig.from_pretrained(folder))
        products = [part for part in plain.layers.modules() if isinstance(part, nn.Linear)]
        self.products = [(part.out_features, part.in_features) for part in products]
        calibrated = calibrate(self.backbone, self.tokenizer, texts, MAX_LENGTH)
        assert calibrated is not None  # whatever it costs
        self.budget = calibrated.token_budget

    def embed(self, texts: Sequence[str]) -> EmbeddedTexts:
        return embed_texts(
            self.backbone,
            self.tokenizer,
            texts,
            poolings=[Pooling.MEAN, Pooling.LAST],
            norm_states=[NormState.AS_RETURNED],
            max_length=MAX_LENGTH,
            token_budget=self.budget,
        )

    def flop(self, texts: Sequence[str]) -> float:
        """2 × block parameters × tokens of distinct texts."""
        tokens = int(tokenise(self.tokenizer, sorted(set(texts)), MAX_LENGTH).counts.sum())
        return 2.0 * sum(rows * columns for rows, columns in self.products) * tokens


def _speed(folder: str, name: str) -> list[Bar]:
    texts = texts_of(name, ROWS[name])
    ours = _Ours(folder, texts)
    sentences, plain = _SentenceTransformers(folder), _Plain(folder, all_layers=True)
    sentences.choose_batch(texts[: len(texts) // 4])
    peak = Peak(ours.products, DTYPE)
    ours.embed(texts[:50])
    seconds: dict[str, list[float]] = {"ours": [], "sentence_transformers": [], "hidden_states": []}
    peaks: list[float] = []
    for _ in range(REPEATS):
        peaks.append(peak.measure())
        seconds["ours"].append(seconds_of(lambda: ours.embed(texts)))
        seconds["sentence_transformers"].append(seconds_of(lambda: sentences.embed(texts)))
        seconds["hidden_states"].append(seconds_of(lambda: plain.embed(texts)))
        peaks.append(peak.measure())
    tokens = int(tokenise(ours.tokenizer, texts, MAX_LENGTH).counts.sum())
    flop = ours.flop(texts)
    rate = {who: tokens / min(times) for who, times in seconds.items()}
    share = flop / min(seconds["ours"]) / max(peaks)
    raw = {
        "seconds": seconds,
        "peak_flop_per_s": peaks,
        "tokens": tokens,
        "token_budget": ours.budget,
        "sentence_transformers_batch": sentences.batch,
        "threads": torch.get_num_threads(),
        "dtype": DTYPE_NAME,
        "load_average": os.getloadavg(),
    }
    bars = []
    for who, least in (("sentence_transformers", OVER_SENTENCE_TRANSFORMERS[name]), ("hidden_states", 1.0)):
        ratio = rate["ours"] / rate[who]
        label = f"extraction {name}: tokens/s, all layers, over {who} tokens/s"
        bars.append(bar(label, rate["ours"], rate[who], ratio, least, ratio >= least, raw))
    bars.append(
        bar(
            f"extraction {name}: share of the matrix-product peak (FLOP/s)",
            flop / min(seconds["ours"]),
            max(peaks),
            share,
            OF_THE_PEAK,
            share >= OF_THE_PEAK,
            raw,
        )
    )
    return bars


def _shared_prefix(folder: str) -> Bar:
    """Times as fast with what all texts begin with computed once, over how many times fewer tokens that is."""
    texts = texts_of("emotion", ROWS["emotion"])
    ours = _Ours(folder, texts)
    ours.tokenizer = with_prompt(ours.tokenizer, CHAT)
    tokens = tokenise(ours.tokenizer, sorted(set(texts)), MAX_LENGTH)
    assert tokens.around is not None
    whole, prefix = int(tokens.counts.sum()), tokens.around[0]
    ideal = whole / (whole - len(tokens.ids) * prefix)
    ours.embed(texts[:50])
    shared: list[float] = []
    plain: list[float] = []
    for _ in range(REPEATS):
        shared.append(seconds_of(lambda: ours.embed(texts)))
        with patch.object(embed, "prefix_of", return_value=None):
            plain.append(seconds_of(lambda: ours.embed(texts)))
    faster = min(plain) / min(shared)
    raw = {"shared": shared, "plain": plain, "tokens": whole, "prefix": prefix, "ideal": ideal}
    return bar(
        "extraction emotion in a chat: times as fast by sharing the prompt's beginning, of what its tokens allow",
        faster,
        ideal,
        faster / ideal,
        OF_THE_TOKENS,
        faster / ideal >= OF_THE_TOKENS,
        raw,
    )


class _SentenceTransformers:
    """`encode` of the last layer, mean pooled, at its best batch size."""

    def __init__(self, folder: str) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling as MeanOfTokens
        from sentence_transformers.sentence_transformer.modules import Transformer

        transformer = Transformer(folder, max_seq_length=MAX_LENGTH, model_kwargs={"dtype": DTYPE})
        mean = MeanOfTokens(transformer.get_embedding_dimension(), pooling_mode="mean")
        self.model = SentenceTransformer(modules=[transformer, mean], device="cpu")
        self.batch = PEER_BATCHES[0]

    def choose_batch(self, texts: Sequence[str]) -> None:
        times = {}
        for batch in PEER_BATCHES:
            self.batch = batch
            times[batch] = min(seconds_of(lambda: self.embed(texts)) for _ in range(2))
        self.batch = min(times, key=lambda batch: times[batch])

    def embed(self, texts: Sequence[str]) -> object:
        return self.model.encode(list(texts), batch_size=self.batch, show_progress_bar=False)


class _Plain:
    """Hugging Face in a plain loop, batch 32: mean and last of every layer, or the mean of the last layer alone."""

    def __init__(self, folder: str, all_layers: bool) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
        self.model = AutoModel.from_pretrained(folder, dtype=DTYPE).eval()
        self.all_layers = all_layers

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> object:
        found = []
        for start in range(0, len(texts), 32):
            batch = self.tokenizer(
                list(texts[start : start + 32]),
                padding=True,
                truncation=True,
                max_length=MAX_LENGTH,
                return_tensors="pt",
            )
            mask = batch["attention_mask"][..., None]
            output = self.model(**batch, output_hidden_states=self.all_layers)
            if not self.all_layers:
                found.append((output.last_hidden_state.float() * mask).sum(1) / mask.sum(1))
                continue
            rows, last = torch.arange(len(mask)), batch["attention_mask"].sum(1) - 1
            for states in output.hidden_states:
                found += [(states.float() * mask).sum(1) / mask.sum(1), states[rows, last].float()]
        return found


def _memory() -> Bar:
    """Peak resident memory of a fresh process with our engine, over one with the last layer alone in a plain loop."""
    peaks: dict[str, list[float]] = {"all": [], "last": []}
    for _ in range(2):
        for what, into in peaks.items():
            command = [sys.executable, "-m", "benchmarks.extraction", "--peak-memory-of", what]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            into.append(float(done.stdout.strip().splitlines()[-1]))
    ours, last = min(peaks["all"]), min(peaks["last"])
    ratio = ours / last
    label = "extraction: peak memory (bytes) over that of the last layer alone"
    return bar(label, ours, last, ratio, MEMORY, ratio <= MEMORY, {"peak_bytes": peaks})


def _embed_once(what: str) -> None:
    folder = resolve_model(MODEL).folder
    texts = texts_of("emotion", ROWS["emotion"])
    if what == "last":
        _Plain(folder, all_layers=False).embed(texts)
    else:
        _Ours(folder, texts).embed(texts)
    print(_peak_bytes())


def _peak_bytes() -> int:
    """Of this process. Linux's `ru_maxrss` would also count the parent's pages, from before this program was loaded."""
    status = Path("/proc/self/status")
    if status.exists():
        (peak,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _linear(folder: str) -> Bar:
    """Seconds a token at 1k, 2k and 4k rows: the furthest from the mean of the three."""
    rows = (1000, 2000, 4000)
    texts = texts_of("emotion", rows[-1])
    ours = _Ours(folder, texts)
    flop = {count: ours.flop(texts[:count]) for count in rows}
    seconds: dict[int, list[float]] = {count: [] for count in rows}
    for _ in range(2):
        for count in rows:
            seconds[count].append(seconds_of(partial(ours.embed, texts[:count])))
    cost = np.array([min(seconds[count]) / flop[count] for count in rows])
    ratio = float(np.abs(cost / cost.mean() - 1).max())
    label = "extraction: cost a token at 1k, 2k, 4k rows, largest deviation from their mean"
    return bar(
        label, float(cost.max()), float(cost.min()), ratio, LINEAR, ratio <= LINEAR, {"seconds": seconds}
    )


def _storage(folder: str) -> list[Bar]:
    texts = texts_of("emotion", ROWS["emotion"])
    ours = _Ours(folder, texts)
    row_id = np.arange(len(texts), dtype=np.int64)
    label = np.zeros(len(texts), dtype=np.int32)
    embedding: list[float] = []
    writing: list[float] = []
    reading: list[float] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        uri, raw_file = f"{scratch}/shard.parquet", f"{scratch}/layer.bin"
        for _ in range(REPEATS):
            found = ours.embed(texts)
            embedding.append(found.seconds)
            states = {(norm.value, pooling.value): each for (norm, pooling), each in found.states.items()}
            writing.append(seconds_of(partial(write_shard, uri, states, row_id, label)))
        wide = np.random.default_rng(0).standard_normal((4, 16_000, 576), dtype=np.float32)
        rows = np.arange(16_000, dtype=np.int64)
        write_shard(uri, {("as_returned", "mean"): wide}, rows, rows.astype(np.int32))
        wide[2].tofile(raw_file)
        for _ in range(20):
            plain.append(seconds_of(lambda: np.fromfile(raw_file, dtype=np.float32)))
            reading.append(
                seconds_of(lambda: read_layer([uri], layer=2, norm_state="as_returned", pooling="mean"))
            )
    share = min(writing) / (min(writing) + min(embedding))
    slower = min(reading) / min(plain)
    return [
        bar(
            "extraction: Parquet writing, share of the wall time (seconds of a shard)",
            min(writing),
            min(embedding),
            share,
            WRITING,
            share <= WRITING,
            {"writing_s": writing, "embedding_s": embedding},
        ),
        bar(
            "extraction: reading one layer of 16,000 rows over numpy.fromfile (seconds)",
            min(reading),
            min(plain),
            slower,
            READING,
            slower <= READING,
            {"reading_s": reading, "fromfile_s": plain},
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--peak-memory-of", choices=["all", "last"])
    asked = parser.parse_args().peak_memory_of
    if asked:
        _embed_once(asked)
    else:
        print(json.dumps(run(), indent=2))
