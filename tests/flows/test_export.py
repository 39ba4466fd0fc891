"""From a finished run to a model that works: the folder, its head, its card, and what is refused."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sentence_transformers import SentenceTransformer
from sklearn.pipeline import Pipeline
from transformers import AutoModel

from flows.export import _beside, export_model
from flows.terminal.show_export import show_export
from storage.errors import UserError
from storage.layout import Layout
from storage.results import query
from tasks.exporting.linear_head import fit_head, kept_features, refuse_another
from tasks.exporting.predict import embed, load_classifier
from tasks.exporting.recorded_run import find_recorded_run, keeps_embeddings
from tasks.exporting.states import Cut, LayerState
from tasks.reporting.run_record import collect
from tasks.vocabulary import NormState, Pooling
from tests.conftest import labelled_text
from tests.flows.conftest import sweep_here


@pytest.fixture(scope="module")
def swept(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: str
) -> tuple[Layout, dict[str, Any]]:
    """A storage with a run, and the id of that.

    The data set is one of the user's own: a CSV with other column names, a class of one row, and one that test lacks.
    """
    folder = tmp_path_factory.mktemp("export")
    reviews = folder / "reviews"
    reviews.mkdir()
    rare = pl.DataFrame({"text": ["gull goat star", "wave of wheat"], "label": ["hapax", "untested"]})
    train = pl.concat([labelled_text(150, seed=1), rare, rare.tail(1)])
    for name, rows in (("train", train), ("test", labelled_text(80, seed=2))):
        rows.rename({"text": "Body", "label": "stars"}).write_csv(reviews / f"{name}.csv")
    outcome = sweep_here(
        prefect_server,
        folder / "out",
        model=f"path:{tiny_model}",
        dataset=f"path:{reviews}",
        label_column="stars",
        pooling=("mean", "mean_tail"),
        dtype="float32",
    )
    return outcome.layout, {"run_id": outcome.run_id}


def answering(monkeypatch: pytest.MonkeyPatch, pooling: str, *, together: bool = False) -> None:
    """Make the choice of this pooling the run's answer, whichever of the two it was; or two layers side by side."""

    def collected(layout: Layout, run_id: str) -> dict[str, pl.DataFrame]:
        tables = collect(layout, run_id)
        answer = pl.col("is_default") & (pl.col("pooling") == pooling)
        changed = {name: tables[name].with_columns(is_answer=answer) for name in ("layer_choice", "audit")}
        both = tables["representation"].with_columns(is_answer=pl.col("size") == (2 if together else 1))
        return tables | changed | {"representation": both}

    monkeypatch.setattr("tasks.exporting.recorded_run.collect", collected)


def right_by(classifier: Pipeline, embeddings: np.ndarray) -> float:
    """The share of the test rows that the exported head gets right from these embeddings."""
    return float((classifier.predict(embeddings) == labelled_text(80, seed=2)["label"].to_numpy()).mean())


def encoded(folder: Path, **trust: bool) -> np.ndarray:
    """Of the test rows, by sentence-transformers."""
    texts = labelled_text(80, seed=2)["text"].to_list()
    return SentenceTransformer(str(folder), device="cpu", **trust).encode(texts).astype(np.float64)


def test_the_chosen_layer_is_exported_as_it_was_chosen(
    swept: tuple[Layout, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout, answer = swept
    answering(monkeypatch, "mean")
    out = tmp_path / "models" / "mine"
    before = set(Path(layout.root, "embeddings").rglob("*.parquet"))
    found = export_model(layout, answer["run_id"][:8], out)
    chosen = found.cut.deepest
    assert chosen < 3
    show_export(found, out)
    assert f"layer {chosen}" in capsys.readouterr().out
    # A model without blocks has no hidden states in transformers: of layer 0 one block is kept.
    assert AutoModel.from_pretrained(out).config.num_hidden_layers == found.blocks == max(chosen, 1)
    head = json.loads((out / "head" / "head.json").read_text())
    state = {"layer": chosen, "pooling": "mean", "norm_state": "as_returned", "source": "hidden_states"}
    state |= {"around": [0, 0]}
    assert head["states"] == [state]
    assert set(head["classes"]) == {"sea", "sky", "land", "hapax", "untested"}
    audited = query(
        layout.results, f"SELECT accuracy FROM probe WHERE pooling = 'mean' AND layer = {chosen}"
    ).item()
    assert found.accuracy == found.audited_accuracy == audited == head["test_accuracy"]
    assert (found.deviation < 1e-5, found.agreement, found.reduction) == (True, 1, None)
    card = (out / "README.md").read_text()
    read = f"`model(…, output_hidden_states=True).hidden_states[{chosen}]`"
    for evidence in (found.answer, found.reason, answer["run_id"], "tokens/s", read):
        assert evidence in card
    for file in out.rglob("*"):
        if file.suffix in (".json", ".md", ".py", ".txt"):
            assert str(Path(layout.root).parents[1]) not in file.read_text(), (
                f"{file} names a place of this machine"
            )
    # The accuracy that the head promises is what the folder alone gives, through either library.
    test = labelled_text(80, seed=2)
    classifier = load_classifier(out)
    for embeddings in (embed(out, test["text"].to_list()), encoded(out)):
        assert right_by(classifier, embeddings) == head["test_accuracy"]
        assert np.allclose(classifier.predict_proba(embeddings).sum(1), 1)
    assert set(Path(layout.root, "embeddings").rglob("*.parquet")) == before
    assert [each.name for each in out.parent.iterdir()] == ["mine"]  # and nothing half-finished beside it
    printed = subprocess.run(
        [sys.executable, str(out / "predict.py"), test["text"][0], "cloud wind star"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split("\t")[0] for line in printed.stdout.splitlines()] == [test["label"][0], "sky"]
    # This tokenizer adds no token: of a text without any nothing can be told, and nothing wrong is of those beside it.
    for texts in ([""], ["cloud wind star", ""]):
        refused = subprocess.run(
            [sys.executable, str(out / "predict.py"), *texts], capture_output=True, text=True, check=False
        )
        assert (refused.returncode, refused.stdout) == (1, "")
        told = f"Text {len(texts)} ('') has no token, and so no embedding: leave it out."
        assert refused.stderr.splitlines()[-1] == told


def test_the_last_layer_is_what_the_whole_model_returns(
    swept: tuple[Layout, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, answer = swept
    answering(monkeypatch, "mean")
    found = export_model(layout, answer["run_id"], tmp_path / "last", layer=3)
    audited = query(
        layout.results,
        "SELECT accuracy FROM probe WHERE pooling = 'mean' AND layer = 3",
    ).item()
    assert found.accuracy == found.audited_accuracy == audited
    assert found.deviation < 1e-5
    assert found.agreement == 1
    assert found.parameters[0] == found.parameters[1]
    card = (tmp_path / "last" / "README.md").read_text()
    assert "named by hand" in card
    assert "`model(…).last_hidden_state` (mean pooling)" in card


def test_mean_tail_is_pooled_by_code_in_the_folder(
    swept: tuple[Layout, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout, answer = swept
    answering(monkeypatch, "mean_tail")
    out = tmp_path / "tail"
    found = export_model(layout, answer["run_id"], out, layer=2)
    show_export(found, out)
    assert "trust_remote_code=True: pooled_layers.py" in capsys.readouterr().out
    assert 'SentenceTransformer("THIS_FOLDER", trust_remote_code=True)' in (out / "README.md").read_text()
    test = labelled_text(80, seed=2)["text"].to_list()
    for embeddings in (embed(out, test), encoded(out, trust_remote_code=True)):
        assert right_by(load_classifier(out), embeddings) == found.accuracy == found.audited_accuracy


def test_layers_side_by_side_are_exported_also_with_fewer_dimensions(
    swept: tuple[Layout, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout, answer = swept
    both = query(layout.results, "SELECT * FROM representation WHERE size = 2").row(0, named=True)
    answering(monkeypatch, both["poolings"][0], together=True)
    alone = export_model(layout, answer["run_id"], tmp_path / "alone")
    show_export(alone, tmp_path / "alone")
    assert "more in layers side by side: --together exports them" in capsys.readouterr().out
    test = labelled_text(80, seed=2)["text"].to_list()
    deviations = []
    for out, width in ((tmp_path / "wide", None), (tmp_path / "narrow", 9)):
        found = export_model(layout, answer["run_id"], out, together=True, width=width)
        assert [each.layer for each in found.cut.states] == both["layers"]
        assert found.audited_accuracy == both["accuracy"]
        assert (found.width, found.deviation < 1e-5, found.agreement) == (width or 64, True, 1)
        ours, theirs = embed(out, test), encoded(out, trust_remote_code=True)
        assert ours.shape == (80, width or 64)
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(ours).max()
        assert right_by(load_classifier(out), ours) == found.accuracy
        card = (out / "README.md").read_text()
        assert f"layers {both['layers'][0]} and {both['layers'][1]} of 3, side by side" in card
        if width is None:
            assert (found.accuracy, found.reduction) == (both["accuracy"], None)
        else:
            assert found.reduction is not None
            assert np.isclose(found.reduction.difference, found.accuracy - both["accuracy"])
            assert "reduce an embedding to 9 dimensions" in card
        deviations.append(found.deviation)
    # It is of the states: what reduces them enlarges their rounding, and is no fault of the cut.
    assert deviations[0] == deviations[1]
    answering(monkeypatch, both["poolings"][0])
    with pytest.raises(
        UserError, match=r"found no layer that is worth standing beside layer \d \(--together\)"
    ):
        export_model(layout, answer["run_id"], tmp_path / "none", together=True)
    with pytest.raises(UserError, match=r"no other is named \(--layer\)"):
        export_model(layout, answer["run_id"], tmp_path / "none", together=True, layer=1)


def test_what_cannot_be_exported_says_why_and_leaves_nothing(
    swept: tuple[Layout, dict[str, Any]], tmp_path: Path, tiny_model: Path
) -> None:
    layout, answer = swept
    run_id = answer["run_id"]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    for changed, message in [
        ({"out": tmp_path / "taken"}, "nothing is overwritten"),
        ({"run_id": "zz"}, rf"No run .* begins with 'zz'.*{run_id}"),
        ({"layer": 4}, r"layers 0 to 3; it knows nothing of layer 4"),
    ]:
        asked = {"run_id": run_id, "out": tmp_path / "new", "layer": None} | changed
        with pytest.raises(UserError, match=message):
            export_model(layout, asked["run_id"], asked["out"], layer=asked["layer"])
    kept = (tiny_model / "config.json").read_text()
    try:
        (tiny_model / "config.json").write_text(
            kept.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-03')
        )
        with pytest.raises(UserError, match="its files have changed since"):
            export_model(layout, run_id, tmp_path / "new")
    finally:
        (tiny_model / "config.json").write_text(kept)
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]
    shutil.rmtree(tmp_path / "taken")


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    nowhere = Layout(str(tmp_path / "no storage"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for out, message in [
        ("s3://bucket/model", "to a folder on this machine, not to s3:/bucket/model"),
        ("file:///tmp/model", "to a folder on this machine"),
        (tmp_path / "file", "nothing is overwritten"),
        (tmp_path / "link", "nothing is overwritten"),
        (tmp_path, "nothing is overwritten"),
        (tmp_path / "file" / "model", "cannot be written: Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        ("/proc/model", "/proc/model .--out. cannot be written"),
    ]:
        with pytest.raises(UserError, match=message):
            export_model(nowhere, "run", Path(out))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "link"]


def test_what_a_killed_export_left_is_cleared_by_the_next_and_a_live_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    left = tmp_path / "models" / ".mine.unfinished"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{}")
    with _beside(tmp_path / "models" / "mine") as folder:
        assert list(folder.iterdir()) == []
        with (
            pytest.raises(UserError, match="Another export is writing"),
            _beside(tmp_path / "models" / "mine"),
        ):
            pass
        assert folder.is_dir()
    assert list((tmp_path / "models").iterdir()) == []


def test_a_failed_export_leaves_no_folder_that_it_made_and_a_finished_one_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "there" / "new" / "newer" / "mine"
    (tmp_path / "there").mkdir()
    with pytest.raises(RuntimeError, match="cannot be cut"), _beside(out):
        raise RuntimeError("it cannot be cut")
    assert list((tmp_path / "there").iterdir()) == []
    with _beside(out) as folder:
        folder.rename(out)
    assert out.is_dir()


def flipped(file: Path) -> bytes:
    whole = file.read_bytes()
    at = len(whole) // 2
    return whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :]


def test_what_the_run_left_is_verified_before_anything_is_exported_from_it(
    swept: tuple[Layout, dict[str, Any]], tmp_path: Path
) -> None:
    layout, answer = swept
    run = find_recorded_run(layout, answer["run_id"])
    shard, manifest = layout.shard(run.planned.id, 0), layout.manifest(run.planned.id)
    part = Layout.part(run.answer["pooling"], "as_returned", 2)
    predictions = Path(layout.staged(answer["run_id"], "prediction", part))
    probes = layout.staged(answer["run_id"], "probe", part)
    cut = Cut((LayerState(2, Pooling(run.answer["pooling"]), NormState.AS_RETURNED),))
    assert keeps_embeddings(run)
    head = fit_head(run, cut, kept_features(run, cut))
    refuse_another(run, cut, head)

    def use() -> None:
        again = find_recorded_run(layout, answer["run_id"])
        keeps_embeddings(again)
        refuse_another(again, cut, head)

    rows = pl.read_parquet(run.dataset.uri)
    shuffled, fewer, otherwise = BytesIO(), BytesIO(), BytesIO()
    rows.with_columns(label=rows["label"].shuffle(seed=1)).write_parquet(shuffled)
    pl.read_parquet(predictions).head(-1).write_parquet(fewer)
    # As if other predictions had been audited: as many are right.
    audited = pl.read_parquet(predictions)
    other = audited.with_columns(predicted=1 - pl.col("predicted").clip(0, 1))
    other.write_parquet(otherwise)
    cases = [
        (shard, flipped(Path(shard)), "shard_00000.parquet of the run's embeddings is missing or damaged"),
        (shard, b"", "shard_00000.parquet of the run's embeddings is missing or damaged"),
        (run.dataset.uri, shuffled.getvalue(), "The run's texts .* is missing or damaged"),
        (
            run.dataset.uri,
            Path(run.dataset.uri).read_bytes()[:-50],
            "The run's texts .* is missing or damaged",
        ),
        (manifest, b"", "What the run recorded of its embeddings .* is missing or damaged"),
        (manifest, Path(manifest).read_bytes().replace(b'"stop"', b'"st"'), "The plan of its embeddings"),
        (probes, Path(probes).read_bytes()[:-20], "A part of the run's staged rows"),
        (str(predictions), b"", "predictions that the run staged for layer 2 are missing or damaged"),
        (
            str(predictions),
            fewer.getvalue(),
            "predictions that the run staged for layer 2 are missing or damaged",
        ),
        (str(predictions), otherwise.getvalue(), "predictions that the run staged for layer 2"),
    ]
    for place, content, message in cases:
        kept = Path(place).read_bytes()
        Path(place).write_bytes(content)
        with pytest.raises(UserError, match=message):
            use()
        Path(place).write_bytes(kept)
    use()
    wrong = replace(head, predictions=np.roll(head.predictions, 1))
    with pytest.raises(UserError, match=r"does not agree with the run's audit.*new --storage"):
        refuse_another(run, cut, wrong)


def test_a_run_of_version_0_1_0_is_exported_from_its_storage(tmp_path: Path) -> None:
    shutil.unpack_archive(Path(__file__).parents[1] / "fixtures" / "storage-0.1.0.tar.xz", tmp_path)
    layout = Layout(str(tmp_path / "storage-0.1.0"))
    (run_id,) = query(layout.results, "SELECT run_id FROM run")["run_id"]
    out = tmp_path / "model"
    found = export_model(layout, run_id, out)
    # Its embeddings are gone: they are made anew.
    asked = "SELECT layer, pooling, accuracy FROM probe JOIN layer_choice USING (run_id, pooling, norm_state, layer)"
    audited = query(layout.results, f"{asked} WHERE is_answer").row(0, named=True)
    (state,) = found.cut.states
    assert (state.layer, state.pooling) == (audited["layer"], audited["pooling"])
    assert found.accuracy == found.audited_accuracy == audited["accuracy"]
    assert AutoModel.from_pretrained(out).config.num_hidden_layers == state.layer
    run, dataset = (
        query(layout.results, f"SELECT * FROM {name}").row(0, named=True) for name in ("run", "dataset")
    )
    rows = pl.read_parquet(layout.dataset(run["dataset_fingerprint"]))[dataset["train_rows"] :]
    names = [dataset["classes"][label] for label in rows["label"]]
    right = load_classifier(out).predict(embed(out, rows["text"].to_list())) == np.array(names)
    assert right.mean() == audited["accuracy"]
    # Nothing of the new embeddings stays in the storage.
    assert not list(Path(layout.root, "embeddings").rglob("*.parquet"))
