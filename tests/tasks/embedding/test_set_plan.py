"""A set is planned once: its dtype, its token budget and its shards."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.embeddings import read_layer
from storage.errors import UserError
from storage.layout import Layout
from storage.manifest import read_manifest, write_manifest
from tasks.embedding import set_plan
from tasks.embedding.calibration import budgets_of
from tasks.embedding.embedding_set import embed_shard
from tasks.embedding.model import ModelFolder, resolve_model
from tasks.embedding.set_plan import plan_embedding_set, settle_plan
from tasks.embedding.set_records import calibration_file, kept_calibration
from tasks.embedding.settings import embedding_set_id, resolve_settings
from tests.families.small_models import small_config, small_model
from tests.tasks.embedding.conftest import SETTINGS, Planned


@pytest.fixture
def fnet(tiny_model: Path, tmp_path: Path) -> ModelFolder:
    """A model whose Fourier transforms torch does not do in bfloat16."""
    folder = tmp_path / "fnet"
    small_model(small_config("fnet")).save_pretrained(folder)
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, folder)
    return resolve_model(f"path:{folder}")


def test_auto_falls_back_to_float32_where_a_model_needs_it_and_a_named_dtype_is_refused(
    planned: Planned, fnet: ModelFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    layout, _, dataset, _ = planned
    monkeypatch.setattr("tasks.embedding.settings.choose_dtype", lambda device: torch.bfloat16)
    with caplog.at_level("WARNING"):
        settings, settled = settle_plan(layout, dataset, fnet, replace(SETTINGS, dtype="auto"))
    assert settings.dtype == "float32"
    assert settled.id == embedding_set_id(dataset, fnet, SETTINGS)
    assert "This 'fnet' model cannot be trusted in bfloat16" in caplog.text
    with pytest.raises(UserError, match="--dtype float32"):
        settle_plan(layout, dataset, fnet, replace(SETTINGS, dtype="bfloat16"))


def test_a_model_that_chooses_experts_is_float32_unless_another_dtype_is_named(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tasks.embedding.settings.choose_dtype", lambda device: torch.bfloat16)
    _, _, _, model = planned
    for experts, asked, found in [
        (False, "auto", "bfloat16"),
        (True, "auto", "float32"),
        (True, "bfloat16", "bfloat16"),
    ]:
        caplog.clear()
        with caplog.at_level("WARNING"):
            settings = resolve_settings(
                replace(SETTINGS, dtype=asked), replace(model, chooses_experts=experts)
            )
        assert settings.dtype == found
        assert ("sends each token to some of its experts" in caplog.text) is experts


def test_only_what_is_compared_when_it_is_loaded_has_the_comparison_in_its_id(planned: Planned) -> None:
    _, settled, dataset, model = planned
    assert embedding_set_id(dataset, model, SETTINGS) == settled.id
    assert embedding_set_id(dataset, replace(model, tested=False), SETTINGS) != settled.id


def test_a_set_is_calibrated_once_it_is_worth_it(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the set's tokens is the most; what was measured is kept for other storage folders."""
    _, small, dataset, model = planned
    assert small.token_budget == min(budgets_of(torch.device("cpu")))
    assert kept_calibration(small.id) is None
    budgets = (small.tokens // 400, small.tokens // 200)
    monkeypatch.setattr("tasks.embedding.calibration._CPU_BUDGETS", budgets)
    measured = plan_embedding_set(Layout(str(tmp_path / "first")), dataset, model, SETTINGS)
    kept = kept_calibration(measured.id)
    assert kept is not None
    assert measured.token_budget == kept.token_budget in budgets
    monkeypatch.setattr(set_plan, "calibrate", None)
    assert plan_embedding_set(Layout(str(tmp_path / "second")), dataset, model, SETTINGS) == measured


def test_a_set_whose_blocks_are_streamed_is_the_same_set_in_fewer_shards(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same id, since no number differs; nothing is calibrated, and a shard is as large as may be."""
    layout, whole, dataset, model = planned
    asked = replace(SETTINGS, stream_blocks=True)
    monkeypatch.setattr(set_plan, "calibrate", None)
    elsewhere = Layout(str(tmp_path / "streamed"))
    streamed = plan_embedding_set(elsewhere, dataset, model, asked)
    assert streamed.id == whole.id
    assert len(streamed.shards) == max(1, streamed.tokens // set_plan.STREAMED_TOKENS[0])
    monkeypatch.setattr(set_plan, "STREAMED_SHARE", 0.0)
    cut = plan_embedding_set(Layout(str(tmp_path / "little")), dataset, model, asked)
    assert len(cut.shards) == max(
        1, cut.tokens // (cut.token_budget * set_plan.BATCHES_PER_SHARD)
    )  # as without streaming, where memory has no room for more
    found = [
        [embed_shard(place, plan, shard, dataset, model, settings).uri for shard in plan.shards]
        for place, plan, settings in ((layout, whole, SETTINGS), (elsewhere, streamed, asked))
    ]
    for layer in range(model.layers + 1):
        first, second = (
            read_layer(uris, layer=layer, norm_state="as_returned", pooling="mean") for uris in found
        )
        assert np.array_equal(first.embeddings, second.embeddings)


@pytest.mark.parametrize(
    "device", ["meta", "garbage", "cuda:x", "cuda:99", "hpu", "privateuseone", "", " cpu"]
)
def test_a_device_that_computes_nothing_here_is_a_sentence(device: str) -> None:
    with pytest.raises(UserError, match=rf"torch has no device '{device}' here .*--device"):
        resolve_settings(replace(SETTINGS, device=device))


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"no JSON",
        b"{}",
        b'{"plan": {}}',
        b'{"plan": {"id": "another", "shards": []}}',
        b'{"plan": 7}',
    ],
)
def test_a_damaged_manifest_is_written_anew_as_it_was(planned: Planned, junk: bytes) -> None:
    layout, found, dataset, model = planned
    manifest = Path(layout.manifest(found.id))
    whole = manifest.read_bytes()
    manifest.write_bytes(junk)
    assert plan_embedding_set(layout, dataset, model, SETTINGS) == found
    assert manifest.read_bytes() == whole


def test_a_plan_that_lacks_rows_is_no_plan_and_one_that_says_more_is_a_newer_versions(
    planned: Planned,
) -> None:
    layout, found, dataset, model = planned
    manifest = layout.manifest(found.id)
    whole = read_manifest(manifest)
    short = whole["plan"] | {"rows": 300, "shards": [whole["plan"]["shards"][0] | {"stop": 300}]}
    write_manifest(manifest, whole | {"plan": short})
    assert plan_embedding_set(layout, dataset, model, SETTINGS) == found
    write_manifest(manifest, whole | {"plan": whole["plan"] | {"pace": 7}})
    with pytest.raises(
        UserError, match=r"newer version of layerscout: this one does not know pace\. Upgrade"
    ):
        plan_embedding_set(layout, dataset, model, SETTINGS)


def test_a_damaged_calibration_is_none(planned: Planned) -> None:
    _, found, _, _ = planned
    place = calibration_file(found.id)
    write_manifest(str(place), {"token_budget": 64, "tokens_per_second": 1.0})
    assert kept_calibration(found.id) is not None
    for junk in ("", "{}", '{"token_budget": 64'):
        place.write_text(junk)
        assert kept_calibration(found.id) is None
