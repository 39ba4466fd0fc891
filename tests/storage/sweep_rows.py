"""Rows of every table of one run, for tests of tables and views."""

import json
from datetime import UTC, datetime, timedelta

import polars as pl

KEY = {"pooling": "mean", "norm_state": "as_returned"}
NIGHT = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)


def sweep_rows(
    run_id: str = "monday",
    *,
    layers: int = 4,
    accuracy: tuple[float, ...] = (0.5, 0.6, 0.8, 0.7, 0.6),
    nights: int = 0,
) -> dict[str, pl.DataFrame]:
    """The tables of a run that fits together: layer 2 is chosen and best. Made `nights` days after the first."""
    at = [KEY | {"run_id": run_id, "layer": layer} for layer in range(layers + 1)]
    probe = {
        "protocol": "logistic",
        "macro_f1": 0.5,
        "balanced_accuracy": 0.5,
        "majority_accuracy": 0.3,
        "log_loss": 1.0,
        "penalty": 0.1,
        "iterations": 10,
        "converged": True,
        "n_train": 100,
        "n_test": 50,
        "seconds": 0.25,
    }
    last = accuracy[layers]
    audit = {
        "rule": "turns_by_ridge_loo",
        "is_default": True,
        "is_answer": True,
        "chosen_layer": 2,
        "chosen_accuracy": accuracy[2],
        "last_accuracy": last,
        "best_layer": 2,
        "best_accuracy": accuracy[2],
        "regret": 0.0,
        "gain_over_last": accuracy[2] - last,
        "gain_low": 0.1,
        "gain_high": 0.3,
        "p_value": 0.001,
        "split_regret": 0.0,
        "first_accuracy": accuracy[0],
        "gain_over_first": accuracy[2] - accuracy[0],
        "gain_over_first_low": 0.2,
        "gain_over_first_high": 0.4,
        "gain_over_first_p_value": 0.001,
    }
    silhouette = {"metric": "cosine", "space": "raw", "mean": 0.1}
    run = {
        "run_id": run_id,
        "model_id": "path:model",
        "dataset_id": "path:tickets.csv",
        "embedding_set_id": f"set of {run_id}",
        "parameters": json.dumps({"seed": 0}),
        "code_version": "1",
        "layers": layers,
        "model_revision": "m1",
        "dataset_fingerprint": f"rows of {run_id}",
        "dtype": "float32",
        "device_kind": "cpu",
        "versions": json.dumps({"numpy": "2.4", "torch": f"2.{nights}"}),
    }
    started = NIGHT + timedelta(days=nights)
    rows: dict[str, list[dict[str, object]]] = {
        "run": [run],
        "execution": [
            {
                "flow_run_id": f"{run_id} {k}",
                "run_id": run_id,
                "status": "completed",
                "started_at": started + timedelta(minutes=k),
                "finished_at": started + timedelta(minutes=k, seconds=s),
                "seconds": s,
                "device": "cpu",
                "shards_computed": 1 - k,
                "shards_reused": k,
            }
            for k, s in ((0, 40.0), (1, 2.0))
        ],
        "model": [
            {
                "id": "path:model",
                "source": "path",
                "revision": "m1",
                "family": "llama",
                "layers": layers,
                "hidden_size": 8,
            }
        ],
        "dataset": [
            {
                "id": "path:tickets.csv",
                "source": "path",
                "fingerprint": f"rows of {run_id}",
                "revision": "",
                "classes": ["a", "b"],
                "text_column": "text",
                "label_column": "label",
                "train_rows": 100,
                "test_rows": 50,
                "test_is_made": True,
            }
        ],
        "embedding_set": [
            {
                "embedding_set_id": f"set of {run_id}",
                "dataset_fingerprint": f"rows of {run_id}",
                "max_length": 128,
                "token_budget": 512,
                "rows": 150,
                "tokens": 3000,
                "truncated_share": 0.02,
                "shards": 1,
                "seconds": 30.0,
            }
        ],
        "silhouette": [
            each | silhouette | {"precision": "exact", "standard_error": 0.01, "n": 100, "seconds": 0.5}
            for each in at
        ],
        "silhouette_by_class": [each | silhouette | {"label": c, "n": 50} for each in at for c in "ab"],
        "probe": [
            each | probe | {"accuracy": a, "accuracy_low": a - 0.1, "accuracy_high": a + 0.1}
            for each, a in zip(at, accuracy, strict=False)
        ],
        "criterion": [each | {"name": "ridge_loo", "value": 0.4, "seconds": 0.125} for each in at],
        "inflection_point": [
            at[2] | {"metric": "cosine", "kind": "peak", "relative_change": 0.5, "strength": 4.0}
        ],
        "trend": [
            KEY
            | {
                "run_id": run_id,
                "curve": "accuracy",
                "segment": 0,
                "from_layer": 0,
                "to_layer": layers,
                "direction": "up",
                "relative_change": 0.5,
            }
        ],
        "layer_choice": [
            at[2]
            | {
                "rule": "turns_by_ridge_loo",
                "score": 0.7,
                "confidence": 0.9,
                "reason": "It is the highest.",
                "is_default": True,
                "is_answer": True,
            }
        ],
        "audit": [KEY | {"run_id": run_id} | audit],
        "baseline": [
            {"run_id": run_id, "name": name, "n_train": 100, "n_test": 50, "seconds": 0.5}
            | {"accuracy": 0.4, "accuracy_low": 0.3, "accuracy_high": 0.5}
            for name in ("text", "majority")
        ],
        "representation": [
            {"run_id": run_id, "size": size, "is_answer": size == 2, "n_test": 50, "seconds": 0.5}
            | {"layers": [2, 1][:size], "poolings": ["mean"] * size, "norm_states": ["as_returned"] * size}
            | {
                "log_loss": 1.0 / size,
                "log_loss_gain": 0.5 * (size - 1),
                "log_loss_gain_error": 0.1 * (size - 1),
            }
            | {"accuracy": accuracy[2] + gain}
            | {f"gain_over_single{end}": gain for end in ("", "_low", "_high")}
            | {f"gain_over_last{end}": 0.1 for end in ("", "_low", "_high")}
            | {"gain_over_single_p_value": 0.5, "gain_over_last_p_value": 0.5}
            for size, gain in ((1, 0.0), (2, 0.02))
        ],
        "attention": [
            {"run_id": run_id, "layer": layer, "measure": "entropy", "value": 0.5}
            | {"standard_error": 0.1, "texts": 200}
            for layer in range(layers)
        ],
        "race_step": [
            {"run_id": run_id, "step": step, "train_rows": 50 * step, "train_rows_in_all": 400}
            | {"prompt": prompt, "pooling": "mean", "norm_state": "as_returned", "layer": 2, "chance": 0.9}
            | {"expected_accuracy": 0.8, "stays": True, "is_leader": prompt == "none"}
            | {"ended_by": "confidence" if step == 2 else None}
            | {"test_rows": 60 if step == 2 else None, "test_rows_in_all": 90 if step == 2 else None}
            for step in (1, 2)
            for prompt in ("none", "one-word")
        ],
        "curve_audit": [
            KEY
            | {"run_id": run_id, "metric": "cosine", "silhouette_direction": "up", "accuracy_direction": "up"}
            | {"rank_correlation": 0.5, "rank_correlation_low": 0.2, "rank_correlation_high": 0.7}
        ],
        "zone_audit": [
            KEY
            | {"run_id": run_id, "zone": "early", "layer_share": 0.4, "best_inside": 1, "best_outside": 3}
            | {"advantage": accuracy[1] - accuracy[3], "advantage_low": -0.3, "advantage_high": 0.1}
            | {"p_value": 0.2}
        ],
        "score_audit": [
            at[3]
            | {"score": "criterion:ridge_loo", "regret": max(accuracy) - accuracy[3], "split_regret": 0.1}
            | {"gain_over_last": accuracy[3] - last, "p_value": 0.2, "rank_correlation": 0.3}
        ],
    }
    return {name: pl.DataFrame(found) for name, found in rows.items()}
