"""What a run chose as a model: cut, head fitted, everything checked, and only then put where it was asked for."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import Timeout

from flows.parameters import SweepParameters
from flows.running.progress import Pace, progress_bar, working
from flows.settled import settle_words
from storage.embeddings import Layer
from storage.errors import UserError
from storage.layout import Layout
from tasks.choosing.comparison import compare
from tasks.data.dataset import prepare_dataset
from tasks.data.stored_table import read_table
from tasks.data.tagged_words import WORD_KEYS
from tasks.embedding.without_bars import without_bars
from tasks.embedding.words import wants_spaces
from tasks.exporting.cut import cut_model
from tasks.exporting.exported_check import check_exported, whole_model_embeddings
from tasks.exporting.linear_head import (
    fit_head,
    fresh_features,
    kept_features,
    plan_features,
    reduced,
    refuse_another,
    right_by,
    train_rows,
    write_head,
)
from tasks.exporting.model_card import Evidence, evidence_of, write_model_card
from tasks.exporting.recorded_run import RecordedRun, cut_of, find_recorded_run, keeps_embeddings
from tasks.exporting.reduction import check_width, fit_reduction
from tasks.exporting.sentence_transformers_files import write_sentence_transformers
from tasks.exporting.states import Cut, refuse_attention
from tasks.exporting.whole_model import load_whole
from tasks.machine import machine_lock


def export_model(
    layout: Layout,
    run_id: str,
    out: Path,
    *,
    layer: int | None = None,
    together: bool = False,
    width: int | None = None,
    all_rows: bool = False,
    trust_remote_code: bool = False,
) -> Evidence:
    """Write the model of a run, cut after what it chose, with tokenizer, pooling, linear head and model card.

    Args:
        layout: of the storage that holds the run.
        run_id: of a finished run, or the first digits of it.
        out: folder to write; it appears whole or not at all.
        layer: another layer than the chosen one.
        together: the layers that the run found to tell more side by side, in place of the one.
        width: dimensions of an embedding, by principal components of the train rows; None leaves it as it is.
        all_rows: fit the head on all train rows of the data set, where the run read fewer.
        trust_remote_code: run the Python code that the model brings, where the run did.

    Raises:
        UserError: no such run or layer, `out` is taken, the model has changed or cannot be cut, what was chosen is
            pooled by attention, or of `all_rows` the data set has changed.
    """
    out = _check_target(out)
    with working("Finding the run and its model"):
        run = find_recorded_run(layout, run_id, trust_remote_code=trust_remote_code)
        cut = cut_of(run, layer, together=together)
        refuse_attention(cut)
        if width is not None:
            if run.of_pairs:
                raise UserError(
                    f"--width {width} reduces an embedding, and what the head of run {run.row['run_id']} takes are "
                    "features of two of them (--text-pairs), which no model folder puts out. Leave --width out."
                )
            check_width(width, run.dataset.train_rows, len(cut.states) * run.model.hidden_size)
    with _beside(out) as folder:
        with working("Loading the whole model"):
            whole = load_whole(run)
        with working(f"Cutting after layer {cut.deepest}"):
            saved = cut_model(
                Path(run.model.folder),
                whole.backbone,
                cut,
                folder,
                prompt=run.settings.prompt,
                trust_remote_code=run.settings.trust_remote_code,
            )
        with working("Embedding the checked rows with the whole model"):
            checked = whole_model_embeddings(run, whole, cut)
        features = _features(run, cut)
        with working("Fitting the head"):
            head = fit_head(run, cut, features)
        refuse_another(run, cut, head)
        whole_set = run
        if all_rows:
            whole_set = _with_all_rows(run)
            features = _features(whole_set, cut)
            with working("Fitting the head to all rows"):
                head = fit_head(whole_set, cut, features)
        reduction, cost = None, None
        if width is not None:
            with working(f"Reducing to {width:,} dimensions"):
                reduction = fit_reduction(train_rows(whole_set, features), width)
                wide, head = head, fit_head(whole_set, cut, reduced(features, reduction))
            right = [right_by(each, whole_set, features) for each in (head, wide)]
            cost = compare(*right)
        spaced = None
        if run.of_words:
            spaced = wants_spaces(whole.tokenizer)
        else:  # which embeds whole texts
            write_sentence_transformers(
                folder, saved, run.model.hidden_size, run.settings.max_length, reduction
            )
        write_head(folder, run, saved, head, reduction, causal=whole.backbone.causal, spaced=spaced)
        with working("Checking the exported model"), without_bars():
            check = check_exported(run, cut, folder, head, checked)
        found = evidence_of(run, cut, saved, head, cost, check)
        (folder / "README.md").write_text(write_model_card(found), encoding="utf-8")
        _put_in_place(folder, out)
    return found


def _with_all_rows(run: RecordedRun) -> RecordedRun:
    """The run with every train row that its data set has now, and the test rows that it had.

    Raises:
        UserError: those are no longer its test rows, or a train row that it read is not there.
    """
    asked = json.loads(run.row["parameters"]) | {
        "max_train_rows": None,
        "storage": run.layout.root,
        "trust_remote_code": run.settings.trust_remote_code,
    }
    parameters = SweepParameters.model_validate(asked)
    with working("Reading all rows of the data set"):
        dataset = prepare_dataset(parameters.dataset, run.layout, **parameters.rows_asked)
        dataset = settle_words(run.layout, parameters, dataset, run.model, run.settings)
        rows = read_table(dataset.uri)
    # Numbers that rows and groups have among those that are read, and not in the source.
    told = [name for name in rows.columns if name not in ("row_id", "group_id", *WORD_KEYS)]
    before = dict(run.rows.select(told).partition_by("split", as_dict=True))
    now = dict(rows.select(told).partition_by("split", as_dict=True))
    lost = before["train",].join(now["train",], on=["text", "label"], how="anti", nulls_equal=True)
    if dataset.classes != run.dataset.classes or not now["test",].equals(before["test",]) or len(lost):
        raise UserError(
            f"{run.dataset.id} has other rows than run {run.row['run_id']} read, or classes that none of those has, so "
            "that a head of all rows (--all-rows) would not be of what was audited. Leave the flag out, or sweep again."
        )
    return replace(run, dataset=dataset, rows=rows)


def _features(run: RecordedRun, cut: Cut) -> Layer:
    """The embeddings of every row: the run's own where they are kept, else made now and deleted again."""
    if run.rows.height == run.planned.rows and keeps_embeddings(run):
        return kept_features(run, cut)
    with working("Planning the shards"):
        planned = plan_features(run, cut)
    with progress_bar(Pace("Embedding", "rows", planned.rows)) as advance:
        return fresh_features(run, cut, planned, advance)


def _check_target(out: Path) -> Path:
    """The absolute path, if it can be written and nothing lies there."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(out)):  # a Path has left one of the two strokes
        raise UserError(
            f"A model is exported to a folder on this machine, not to {out} (--out). Export it here, and copy it there."
        )
    place = Path(os.path.abspath(out))
    try:
        if os.path.lexists(place) and (place.is_symlink() or not place.is_dir() or any(place.iterdir())):
            raise UserError(f"{out} (--out) is there already, and nothing is overwritten. Name a new folder.")
        # Tried, not asked: a disk that may only be read lets its owner write, until that is tried.
        nearest = next(each for each in place.parents if each.exists())
        with tempfile.TemporaryDirectory(dir=nearest, prefix=f".{place.name}."):
            pass
    except OSError as error:
        raise UserError(_unwritable(out, error)) from error
    return place


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, gone in the end. Its name is fixed: what a killed export left, the next one clears."""
    place = out.with_name(f".{out.name}.unfinished")
    lock = machine_lock(f"export-{hashlib.sha256(str(place).encode()).hexdigest()[:16]}")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"Another export is writing {out} (--out). Name another folder, or wait.") from error
    made = [each for each in out.parents if not each.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    except OSError as error:
        lock.release()
        raise UserError(_unwritable(out, error)) from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        for each in made:  # what holds the finished export is not empty, and stays
            with suppress(OSError):
                each.rmdir()
        lock.release()


def _unwritable(out: Path, error: OSError) -> str:
    return f"{out} (--out) cannot be written: {error.strerror}. Name another folder."


def _put_in_place(folder: Path, out: Path) -> None:
    """Rename the finished folder into place; what is written beside it never looks finished."""
    try:
        os.replace(folder, out)
    except OSError as error:
        raise UserError(
            f"{out} (--out) came into being while the model was exported: {error.strerror}."
        ) from error
