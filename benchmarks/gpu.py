"""Extraction and scoring on one GPU.

Extraction: true shapes of two models with random weights, and texts as long as AG News's. Bars, on one H100: at least
50 % of the measured bf16 matrix-product peak, Qwen3-1.7B computed within 40 s, the GPU idle at most 10 % of the time,
and all layers no slower than transformers makes the last one alone. Scoring, 29 layers of 120,000×2,048 and 7,600 test
rows: the exact Euclidean silhouettes within 60 s, and all that a sweep scores unasked within 60 s.

`python -m benchmarks.gpu` writes benchmarks/results/gpu.json. Without a GPU, `--shape tiny --texts 200 --rows 3000`
runs the same code on the CPU.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import silhouette_score
from torch import nn
from transformers import AutoConfig, AutoModel

from flows.parameters import SweepParameters
from storage.embeddings import write_shard
from tasks.embedding.backbone import find_backbone
from tasks.embedding.calibration import calibrate
from tasks.embedding.embed import embed_texts
from tasks.embedding.forward import Backbone
from tasks.embedding.tokens import tokenise
from tasks.scoring.criteria import score_criteria
from tasks.scoring.features import Features
from tasks.scoring.probe import fit_probe_on
from tasks.scoring.silhouette import silhouette
from tasks.vocabulary import Metric, NormState, Pooling, Precision

TEXTS = 127_600
TEXTS_PER_SHARD = 16_384
MAX_LENGTH = 256
OF_THE_PEAK = 0.50
SECONDS = {"qwen3-1.7b": 40.0}
IDLE = 0.10
SCORED_ROWS = 120_000
SCORED_TEST_SHARE = 7_600 / 120_000
SCORED_WIDTH = 2_048
SCORED_LAYERS = 29
SCORING_SECONDS = 60.0
# Rows on which the GPU's silhouettes are held against the CPU's in float64.
CHECKED_ROWS = 4_000
PEAK_ROWS = (4096, 16384, 65536)
# Of a peer's batch at most, padded.
PEER_TOKENS = (8_192, 32_768, 131_072)
KEY = (NormState.AS_RETURNED, Pooling.MEAN)

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-1.7b": {
        "model_type": "qwen3",
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "llama-3.2-1b": {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
    },
    "tiny": {
        "model_type": "llama",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
}


def run(shape: str, texts: int, device: torch.device) -> dict[str, Any]:
    """Embed `texts` texts with one shape: figures, bars (None without a GPU), raw timings."""
    model = build(shape, torch.bfloat16, device)
    rows = made_up_texts(texts, SHAPES[shape]["vocab_size"])
    # Before ours takes the model's attention over; on as many texts as tell its speed.
    attention, peer_rate = peer_tokens_per_s(model, rows[:TEXTS_PER_SHARD])
    products = [part for part in model.layers.modules() if isinstance(part, nn.Linear)]
    shapes = [(part.out_features, part.in_features) for part in products]
    peak = matrix_product_peak(shapes, device)
    exact = build(shape, torch.float32, torch.device("cpu"))
    backbone = find_backbone(model)
    deviation = deviation_from_float32(backbone, find_backbone(exact), rows[:64])
    calibrated = calibrate(backbone, read_ids, rows, MAX_LENGTH)
    assert calibrated is not None  # whatever it costs
    budget = calibrated.token_budget
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    embedding, writing, written = [], [], 0
    with tempfile.TemporaryDirectory() as scratch:
        for start in range(0, texts, TEXTS_PER_SHARD):
            part = rows[start : start + TEXTS_PER_SHARD]
            found = embed(backbone, part, budget)
            embedding.append(found.seconds)
            states = {(KEY[0].value, KEY[1].value): found.states[KEY]}
            uri = f"{scratch}/shard.parquet"
            row_id = np.arange(start, start + len(part), dtype=np.int64)
            label = np.zeros(len(part), np.int32)
            started = time.perf_counter()
            write_shard(uri, states, row_id, label, value_type="float16")
            writing.append(time.perf_counter() - started)
            written += Path(uri).stat().st_size
    tokens = int(tokenise(read_ids, rows, MAX_LENGTH).counts.sum())
    seconds = sum(embedding)
    flop = 2.0 * sum(out * into for out, into in shapes) * tokens
    idle = idle_share(backbone, rows[:TEXTS_PER_SHARD], budget) if device.type == "cuda" else None
    on_gpu = device.type == "cuda"
    return {
        "shape": shape,
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "texts": texts,
        "tokens": tokens,
        "token_budget": budget,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        "peer_attention": attention,
        "peer_tokens_per_s": peer_rate,
        "flop_per_s": flop / seconds,
        "peak_flop_per_s": peak,
        "share_of_peak": flop / seconds / peak,
        "gpu_idle_share": idle,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
        "written_gb_per_s": written / sum(writing) / 1e9,
        "deviation_from_float32": deviation,
        "share_of_peak_holds": flop / seconds / peak >= OF_THE_PEAK if on_gpu else None,
        "seconds_hold": seconds <= SECONDS[shape] if on_gpu and shape in SECONDS and texts == TEXTS else None,
        "peer_holds": tokens / seconds >= peer_rate if on_gpu else None,
        "idle_holds": idle <= IDLE if idle is not None else None,
        "raw": {"embedding_s": embedding, "writing_s": writing},
    }


def score(rows: int, device: torch.device) -> dict[str, Any]:
    """Euclidean silhouettes of made-up layers on the device: seconds of each, and errors against float64."""
    random = np.random.default_rng(0)
    y = random.integers(0, 6, rows)
    draw = torch.Generator(device).manual_seed(0)
    centres = 0.1 * torch.randn(6, SCORED_WIDTH, generator=draw, device=device)
    X = (
        torch.randn(rows, SCORED_WIDTH, generator=draw, device=device)
        + centres[torch.from_numpy(y).to(device)]
    )
    few, few_y = X[:CHECKED_ROWS], y[:CHECKED_ROWS]
    truth = silhouette_score(few.double().cpu().numpy(), few_y)
    seconds: dict[str, list[float]] = {}
    errors = {}
    for precision in Precision:

        def one(precision: Precision = precision) -> object:
            return silhouette(X, y, Metric.EUCLIDEAN, precision=precision, device=str(device))

        found = silhouette(few, few_y, Metric.EUCLIDEAN, precision=precision, device=str(device))
        errors[precision.value] = abs(found.mean - truth)
        # Its result is copied to the host, so the clock stops when the device is done.
        seconds[precision.value] = [_seconds(one) for _ in range(SCORED_LAYERS)]
    total = sum(seconds[Precision.EXACT.value])
    on_gpu = device.type == "cuda"
    return {
        "silhouette": "euclidean",
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "rows": rows,
        "width": SCORED_WIDTH,
        "layers": SCORED_LAYERS,
        "seconds": total,
        "error": errors,
        "seconds_hold": total <= SCORING_SECONDS if on_gpu else None,
        "error_holds": errors["exact"] <= 1e-6 and errors["fast"] <= 1e-4,
        "raw": seconds,
    }


def score_all(rows: int, device: torch.device) -> dict[str, Any]:
    """What a sweep scores unasked of made-up layers that the host holds: seconds of each, by what is scored."""
    random = np.random.default_rng(0)
    y = random.integers(0, 6, rows + round(SCORED_TEST_SHARE * rows))
    X = random.standard_normal((len(y), SCORED_WIDTH), dtype=np.float32)
    X += 0.1 * random.standard_normal((6, SCORED_WIDTH), dtype=np.float32)[y]
    defaults = SweepParameters(model="made-up", dataset="made-up")
    raw: dict[str, list[float]] = {"silhouettes": [], "criteria": [], "probe": []}
    for _ in range(SCORED_LAYERS if device.type == "cuda" else 1):
        began = time.perf_counter()
        features = Features(X[:rows], y[:rows], device=str(device))
        for metric in defaults.metric:
            silhouette(features.rows, y[:rows], metric, sample=defaults.silhouette_rows, device=str(device))
        silhouettes = time.perf_counter()
        score_criteria(features, names=defaults.criterion)
        criteria = time.perf_counter()
        fit_probe_on(features, X[rows:], y[rows:])
        ends = (silhouettes, criteria, time.perf_counter())
        for name, start, end in zip(raw, (began, *ends), ends, strict=False):
            raw[name].append(end - start)
    total = sum(sum(each) for each in raw.values())
    return {
        "all_scores": list(raw),
        "rows": rows,
        "width": SCORED_WIDTH,
        "layers": len(raw["probe"]),
        "seconds": total,
        "seconds_hold": total <= SCORING_SECONDS if device.type == "cuda" else None,
        "raw": raw,
    }


def build(shape: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A model with the same random weights, to bfloat16's precision, for every dtype and device."""
    settings = dict(SHAPES[shape])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings, max_position_embeddings=4096)
    torch.manual_seed(0)
    model = AutoModel.from_config(config, dtype=torch.float32)
    return model.to(torch.bfloat16).to(dtype).to(device).eval()


def made_up_texts(count: int, vocabulary: int) -> list[str]:
    """Texts of token ids in decimal, their lengths log-normal: about 50 tokens in the mean, as in AG News."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(47), 0.33, count).round(), 10, MAX_LENGTH).astype(int)
    return [" ".join(map(str, random.integers(0, vocabulary, length))) for length in lengths]


def read_ids(texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
    """Stands for a tokenizer: there is none for random weights."""
    return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


def embed(backbone: Backbone, texts: Sequence[str], budget: int) -> Any:
    """The mean of every layer."""
    return embed_texts(
        backbone,
        read_ids,
        texts,
        poolings=[KEY[1]],
        norm_states=[KEY[0]],
        max_length=MAX_LENGTH,
        token_budget=budget,
    )


@torch.inference_mode()
def peer_tokens_per_s(model: Any, texts: Sequence[str]) -> tuple[str, float]:
    """How transformers attends, and its tokens a second to the mean of the last layer alone, at its best batch.

    Texts are sorted by length. With FlashAttention-2 they lie end to end, which transformers tells by their positions;
    else they are padded.
    """
    device = next(model.parameters()).device
    flattened = device.type == "cuda" and find_spec("flash_attn") is not None
    attention = "flash_attention_2" if flattened else "sdpa"
    model.set_attn_implementation(attention)
    rows = sorted(read_ids(texts)["input_ids"], key=len, reverse=True)
    rates = []
    for budget in PEER_TOKENS if device.type == "cuda" else PEER_TOKENS[:1]:
        batches: list[list[list[int]]] = []
        for row in rows:
            if not batches or len(batches[-1][0]) * (len(batches[-1]) + 1) > budget:
                batches.append([])
            batches[-1].append(row)

        def compute(batches: Sequence[Sequence[list[int]]] = batches) -> None:
            for batch in batches:
                mean = _mean_of_last(model, batch, flattened)
            mean.cpu()  # so that the clock stops when the device is done

        compute(batches[:1])
        rates.append(sum(map(len, rows)) / _seconds(compute))
    return attention, max(rates)


def _mean_of_last(model: Any, batch: Sequence[list[int]], flattened: bool) -> torch.Tensor:
    """float32 [texts, D]."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(each) for each in batch])
    if flattened:
        ids = torch.tensor([token for each in batch for token in each])[None].to(device)
        places = torch.cat([torch.arange(len(each)) for each in batch])[None].to(device)
        states = model(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state[0].float()
        sums = torch.segment_reduce(states, "sum", lengths=lengths.to(device), axis=0, unsafe=True)
        return sums / lengths.to(device)[:, None]
    ids = nn.utils.rnn.pad_sequence([torch.tensor(each) for each in batch], batch_first=True).to(device)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(device)
    states = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state.float()
    return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def matrix_product_peak(shapes: Sequence[tuple[int, int]], device: torch.device) -> float:
    """FLOP/s of bfloat16 products at the model's own shapes, each at its best number of rows, weighted by FLOP."""
    seconds, flop = 0.0, 0.0
    best: dict[tuple[int, int], float] = {}
    for out, into in shapes:
        if (out, into) not in best:
            weight = torch.randn(out, into, device=device, dtype=torch.bfloat16)
            best[out, into] = max(_rate(weight, rows, device) for rows in PEAK_ROWS)
        flop += 2.0 * out * into
        seconds += 2.0 * out * into / best[out, into]
    return flop / seconds


@torch.inference_mode()
def _rate(weight: torch.Tensor, rows: int, device: torch.device) -> float:
    inputs = torch.randn(rows, weight.shape[1], device=device, dtype=torch.bfloat16)
    repeats = 20 if device.type == "cuda" else 1

    def products() -> None:
        for _ in range(repeats):
            nn.functional.linear(inputs, weight)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    products()
    return 2.0 * rows * weight.numel() * repeats / min(_seconds(products) for _ in range(3))


def deviation_from_float32(backbone: Backbone, exact: Backbone, texts: Sequence[str]) -> list[float]:
    """‖bf16 − fp32‖ ÷ ‖fp32‖ of each layer's embeddings."""
    ours, theirs = (embed(each, texts, 4096).states[KEY].astype(np.float64) for each in (backbone, exact))
    return (np.linalg.norm(ours - theirs, axis=(1, 2)) / np.linalg.norm(theirs, axis=(1, 2))).tolist()


def idle_share(backbone: Backbone, texts: Sequence[str], budget: int) -> float:
    """Fraction of the wall time in which no kernel ran, by torch's profiler, from the first kernel to the last."""
    tokens = tokenise(read_ids, texts, MAX_LENGTH)
    few = list(texts[: int(np.searchsorted(np.cumsum(tokens.counts), 6 * budget))])
    embed(backbone, few, budget)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        embed(backbone, few, budget)
    kernels = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type.name == "CUDA"
    )
    busy, until = 0.0, kernels[0][0]
    for start, end in kernels:
        busy += max(end - max(start, until), 0.0)
        until = max(until, end)
    return 1 - busy / (until - kernels[0][0])


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the shapes asked for, print the figures and write them to a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--rows", type=int, default=SCORED_ROWS, help="rows of the layers that are scored")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    asked = parser.parse_args(arguments)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    shapes = asked.shape or (["qwen3-1.7b", "llama-3.2-1b"] if device.type == "cuda" else ["tiny"])
    figures = [run(shape, asked.texts, device) for shape in shapes]
    figures += [score(asked.rows, device), score_all(asked.rows, device)]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    return figures


if __name__ == "__main__":
    main()
