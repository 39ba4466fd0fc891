"""The chosen layer as a model: cut, head fitted, everything checked, and only then put where it was asked for."""

import os
import re
import tempfile
from pathlib import Path

from flows.running.progress import Pace, progress_bar, working
from storage.embeddings import Layer
from storage.errors import UserError
from storage.layout import Layout
from storage.places import why_not_writable
from tasks.embedding.model import load_model
from tasks.exporting.cut import SENTENCE_TRANSFORMERS_POOLING, save_cut, write_sentence_transformers
from tasks.exporting.exported_check import check_exported, exported_norm_state, whole_model_embeddings
from tasks.exporting.linear_head import (
    audit_again,
    fit_head,
    fresh_features,
    kept_features,
    plan_features,
    refuse_worse,
    write_head,
)
from tasks.exporting.model_card import Evidence, evidence_of, write_model_card
from tasks.exporting.recorded_run import Cut, RecordedRun, check_layer, find_recorded_run, keeps_embeddings
from tasks.vocabulary import NormState, Pooling


def export_model(layout: Layout, run_id: str, out: Path, *, layer: int | None = None) -> Evidence:
    """Write the model of a run, cut after its chosen layer, with tokenizer, pooling, linear head and model card.

    Args:
        layout: of the storage that holds the run.
        run_id: of a finished run, or the first digits of it.
        out: folder to write; it appears whole or not at all.
        layer: another layer than the chosen one.

    Where the run measured the layer before the final norm, which a model that ends there always applies, the head is
    fitted and audited again behind it.

    Raises:
        UserError: no such run or layer, `out` is taken, the model has changed or cannot be cut, or the chosen layer is
            significantly worse behind the final norm and was not named by hand.
    """
    _check_target(out)
    with working("Finding the run and its model"):
        run = find_recorded_run(layout, run_id)
    cut_after = run.answer["layer"] if layer is None else layer
    check_layer(run, cut_after)
    pooling, chosen_as = Pooling(run.answer["pooling"]), NormState(run.answer["norm_state"])
    source, trust = Path(run.model.folder), run.settings.trust_remote_code
    with working("Loading the whole model"):
        whole = load_model(run.model.folder, "float32", run.settings.device, trust_remote_code=trust)
    cut = Cut(cut_after, pooling, chosen_as, exported_norm_state(whole, cut_after, chosen_as))

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        with working(f"Cutting after layer {cut.layer}"):
            save_cut(source, cut.layer, folder, trust_remote_code=trust)
        if cut.pooling in SENTENCE_TRANSFORMERS_POOLING:
            write_sentence_transformers(folder, cut.pooling, run.model.hidden_size, run.settings.max_length)
        with working("Embedding the checked rows with the whole model"):
            checked = whole_model_embeddings(run, whole, cut)
        features = _features(run, cut)
        with working("Fitting the head"):
            head = fit_head(run, cut, features)
        difference = audit_again(run, cut, head)
        if layer is None and cut.norm_state != cut.chosen_as:
            refuse_worse(cut, head.accuracy, difference)
        write_head(folder, run, cut, head)
        with working("Checking the exported model"):
            check = check_exported(run, cut, folder, head, checked)
        found = evidence_of(run, cut, head, difference, check)
        (folder / "README.md").write_text(write_model_card(found), encoding="utf-8")
        _put_in_place(folder, out)
    return found


def _features(run: RecordedRun, cut: Cut) -> Layer:
    """The layer's embeddings of every row: the run's own where they are kept, else made now and deleted again."""
    if keeps_embeddings(run, cut.norm_state):
        return kept_features(run, cut)
    with working("Planning the shards"):
        planned = plan_features(run, cut)
    with progress_bar(Pace("Embedding", "rows", planned.rows)) as advance:
        return fresh_features(run, cut, planned, advance)


def _check_target(out: Path) -> None:
    # A `Path` makes one slash of two.
    if re.match(r"\w[\w+.-]+:/", str(out)):
        raise UserError(f"A model is exported to a folder on this machine, not to {out} (--out).")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} (--out) is there already, and nothing is overwritten. Name a new folder.")
    if (why := why_not_writable(out.parent)) is not None:
        raise UserError(f"{out} (--out) cannot be written: {why}. Name another folder.")


def _put_in_place(folder: Path, out: Path) -> None:
    """Rename the finished folder into place; what is written beside it never looks finished."""
    try:
        os.replace(folder, out)
    except OSError as error:
        raise UserError(
            f"{out} (--out) came into being while the model was exported: {error.strerror}."
        ) from error
