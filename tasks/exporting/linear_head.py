"""The linear head of an exported model: the probe's weights, without pickle, and an example that uses them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tasks.exporting import predict_script
from tasks.scoring.probe import Probe


def write_head(folder: Path, probe: Probe, class_names: Sequence[str], described: Mapping[str, Any]) -> None:
    """Write `head/weights.safetensors`, `head/head.json` and `predict.py` into the folder of a model.

    The logits of an embedding x are coefficients · (x − mean) / scale + intercepts; the weights are float64, the
    coefficients [K, D]. `head.json` names the K classes in the order of the rows. described: what else is to stand
    there; `pooling` and `max_length` are read by `predict.py`.
    """
    head = folder / "head"
    head.mkdir()
    weights = {
        "coefficients": probe.coefficients,
        "intercepts": probe.intercepts,
        "mean": probe.mean,
        "scale": probe.scale,
    }
    save_file(
        {name: np.ascontiguousarray(values, np.float64) for name, values in weights.items()},
        head / "weights.safetensors",
    )
    text = {
        "classes": [class_names[label] for label in probe.classes.tolist()],
        "penalty": probe.penalty,
        "iterations": probe.iterations,
        "train_rows": probe.n_train,
        "test_rows": probe.n_test,
        "test_accuracy": probe.accuracy,
    }
    (head / "head.json").write_text(
        json.dumps({**described, **text}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    shutil.copyfile(predict_script.__file__, folder / "predict.py")
