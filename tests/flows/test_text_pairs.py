"""Text pairs from end to end: a planted relation is read, recorded, shown and exported; what cannot be is refused."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from sentence_transformers import SentenceTransformer

import layerscout
from flows.parameters import SweepParameters
from flows.run_id import describe_run
from flows.terminal.preview import show_inspection, show_plan
from flows.terminal.show_export import show_export
from storage.errors import UserError
from storage.layout import Layout
from storage.staged import read_staged
from tasks.data.in_memory import PAIR_COLUMNS
from tasks.embedding.text_pairs import FORMULA
from tasks.exporting.predict import embed
from tests.conftest import FILLER, WORDS
from tests.flows.conftest import sweep_here
from tests.flows.test_export import answering

Rows = tuple[list[tuple[str, str]], list[str]]
ASKED = {"pooling": ("mean",), "dtype": "float32", "device": "cpu"}


def planted(rows: int, seed: int) -> Rows:
    """Pairs of texts that share a word or do not, which neither text tells by itself."""
    rng = np.random.default_rng(seed)
    words = [word for each in sorted(WORDS) for word in WORDS[each]][:12]
    pairs, labels = [], []
    for row in range(rows):
        one = str(rng.choice(words))
        other = one if row % 2 else str(rng.choice([word for word in words if word != one]))
        pair = [" ".join(rng.permutation([word, rng.choice(FILLER)])) for word in (one, other)]
        pairs.append((pair[0], pair[1]))
        labels.append("same" if row % 2 else "other")
    return pairs, labels


TRAIN, TEST = planted(400, 0), planted(200, 1)


@pytest.fixture(scope="module")
def answer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> layerscout.Answer:
    storage = tmp_path_factory.mktemp("pairs") / "out"
    return layerscout.sweep(
        f"path:{tiny_model}", *TRAIN, test=TEST, text_pairs="features", storage=storage, **ASKED
    )


def test_what_two_texts_share_is_read_from_their_features_and_not_from_one_text(
    answer: layerscout.Answer, tiny_model: Path
) -> None:
    storage, model = answer.layout.root, f"path:{tiny_model}"
    others = [layerscout.sweep(model, *TRAIN, test=TEST, storage=storage, **ASKED)]
    for at in (0, 1):
        (train, labels), (test, truth) = (
            ([pair[at] for pair in pairs], told) for pairs, told in (TRAIN, TEST)
        )
        others.append(layerscout.sweep(model, train, labels, test=(test, truth), storage=storage, **ASKED))
    assert answer.accuracy > 0.85
    assert max(each.accuracy for each in others) < 0.65
    # Of two columns given as they are the joined run is that of the command line's default.
    assert others[0].tables["dataset"]["text_pairs"].to_list() == [None]
    assert "text_pairs" not in json.loads(others[0].tables["run"]["parameters"][0])


def test_a_recorded_sweep_has_the_same_tables(
    answer: layerscout.Answer, tiny_model: Path, tmp_path: Path, prefect_server: str
) -> None:
    outcome = sweep_here(
        prefect_server,
        tmp_path / "out",
        model=f"path:{tiny_model}",
        dataset=answer.tables["run"]["dataset_id"][0],
        text_column=PAIR_COLUMNS,
        text_pairs="features",
        **ASKED,
    )
    assert outcome.run_id == answer.run_id
    recorded, ours = outcome.tables, answer.tables
    for name in ("probe", "criterion", "silhouette", "layer_choice", "audit", "representation", "baseline"):
        assert recorded[name].drop("seconds", strict=False).equals(ours[name].drop("seconds", strict=False))


def test_tables_answer_and_report_say_what_an_embedding_is(answer: layerscout.Answer) -> None:
    dataset = answer.tables["dataset"].row(0, named=True)
    assert (dataset["text_pairs"], dataset["text_column"]) == ("features", " + ".join(PAIR_COLUMNS))
    assert "features of both texts" in str(answer)
    page = Path(answer.report).read_text(encoding="utf-8")
    assert f"each embedded by itself ({FORMULA})" in page
    assert "--text-pairs features" in page


def test_encode_takes_pairs(answer: layerscout.Answer) -> None:
    pairs = TEST[0][:5]
    features = answer.encode(pairs)
    assert features.shape == (5, 4 * 32)
    columns = answer.encode(([one for one, _ in pairs], [other for _, other in pairs]))
    np.testing.assert_array_equal(columns, features)
    u, v, away, product = np.split(features, 4, axis=1)
    np.testing.assert_array_equal(away, np.abs(u - v))
    np.testing.assert_array_equal(product, u * v)
    with pytest.raises(UserError, match="The texts are pairs: give a list of"):
        answer.encode(["a text"])


def staged_predictions(answer: layerscout.Answer) -> list[str]:
    part = Layout.part(answer.pooling, answer.norm_state, answer.layer)
    predicted = read_staged(answer.layout, answer.run_id, "prediction", part).sort("row_id")["predicted"]
    classes = answer.tables["dataset"]["classes"][0].to_list()
    return [classes[each] for each in predicted]


def test_an_exported_folder_predicts_pairs_as_the_sweep_did_and_encodes_single_texts(
    answer: layerscout.Answer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer.export(tmp_path / "model")
    assert (found.accuracy, found.agreement, found.width) == (answer.accuracy, 1, 128)
    assert found.deviation < 1e-5
    show_export(found, tmp_path / "model")
    assert 'predict.py "one text" "its other text"' in capsys.readouterr().out
    script = [sys.executable, str(tmp_path / "model" / "predict.py")]
    done = subprocess.run(
        [*script, *(text for pair in TEST[0] for text in pair)], capture_output=True, text=True, check=True
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == staged_predictions(answer)
    assert [(line[2], line[3]) for line in lines] == TEST[0]
    odd = subprocess.run([*script, "a", "b", "c"], capture_output=True, text=True, check=False)
    assert odd.returncode == 1
    assert "A label is of a pair of texts, and 3 were given" in odd.stderr
    texts = [text for pair in TEST[0] for text in pair]
    single = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(texts)
    features = embed(tmp_path / "model", TEST[0])
    np.testing.assert_allclose(single[0::2], features[:, :32], atol=1e-5)
    np.testing.assert_allclose(single[1::2], features[:, 32:64], atol=1e-5)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert FORMULA in card
    assert 'predict.py "one text" "its other text"' in card
    with pytest.raises(ValueError, match="fitted on pairs of texts, and 'a text' is none"):
        embed(tmp_path / "model", ["a text"])


def test_layers_side_by_side_are_exported_with_the_features_of_each(
    answer: layerscout.Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "mean", together=True)
    found = answer.export(tmp_path / "model", together=True)
    assert (len(found.states), found.width, found.agreement) == (2, 2 * 128, 1)
    features = embed(tmp_path / "model", TEST[0][:3])
    fresh = layerscout.open(answer.layout.root, answer.run_id).encode(TEST[0][:3], together=True)
    np.testing.assert_allclose(features, fresh, atol=1e-5)
    assert "of each of its layers in turn" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_long_texts_of_pairs_are_split_each_by_itself_and_predicted_so(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (train, labels), (test, truth) = planted(80, 2), planted(40, 3)
    # Of a pair the first alone is long in train, both in test.
    train, test = (
        [(f"{one} " * 6, other) for one, other in train],
        [(f"{a} " * 6, f"{b} " * 5) for a, b in test],
    )
    asked = {
        "text_pairs": "features",
        "max_length": 8,
        "long_texts": "split",
        "storage": str(tmp_path / "out"),
    }
    answer = layerscout.sweep(f"path:{tiny_model}", train, labels, test=(test, truth), **asked, **ASKED)
    made = answer.tables["embedding_set"].row(0, named=True)
    # 12 words are two windows of 8, 10 words too: 80 · (16 + 2) + 40 · (16 + 16) tokens of 160 + 80 texts, 160 long.
    assert (made["tokens"], made["split_tokens"]) == (80 * 18 + 40 * 32, 8 * 160)
    assert made["split_share"] == pytest.approx(160 / 240)
    dataset = answer.tables["run"]["dataset_id"][0]
    show_plan(
        SweepParameters(
            model=f"path:{tiny_model}", dataset=dataset, text_column=PAIR_COLUMNS, **asked, **ASKED
        )
    )
    assert f"{made['tokens']:,} tokens" in " ".join(capsys.readouterr().out.split())
    found = answer.export(tmp_path / "model")
    assert (found.accuracy, found.agreement) == (answer.accuracy, 1)
    np.testing.assert_allclose(embed(tmp_path / "model", test), answer.encode(test), atol=1e-5)


def test_what_cannot_be_is_refused_in_words(
    answer: layerscout.Answer, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"--width 8 reduces .* Leave --width out"):
        answer.export(tmp_path / "model", width=8)
    assert not (tmp_path / "model").exists()
    with pytest.raises(ValidationError, match=r"text_pairs features: states:\S+ are saved states"):
        SweepParameters(
            model="states:x.npy",
            dataset="path:y",
            pooling=("mean",),
            text_pairs="features",
            text_column=("a", "b"),
        )
    with pytest.raises(UserError, match=r"text_column a: the texts are given as pairs"):
        layerscout.sweep(f"path:{tiny_model}", *TRAIN, text_column="a", storage=tmp_path)
    with pytest.raises(UserError, match="are pairs: give a list of"):
        layerscout.sweep(f"path:{tiny_model}", *TRAIN, test=(["a"], ["same"]), storage=tmp_path)


def test_a_run_says_that_pairs_are_features_only_where_they_are() -> None:
    asked = {"model": "path:m", "dataset": "path:d", "text_column": ("a", "b")}
    joined = describe_run(SweepParameters(**asked), "set")
    assert joined == describe_run(SweepParameters(**asked, text_pairs="joined"), "set")
    assert "text_pairs" not in joined.parameters
    features = describe_run(SweepParameters(**asked, text_pairs="features"), "set")
    assert (features.parameters["text_pairs"], features.id != joined.id) == ("features", True)


def test_inspect_and_a_dry_run_count_both_texts_and_the_fourfold_width(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, labels = TRAIN
    file = tmp_path / "pairs.csv"
    rows = {"one": [each for each, _ in pairs], "other": [f"{each} the" for _, each in pairs]}
    pl.DataFrame(rows | {"label": labels}).write_csv(file)
    asked = {"text_column": ("one", "other"), "text_pairs": "features"}
    show_inspection(
        f"path:{file}",
        **asked,
        joined_by="\n",
        label_column=(),
        encoding=None,
        model=f"path:{tiny_model}",
        max_length=None,
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert "text: one + other, label: label" in shown
    assert f"each text by itself; a row is {FORMULA}" in shown
    assert re.search(r"median 2 tokens, 95 % up to 3, longest 3", shown)
    show_plan(
        SweepParameters(
            model=f"path:{tiny_model}",
            dataset=f"path:{file}",
            storage=str(tmp_path / "out"),
            **asked,
            **ASKED,
        )
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{400 * 5:,} tokens" in shown
    assert f"{400 * 4 * 32 * 4 * 4:,} of embeddings" in shown  # rows × layers × width × parts × bytes


def test_pairs_in_a_pipeline(tiny_model: Path, tmp_path: Path) -> None:
    embedder = layerscout.LayerEmbedder(
        f"path:{tiny_model}", storage=str(tmp_path / "out"), options={"text_pairs": "features", **ASKED}
    )
    assert embedder.fit(np.array(TRAIN[0]), TRAIN[1]).transform(np.array(TEST[0])).shape == (200, 128)
