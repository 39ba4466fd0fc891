"""bfloat16 on a CPU: laid out for oneDNN where it multiplies bfloat16, and computed all the same where it does not."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tasks.embedding import cpu_weights
from tasks.embedding.backbone import find_backbone
from tasks.embedding.cpu_weights import packs_bfloat16
from tasks.embedding.embed import choose_dtype, embed_texts
from tasks.embedding.forward import Backbone
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_embed import TEXTS, small_model, word_tokenizer


def mean_of_every_layer(backbone: Backbone) -> np.ndarray:
    embedded = embed_texts(
        backbone,
        word_tokenizer(),
        TEXTS,
        poolings=[Pooling.MEAN],
        norm_states=[NormState.AS_RETURNED],
        max_length=16,
        token_budget=64,
    )
    return embedded.states[NormState.AS_RETURNED, Pooling.MEAN]


def packed_weights(backbone: Backbone) -> int:
    layers = [module for block in backbone.blocks for module in block.modules() if type(module) is nn.Linear]
    return sum(not layer.weight.numel() for layer in layers)


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_without_onednn_a_bfloat16_model_embeds_with_torchs_own_products(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(name)
    exact = mean_of_every_layer(find_backbone(copy.deepcopy(model)))
    usual = find_backbone(copy.deepcopy(model).bfloat16())
    assert (packed_weights(usual) > 0) == packs_bfloat16()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = find_backbone(copy.deepcopy(model).bfloat16())
    assert packed_weights(plain) == 0
    for backbone in (usual, plain):
        assert relative_error(mean_of_every_layer(backbone), exact) < 0.02


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_float32_is_laid_out_where_mkl_is_slow_and_gives_the_same(name, monkeypatch):
    model = small_model(name)
    found = {}
    for amd in (False, True):
        monkeypatch.setattr(cpu_weights, "_is_amd", lambda amd=amd: amd)
        backbone = find_backbone(copy.deepcopy(model))
        is_there = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
        assert (packed_weights(backbone) > 0) == (amd and is_there)
        found[amd] = mean_of_every_layer(backbone)
    assert relative_error(found[True], found[False]) < 1e-6


def test_without_onednn_auto_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert choose_dtype(torch.device("cpu")) is torch.float32


def test_a_processor_whose_bfloat16_products_onednn_lacks() -> None:
    """oneDNN held to AVX2, as on a processor without AVX-512, refuses to lay bfloat16 weights out."""
    code = (
        "from tests.tasks.embedding.test_cpu_weights import *\n"
        "exact = mean_of_every_layer(find_backbone(small_model()))\n"
        "backbone = find_backbone(small_model().bfloat16())\n"
        "error = relative_error(mean_of_every_layer(backbone), exact)\n"
        "print(packs_bfloat16(), choose_dtype(torch.device('cpu')), packed_weights(backbone), error)"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    packs, dtype, packed, error = done.stdout.split()
    assert (packs, dtype, packed) == ("False", "torch.float32", "0")
    assert float(error) < 0.02
