"""A GGUF file is read whole or not at all, once; what the cache keeps of it is trusted while it is as it was made."""

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from storage.errors import UserError
from tasks.embedding.gguf import MADE
from tasks.embedding.model import load_model, resolve_model

WIDTH, BLOCKS = 32, 2


def write_gguf(place: Path, *, without: str = "nothing") -> None:
    """A random Llama of two blocks with a tokenizer of eight entries."""
    writer = gguf.GGUFWriter(place, "llama")
    writer.add_block_count(BLOCKS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(8)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<unk>", "a", "b", "c", "d", "e", "ab", "</s>"])
    writer.add_token_types([3, 1, 1, 1, 1, 1, 1, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(7)
    writer.add_eos_token_id(7)
    shapes = {"token_embd": (8, WIDTH), "output_norm": (WIDTH,)}
    for block in range(BLOCKS):
        parts = {"attn_q": (WIDTH, WIDTH), "attn_output": (WIDTH, WIDTH), "attn_norm": (WIDTH,)}
        parts |= {"attn_k": (WIDTH // 2, WIDTH), "attn_v": (WIDTH // 2, WIDTH), "ffn_norm": (WIDTH,)}
        parts |= {
            "ffn_gate": (2 * WIDTH, WIDTH),
            "ffn_up": (2 * WIDTH, WIDTH),
            "ffn_down": (WIDTH, 2 * WIDTH),
        }
        shapes |= {f"blk.{block}.{name}": shape for name, shape in parts.items()}
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        if without not in name:
            writer.add_tensor(f"{name}.weight", rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


def test_a_renamed_part_of_a_model_is_refused_and_nothing_of_it_is_kept(file: Path, tmp_path: Path) -> None:
    """Whatever its name and its header say, the tensors of the other parts are not there."""
    write_gguf(tmp_path / "part.gguf", without="blk.1.")
    with pytest.raises(UserError, match=r"9 tensors of the model are not in .*part\.gguf"):
        resolve_model(f"gguf:{tmp_path / 'part.gguf'}")
    assert [each.name for each in (tmp_path / "cache" / "gguf").iterdir() if each.is_dir()] == []


def flip_a_weight(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])


def as_an_older_version_left_it(folder: Path) -> None:
    sizes = {each.name: each.stat().st_size for each in folder.iterdir() if each.name != MADE}
    (folder / MADE).write_text(json.dumps(sizes))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_weight,
        as_an_older_version_left_it,
        lambda folder: (folder / MADE).unlink(),
        lambda folder: (folder / MADE).write_text("{"),
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "added.py").write_text("raise SystemExit"),
    ],
)
def test_a_cached_model_that_is_not_as_it_was_made_is_made_anew(
    file: Path, damage: Callable[[Path], object]
) -> None:
    folder = Path(resolve_model(f"gguf:{file}").folder)
    made = {each.name: each.read_bytes() for each in folder.iterdir()}
    damage(folder)
    # Somebody who is loading the old one keeps what is open.
    with (folder / "model.safetensors").open("rb") as opened:
        assert Path(resolve_model(f"gguf:{file}").folder) == folder
        assert len(opened.read()) == len(made["model.safetensors"])
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == made
    assert sorted(each.name for each in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_a_cached_model_is_made_once(file: Path) -> None:
    folder = Path(resolve_model(f"gguf:{file}").folder)
    written = (folder / "model.safetensors").stat().st_ino
    assert Path(resolve_model(f"gguf:{file}").folder) == folder
    assert (folder / "model.safetensors").stat().st_ino == written
    assert load_model(str(folder), "float32", "cpu").backbone.layers == BLOCKS
