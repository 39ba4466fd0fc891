"""Blocks read one after the other give the whole model's embeddings to the bit, and only a block or two are held."""

import json
import weakref
from dataclasses import replace
from functools import partial
from threading import Event

import pytest
import torch
from safetensors.torch import load_file, save_file

from storage.errors import UserError
from tasks.embedding import model as model_room
from tasks.embedding import stored_blocks
from tasks.embedding.embed import embed_texts
from tasks.embedding.families import FAMILIES
from tasks.embedding.model import load_model
from tasks.embedding.stored_blocks import StoredTable, StoredTensors, fits, open_backbone
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_backbone import MODELS, WITHOUT_FINAL_NORM, small_model
from tests.tasks.embedding.test_embed import PLAIN, TEXTS, word_tokenizer

PACKED = [name for name in MODELS if not name.startswith("t5")]


def embedded(backbone, **options):
    norm_states = list(NormState) if backbone.final_norm is not None else [NormState.AS_RETURNED]
    settings = {"poolings": list(Pooling), "norm_states": norm_states, "max_length": 16, "token_budget": 20}
    return embed_texts(backbone, word_tokenizer(), TEXTS, **settings | options).states


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert (found[key] == values).all(), key


@pytest.fixture
def folder_of(tmp_path):
    def save(name: str, dtype: torch.dtype = torch.float32):
        small_model(name).to(dtype).save_pretrained(tmp_path)
        word_tokenizer().save_pretrained(tmp_path)
        return str(tmp_path)

    return save


def test_every_packed_family_is_tried():
    tried = {small_model(name).config.model_type for name in PACKED}
    assert tried == {name for name, row in FAMILIES.items() if row.packed}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", PACKED)
def test_streamed_blocks_give_the_whole_models_embeddings(folder_of, name, dtype):
    folder = folder_of(name)
    whole = load_model(folder, dtype, "cpu").backbone
    streamed = open_backbone(folder, dtype, "cpu")
    assert (streamed.layers, streamed.hidden_size) == (whole.layers, whole.hidden_size)
    assert (streamed.final_norm is None) == (name.partition("_c")[0] in WITHOUT_FINAL_NORM)
    assert_equal(embedded(streamed), embedded(whole))
    # A second shard reads them again.
    assert_equal(embedded(streamed, max_layer=2), embedded(whole, max_layer=2))


def test_layer_0_alone_reads_no_block(folder_of, monkeypatch):
    folder = folder_of("llama")
    streamed = open_backbone(folder, "float32", "cpu")
    whole = embedded(load_model(folder, "float32", "cpu").backbone, max_layer=0, poolings=PLAIN)
    monkeypatch.setattr(StoredTensors, "read", lambda self, name, *_: pytest.fail(f"{name} is read"))
    assert_equal(embedded(streamed, max_layer=0, poolings=PLAIN), whole)


@pytest.mark.parametrize(("name", "stays"), [("llama", True), ("bert", True), ("gemma2", False)])
def test_the_table_of_tokens_stays_in_its_file_unless_it_does_more_than_look_up(folder_of, name, stays):
    streamed = open_backbone(folder_of(name), "bfloat16", "cpu")
    table = streamed.model.get_input_embeddings()
    assert isinstance(table, StoredTable) == stays
    assert (sum(each.numel() for each in table.parameters()) == 0) == stays
    assert table.num_embeddings == streamed.vocabulary
    found = table(torch.tensor([[0, 2, 2]]))
    assert found.shape == (1, 3, streamed.hidden_size)
    assert found.dtype == torch.bfloat16


def test_the_next_block_is_read_while_one_computes_and_no_more_are_held(folder_of):
    streamed = open_backbone(folder_of("gpt2"), "float32", "cpu")
    read = streamed.read_block
    held: list[weakref.ref] = []
    at_once: list[int] = []
    is_read = [Event() for _ in range(streamed.layers)]

    def watched(index: int):
        block = read(index)
        held.append(weakref.ref(block))
        at_once.append(sum(each() is not None for each in held))
        is_read[index].set()
        if index + 1 < streamed.layers:
            block.register_forward_pre_hook(partial(wait_for, is_read[index + 1]))
        return block

    # Left to the processor's other work, a small block would sometimes be done before the next is read.
    def wait_for(read_ahead: Event, *_):
        assert read_ahead.wait(60), "the next block is not read while this one computes"

    embedded(replace(streamed, read_block=watched))
    assert at_once == [1, 2, 2]
    assert all(parameter.is_meta for block in streamed.blocks for parameter in block.parameters())


def test_weights_in_several_files_and_in_another_dtype_are_read(folder_of, tmp_path):
    folder = folder_of("qwen2", torch.bfloat16)
    model = small_model("qwen2").to(torch.bfloat16)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    # The same weights in another cut, as some repositories hold them, are not counted twice.
    save_file(dict(model.state_dict()), tmp_path / "consolidated.safetensors")
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert StoredTensors(tmp_path).bytes_in(torch.float32) == 4 * numbers
    whole = load_model(folder, "float32", "cpu").backbone
    assert_equal(embedded(open_backbone(folder, "float32", "cpu")), embedded(whole))


def test_a_tensor_is_read_in_pieces_that_make_it_up(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_blocks, "PIECE_VALUES", 7)
    torch.manual_seed(0)
    tensors = {"table": torch.randn(10, 3), "wide": torch.randn(2, 40), "bias": torch.randn(9)}
    tensors |= {"one": torch.tensor(1.5), "none": torch.empty(0, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    stored = StoredTensors(tmp_path)
    for name, tensor in tensors.items():
        for dtype in (torch.float32, torch.bfloat16):
            found = stored.read(name, dtype, torch.device("cpu"))
            assert found.dtype == dtype
            assert torch.equal(found, tensor.to(dtype)), name


def test_a_model_that_does_not_fit_is_streamed_unasked(folder_of, monkeypatch, caplog):
    folder = folder_of("llama")
    assert fits(folder, "float32", "cpu")
    assert load_model(folder, "float32", "cpu", stream=None).backbone.read_block is None
    monkeypatch.setattr(model_room, "fits", lambda *_: False)
    model_room._loaded.clear()
    assert load_model(folder, "float32", "cpu", stream=None).backbone.read_block is not None
    assert "do not fit" in caplog.text
    model_room._loaded.clear()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_hidden_layers": 2}, "num_hidden_layers is too small"),
        ({"intermediate_size": 32}, "other shapes"),
    ],
)
def test_weights_that_are_not_the_configurations_are_refused_before_a_block_is_read(
    folder_of, tmp_path, changed, said
):
    folder = folder_of("llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(UserError, match=said):
        load_model(folder, "float32", "cpu", stream=True)


@pytest.mark.parametrize("stream", [None, True])
def test_damaged_weights_are_told_as_a_whole_models_are(folder_of, tmp_path, stream):
    folder = folder_of("llama")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"does not load: .*Copy it again"):
        load_model(folder, "float32", "cpu", stream=stream)
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {"embed_tokens.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="does not load"):
        load_model(folder, "float32", "cpu", stream=stream)


def test_what_cannot_be_streamed_says_so(folder_of, tmp_path):
    with pytest.raises(UserError, match=r"Leave out --stream-blocks"):
        open_backbone(folder_of("t5"), "float32", "cpu")
    folder = folder_of("llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "fp8"}})
    )
    with pytest.raises(UserError, match=r"plain weights"):
        open_backbone(folder, "float32", "cpu")
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({f"other.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"not in .* under their names \(embed_tokens"):
        open_backbone(folder, "float32", "cpu")
