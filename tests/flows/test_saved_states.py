"""States that somebody saved, from files and from memory: the numbers of a sweep, a planted layer, errors in words."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from polars.testing import assert_frame_equal

import layerscout
from flows.cli import main
from storage.embeddings import read_layer
from tests.conftest import labelled_text
from tests.flows.conftest import sweep_here, tables

TRAIN, TEST = labelled_text(240, seed=1), labelled_text(120, seed=2)
# Of another run, of another model, and what it cost.
OTHER = {"run_id", "model_id", "dataset_id", "embedding_set_id", "seconds", "finished_at"}
LAYERS, WIDTH, PLANTED = 5, 16, 3


@pytest.fixture(scope="module")
def swept(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> layerscout.Answer:
    return layerscout.sweep(
        f"path:{tiny_model}",
        TRAIN["text"],
        TRAIN["label"],
        test=(TEST["text"], TEST["label"]),
        pooling="last",
        dtype="float32",
        storage=tmp_path_factory.mktemp("swept") / "out",
    )


def states_of(answer: layerscout.Answer) -> NDArray[np.float32]:
    """[N, L, D] of all rows, train first."""
    set_id = answer.tables["run"]["embedding_set_id"][0]
    uris = sorted(str(each) for each in Path(answer.layout.embedding_set(set_id)).glob("*.parquet"))
    layers = range(answer.tables["model"]["layers"][0] + 1)
    read = [read_layer(uris, layer=i, norm_state="as_returned", pooling="last") for i in layers]
    return np.stack([each.embeddings for each in read], axis=1)


@pytest.mark.parametrize("given_as", ["array", "mapping", "tensor"])
def test_states_in_memory_have_the_numbers_of_the_sweep_to_the_bit(
    given_as: str, swept: layerscout.Answer, tmp_path: Path
) -> None:
    whole = states_of(swept)
    ways: dict[str, Any] = {
        "array": lambda part: part,
        "mapping": lambda part: {layer: part[:, layer] for layer in range(part.shape[1])},
        "tensor": torch.tensor,
    }
    train, test = (ways[given_as](part) for part in (whole[: TRAIN.height], whole[TRAIN.height :]))
    chosen = layerscout.choose(
        train,
        TRAIN["label"],
        texts=TRAIN["text"],
        test=(test, TEST["label"], TEST["text"]),
        pooling="last",
        last_is_normed=True,
        storage=tmp_path / "out",
    )
    assert str(chosen) == str(swept)
    assert chosen.tables["attention"].is_empty()  # states do not say what was attended to
    for name, rows in swept.tables.items():
        if name in ("run", "model", "dataset", "embedding_set", "execution", "attention"):
            continue
        kept = [column for column in rows.columns if column not in OTHER]
        assert_frame_equal(chosen.tables[name].select(kept), rows.select(kept), check_exact=True)


def planted(labels: NDArray[np.int64], seed: int = 0) -> NDArray[np.float32]:
    """[N, L, D]: noise, and in one layer the labels."""
    draw = np.random.default_rng(seed)
    states = draw.standard_normal((len(labels), LAYERS, WIDTH)).astype(np.float32)
    centres = draw.standard_normal((labels.max() + 1, WIDTH)).astype(np.float32)
    for layer in range(LAYERS):
        states[:, layer] += (3.0 if layer == PLANTED else 0.3) * centres[labels]
    return states


def test_without_texts_the_planted_layer_is_found_and_no_words_are_claimed(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 3, 300)
    answer = layerscout.choose(planted(labels), labels, storage=tmp_path / "out")
    assert answer.layer == PLANTED
    assert answer.tables["baseline"]["name"].to_list() == ["majority"]
    assert answer.tables["audit"]["gain_over_text"].null_count() == answer.tables["audit"].height
    assert "words" not in str(answer)
    page = Path(answer.report).read_text()
    assert "were read from where they had been saved" in page
    assert "no text, label in label" in page
    assert answer.tables["embedding_set"]["tokens"][0] == 0


def test_layers_that_differ_in_length_alone_are_no_constant_ones(tmp_path: Path) -> None:
    """All cosine distances are 0, and a probe tells the labels all the same."""
    labels = np.random.default_rng(1).integers(0, 2, 200)
    lengths = 5 + 0.1 * np.random.default_rng(2).standard_normal((200, 3, 1)) + 2 * labels[:, None, None]
    answer = layerscout.choose(lengths, labels, metric="cosine", storage=tmp_path / "out")
    assert not answer.tables["layer_choice"]["is_constant"].any()
    assert answer.accuracy == 1.0


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """`rows.csv` without a test split, and the states of its rows in `states`, keyed and shuffled."""
    labels = np.random.default_rng(2).integers(0, 3, 400)
    states = planted(labels)
    # The last layer says which row it is: whatever is read of another row is seen.
    states[:, -1, 0] = np.arange(len(labels))
    shuffled = np.random.default_rng(3).permutation(len(labels))
    (tmp_path / "states").mkdir()
    np.save(tmp_path / "states" / "states.npy", states[shuffled])
    np.save(tmp_path / "states" / "row_id.npy", shuffled)
    rows = {"text": [f"text of {row}" for row in range(len(labels))], "label": labels}
    pl.DataFrame(rows).write_csv(tmp_path / "rows.csv")
    return tmp_path


def test_each_row_gets_its_own_states_however_rows_are_split_and_sampled(
    saved: Path, prefect_server: str
) -> None:
    outcome = sweep_here(
        prefect_server,
        saved / "out",
        model=f"states:{saved / 'states'}",
        dataset=f"path:{saved / 'rows.csv'}",
        pooling=("mean",),
        max_train_rows=150,
        max_test_rows=50,
    )
    run = outcome.tables["run"].row(0, named=True)
    dataset = outcome.tables["dataset"].row(0, named=True)
    rows = pl.read_parquet(outcome.layout.dataset(dataset["fingerprint"]))
    assert (rows.height, rows.filter(split="train").height) == (200, 150)
    folder = Path(outcome.layout.embedding_set(run["embedding_set_id"]))
    read = read_layer(
        sorted(map(str, folder.glob("*.parquet"))), layer=LAYERS - 1, norm_state="as_returned", pooling="mean"
    )
    assert [f"text of {place:.0f}" for place in read.embeddings[:, 0]] == rows["text"].to_list()
    assert outcome.tables["layer_choice"].filter("is_answer")["layer"].item() == PLANTED
    assert tables(saved / "out")["model"]["family"].to_list() == ["saved states"]
    with pytest.raises(layerscout.UserError, match="nothing here has the model"):
        layerscout.open(saved / "out").export(saved / "exported")
    with pytest.raises(layerscout.UserError, match="nothing here has the model"):
        layerscout.open(saved / "out").encode(["a text"])


def said(*arguments: str) -> tuple[int, str]:
    """Exit code of a command run in this process, and all that it printed, on one line."""
    words, code = ["layerscout", *arguments], 0
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(out), patch.object(sys, "argv", words):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, " ".join(out.getvalue().split())


def test_an_inspection_and_a_plan_tell_what_is_in_them(saved: Path) -> None:
    states, rows = f"states:{saved / 'states'}", f"path:{saved / 'rows.csv'}"
    code, shown = said("inspect", "--model", states)
    assert code == 0
    assert "layers 5 (0 to 4) of 16 features, float32" in shown
    assert "rows 400, keyed by row_id" in shown
    code, shown = said("inspect", "--model", states, "--dataset", rows)
    assert (code, "columns text: text, label: label" in shown) == (0, True)
    code, shown = said(
        "sweep",
        "--model",
        states,
        "--dataset",
        rows,
        "--pooling",
        "mean",
        "--storage",
        str(saved / "out"),
        "--dry-run",
    )
    assert (code, "Nothing was run" in shown) == (0, True)
    assert not (saved / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "saved states were pooled in one way"),
        ("--pooling mean --prompt one-word", "prompt one-word"),
        ("--pooling mean --max-length 64", "max_length 64"),
        ("--pooling mean --norm-state final_norm", "norm_state final_norm"),
        ("--pooling mean --dtype float32", "dtype float32"),
        ("--pooling mean --max-layer 9", "the model has layers 0 to 4"),
    ],
)
def test_what_only_a_model_can_be_asked_is_refused(flags: str, message: str, saved: Path) -> None:
    code, shown = said(
        *("sweep", "--model", f"states:{saved / 'states'}", "--dataset", f"path:{saved / 'rows.csv'}"),
        *("--storage", str(saved / "out"), "--dry-run", *flags.split()),
    )
    assert code == (1 if "max-layer" in flags else 2)  # 2: options that do not go together
    assert message in shown


def test_states_of_fewer_rows_than_the_data_set_has_are_refused(saved: Path) -> None:
    states = np.load(saved / "states" / "states.npy")
    np.save(saved / "few.npy", states[:-1])
    with pytest.raises(layerscout.UserError, match="holds 399 rows and the data set 400"):
        layerscout.sweep(
            f"states:{saved / 'few.npy'}", f"path:{saved / 'rows.csv'}", pooling="mean", storage=saved / "out"
        )


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (np.zeros((4, 2)), r"have to be an array \[rows, layers, features\]"),
        (np.zeros((4, 2, 3), int), "of floating numbers"),
        ({0: np.zeros((4, 2, 3)), 1: np.zeros((4, 2, 3))}, r"arrays \[rows, features\] by layer"),
    ],
)
def test_what_is_no_states_is_said(states: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(layerscout.UserError, match=message):
        layerscout.choose(states, ["a", "b", "a", "b"], storage=tmp_path / "out")


def test_rows_and_labels_are_counted_in_each_split(tmp_path: Path) -> None:
    """Together they may be as many, and each state would get another row's label."""
    states, test = np.zeros((40, 2, 3)), np.zeros((10, 2, 3))
    with pytest.raises(layerscout.UserError, match="40 rows of states and 41 labels of train"):
        layerscout.choose(states, [0, 1] * 20 + [0], test=(test, [0, 1] * 4 + [0]), storage=tmp_path / "out")
    uneven = {0: np.zeros((40, 3)), 1: np.zeros((39, 3))}
    with pytest.raises(layerscout.UserError, match="39 rows of layer_1 and 40 labels of train"):
        layerscout.choose(uneven, [0, 1] * 20, storage=tmp_path / "out")
