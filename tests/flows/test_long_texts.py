"""Texts longer than the maximum length that are read whole: the sweep, its answer of use, its export, its plan."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sentence_transformers import SentenceTransformer

import layerscout
from flows.parameters import SweepParameters
from flows.run_id import asked_of
from flows.terminal.preview import show_plan
from flows.terminal.show_export import show_export
from flows.terminal.show_sweep import outcome_as_json, show_outcome
from flows.unrecorded_sweep import unrecorded_sweep
from storage.embeddings import read_layer
from tasks.embedding.embedding_set import finished_shard
from tasks.embedding.set_records import kept_plan
from tasks.embedding.settings import embedding_set_id
from tasks.exporting.predict import embed
from tasks.exporting.recorded_run import find_recorded_run
from tasks.vocabulary import LongTexts
from tests.conftest import labelled_text
from tests.flows.conftest import sweep_here, tables

TRAIN, TEST = labelled_text(150, seed=1), labelled_text(80, seed=2)
LENGTH = 6
PROMPT = "the sail of {text} and"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "reviews"
    folder.mkdir()
    for name, rows in (("train", TRAIN), ("test", TEST)):
        rows.write_csv(folder / f"{name}.csv")
    return folder


def asked(model: Path, data: Path, storage: Path, **more: object) -> SweepParameters:
    return SweepParameters.model_validate(
        {"model": f"path:{model}", "dataset": f"path:{data}", "dtype": "float32", "storage": str(storage)}
        | {"max_length": LENGTH, "long_texts": "split", "together": 1}
        | more
    )


def test_recorded_or_not_the_numbers_are_the_same_and_it_is_told(
    data: Path, tiny_model: Path, tmp_path: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = asked(tiny_model, data, tmp_path / "one")
    outcome = unrecorded_sweep(parameters)
    again = sweep_here(prefect_server, tmp_path / "two", **parameters.model_dump(exclude={"storage"}))
    assert again.run_id == outcome.run_id
    one, two = tables(tmp_path / "one"), tables(tmp_path / "two")
    assert [name for name in one if name != "execution" and not one[name].equals(two[name])] == []

    lengths = np.array([len(text.split()) for text in [*TRAIN["text"], *TEST["text"]]])
    embedded = one["embedding_set"].row(0, named=True)
    assert embedded["truncated_share"] == 0
    assert embedded["split_share"] == (lengths > LENGTH).mean()
    assert embedded["tokens"] - embedded["split_tokens"] == np.minimum(lengths, LENGTH).sum()
    # Windows of 6 begin 5 tokens apart at the most, as one in four of 6 overlap.
    windows = 1 + np.ceil(np.maximum(lengths - LENGTH, 0) / 5)
    assert embedded["tokens"] == np.where(lengths > LENGTH, LENGTH * windows, lengths).sum()
    show_outcome(outcome, str(tmp_path / "one"))
    tokens = embedded["tokens"]
    told = f"longer than {LENGTH} tokens and were read whole, in windows: {tokens:,} tokens"
    assert told in capsys.readouterr().out
    assert told in Path(outcome.files.html).read_text()
    assert outcome_as_json(outcome)["split_share"] == embedded["split_share"]
    assert "long_texts" in json.loads(one["run"]["parameters"][0])

    show_plan(parameters)
    shown = " ".join(capsys.readouterr().out.split())
    more = embedded["tokens"] / (embedded["tokens"] - embedded["split_tokens"])
    share = f"{embedded['split_share']:.1%} of the texts in windows of {LENGTH}"
    assert f"{embedded['tokens']:,} tokens, {share}: {more:.2f} times as many as cut" in shown
    assert "will be cut" not in shown


def test_what_is_cut_is_the_run_that_it_was(data: Path, tiny_model: Path, tmp_path: Path) -> None:
    parameters = asked(tiny_model, data, tmp_path / "out", long_texts="cut")
    assert "long_texts" not in asked_of(parameters)
    cut = unrecorded_sweep(parameters)
    row = cut.tables["embedding_set"].row(0, named=True)
    assert (row["split_share"], row["split_tokens"]) == (0, 0)
    assert row["truncated_share"] > 0
    run = find_recorded_run(cut.layout, cut.run_id)
    split = replace(run.settings, long_texts=LongTexts.SPLIT)
    assert embedding_set_id(run.dataset, run.model, run.settings) == run.planned.id
    assert embedding_set_id(run.dataset, run.model, split) != run.planned.id
    # Texts of one window have the same bytes in both, as the batches do.
    other = unrecorded_sweep(asked(tiny_model, data, tmp_path / "out"))
    both = []
    for each in (run, find_recorded_run(cut.layout, other.run_id)):
        plan = kept_plan(cut.layout, each.planned.id, len(TRAIN) + len(TEST))
        assert plan is not None
        (shard,) = plan.shards
        assert finished_shard(cut.layout, plan, shard, each.rows) is not None
        both.append(
            read_layer((cut.layout.shard(plan.id, 0),), layer=2, norm_state="as_returned", pooling="mean")
        )
    short = np.array([len(text.split()) <= LENGTH for text in [*TRAIN["text"], *TEST["text"]]])
    same = (both[0].embeddings == both[1].embeddings).all(axis=1)
    assert np.array_equal(same, short)


@pytest.mark.parametrize(("pooling", "prompt"), [("mean", "none"), ("last", PROMPT), ("text_mean", PROMPT)])
def test_it_embeds_new_texts_and_is_exported(
    pooling: str,
    prompt: str,
    data: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    length = LENGTH if prompt == "none" else LENGTH + 4
    answer = layerscout.sweep(
        f"path:{tiny_model}",
        f"path:{data}",
        max_length=length,
        long_texts="split",
        pooling=pooling,
        dtype="float32",
        prompt=prompt,
        storage=tmp_path / "out",
    )
    run = find_recorded_run(answer.layout, answer.run_id)
    shards = tuple(answer.layout.shard(run.planned.id, each.index) for each in run.planned.shards)
    stored = read_layer(shards, layer=answer.layer, norm_state=answer.norm_state, pooling=pooling)
    texts = run.rows["text"].to_list()
    stored_rows = stored.embeddings[np.argsort(stored.row_id)]
    np.testing.assert_allclose(answer.encode(texts), stored_rows, rtol=1e-5, atol=1e-6)

    out = tmp_path / "model"
    evidence = answer.export(out)
    assert evidence.deviation < 1e-5
    show_export(evidence, out)
    told = f"sentence-transformers cuts them at {length} tokens"
    assert told in " ".join(capsys.readouterr().out.split())
    assert told in (out / "README.md").read_text()
    long = " ".join([*texts[:40]])
    given = [long, *texts[:30], "wave", long]
    of_folder = embed(out, given)
    np.testing.assert_allclose(of_folder, answer.encode(given), rtol=1e-4, atol=1e-5)
    by_other = SentenceTransformer(str(out), device="cpu", trust_remote_code=True).encode(given)
    np.testing.assert_allclose(by_other[-2], of_folder[-2], rtol=1e-4, atol=1e-5)
    assert np.abs(by_other[0] - of_folder[0]).max() > 1e-3  # it is cut there, as the card says
    done = subprocess.run(
        [sys.executable, str(out / "predict.py"), long],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert done.stdout.split()[0] in {"sea", "sky", "land"}


def test_it_is_refused_where_no_model_reads() -> None:
    with pytest.raises(ValueError, match="long_texts split: states:there are saved states"):
        SweepParameters.model_validate(
            {"model": "states:there", "dataset": "path:x", "pooling": ("mean",), "long_texts": "split"}
        )


def test_more_and_more_rows_are_read_whole(data: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A race's sets hold the same embeddings as one that was embedded at once."""
    more = pl.concat([labelled_text(700, seed=3), TRAIN])
    folder = tmp_path / "more"
    folder.mkdir()
    more.write_csv(folder / "train.csv")
    TEST.write_csv(folder / "test.csv")
    raced = unrecorded_sweep(asked(tiny_model, folder, tmp_path / "race", until_confident=0.5))
    assert raced.tables["embedding_set"]["split_share"][0] > 0
    assert raced.raced is not None
    rows = raced.raced.parameters.max_train_rows
    alone = unrecorded_sweep(
        asked(tiny_model, folder, tmp_path / "alone", max_train_rows=rows, row_order="sampled")
    )
    assert alone.run_id == raced.run_id
    probes = [each.tables["probe"].drop("seconds").sort("pooling", "layer") for each in (raced, alone)]
    np.testing.assert_allclose(probes[0]["accuracy"], probes[1]["accuracy"], atol=0.02)
