"""The chosen layer as a model: cut, head fitted, everything checked, and only then put where it was asked for."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from flows.running.progress import Pace, progress_bar, working
from storage.embeddings import Layer, read_layer
from storage.errors import UserError
from storage.files import exists
from storage.find_run import find_run
from storage.layout import Layout
from storage.manifest import read_manifest
from storage.results import query
from storage.sources.grammar import parse_source
from storage.staged import read_staged
from tasks.choosing.comparison import compare
from tasks.data.dataset import Dataset, read_table
from tasks.embedding.embed import embed_texts
from tasks.embedding.embedding_set import (
    Settings,
    delete_embeddings,
    embed_shard,
    plan_embedding_set,
    resolve_settings,
)
from tasks.embedding.model import LoadedModel, ModelFolder, load_model, resolve_model
from tasks.exporting.cut import (
    SENTENCE_TRANSFORMERS_POOLING,
    load_plain,
    measure_rates,
    plain_embeddings,
    save_cut,
    size_of,
    write_sentence_transformers,
)
from tasks.exporting.linear_head import write_head
from tasks.exporting.model_card import Evidence, figures, write_model_card
from tasks.exporting.predict_script import load_classifier
from tasks.reporting.answer import answer_sentence, p_value, percent, points
from tasks.reporting.run_record import collect
from tasks.scoring.probe import Probe, fit_probe
from tasks.vocabulary import NormState, Pooling

# Rows that the exported model embeds for the comparison with the whole one: what takes seconds, not minutes.
CHECKED_ROWS = 256
TIMED_ROWS = 16
# Of the largest value: rounding stays far below it, a wrong block far above.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class _Run:
    """A finished run, and the inputs that it recorded."""

    row: dict[str, Any]
    tables: Mapping[str, pl.DataFrame]
    dataset: Dataset
    model: ModelFolder
    settings: Settings
    shards: tuple[str, ...]
    seed: int


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
    run = _find_run(layout, run_id)
    answer = run.tables["layer_choice"].filter("is_answer").row(0, named=True)
    pooling, asked = Pooling(answer["pooling"]), NormState(answer["norm_state"])
    cut_after = answer["layer"] if layer is None else layer
    _check_layer(run, cut_after)
    with working("Loading the whole model"):
        whole = load_model(
            run.model.folder,
            "float32",
            run.settings.device,
            trust_remote_code=run.settings.trust_remote_code,
        )
    norm_state = _exported_norm_state(whole, cut_after, asked)

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        with working(f"Cutting after layer {cut_after}"):
            save_cut(
                Path(run.model.folder),
                cut_after,
                folder,
                trust_remote_code=run.settings.trust_remote_code,
            )
        has_pooling = pooling in SENTENCE_TRANSFORMERS_POOLING
        if has_pooling:
            write_sentence_transformers(folder, pooling, run.model.hidden_size, run.settings.max_length)
        checked, expected = _whole_model_embeddings(run, whole, cut_after, norm_state, pooling)
        features = _features(layout, run, pooling, norm_state, cut_after)
        with working("Fitting the head"):
            probe = _fit_head(run, features)
        difference = _audit_again(layout, run, probe, pooling, asked, cut_after)
        if layer is None and asked != norm_state:
            _refuse_worse(cut_after, asked, norm_state, probe.accuracy, difference)
        write_head(
            folder,
            probe,
            run.dataset.classes,
            {
                "pooling": pooling.value,
                "norm_state": norm_state.value,
                "layer": cut_after,
                "max_length": run.settings.max_length,
            },
        )
        with working("Checking the exported model"):
            evidence = _check(run, folder, probe, checked, expected, pooling, cut_after)
        found = Evidence(
            run=run.row,
            dataset=run.tables["dataset"].row(0, named=True),
            answer=answer_sentence(run.tables),
            reason=answer["reason"]
            if layer in (None, answer["layer"])
            else f"Layer {layer} was named by hand in place of the chosen layer {answer['layer']}.",
            layer=cut_after,
            layers=run.model.layers,
            pooling=pooling.value,
            chosen_as=asked.value,
            norm_state=norm_state.value,
            audited_accuracy=_probe_row(run, pooling, asked, cut_after)["accuracy"],
            accuracy=probe.accuracy,
            accuracy_low=probe.accuracy_low,
            accuracy_high=probe.accuracy_high,
            difference=difference,
            device=run.settings.device,
            has_sentence_transformers=has_pooling,
            **evidence,
        )
        (folder / "README.md").write_text(write_model_card(found), encoding="utf-8")
        _put(folder, out)
    return found


def show_export(found: Evidence, out: Path) -> None:
    """What was exported, what it costs to run, and what it is worth."""
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    table.add_column(f"layer {found.layer}")
    table.add_column("whole model")
    for row in figures(found):
        table.add_row(*row)
    console.print(table)
    console.print()
    if found.chosen_as != found.norm_state:
        change, low, high, p = found.difference
        console.print(
            f"Chosen as {found.chosen_as}, exported as {found.norm_state} (a model that ends there applies its final "
            f"norm): {points(change)} points, 95 % interval {points(low)} to {points(high)}, {p_value(p)}.",
            soft_wrap=True,
        )
    if not found.has_sentence_transformers:
        console.print(
            f"Without sentence-transformers' files: it has no {found.pooling} pooling. predict.py has it.",
            soft_wrap=True,
        )
    for name, place in (("folder", str(out)), ("try it", f'python {out}/predict.py "a text"')):
        console.print(f"[bold]{name:<11}[/]{place}", soft_wrap=True)


def _check_target(out: Path) -> None:
    if "://" in str(out):
        raise UserError(f"A model is exported to a folder on this machine, not to {out} (--out).")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} (--out) is there already, and nothing is overwritten. Name a new folder.")


def _put(folder: Path, out: Path) -> None:
    """Rename the finished folder into place; what is written beside it never looks finished."""
    try:
        os.replace(folder, out)
    except OSError as error:
        raise UserError(
            f"{out} (--out) came into being while the model was exported: {error.strerror}."
        ) from error


def _find_run(layout: Layout, run_id: str) -> _Run:
    known = find_run(layout.results, run_id)
    row = query(layout.results, f"SELECT * FROM run WHERE run_id = '{known}'").row(0, named=True)
    manifest = read_manifest(layout.manifest(row["embedding_set_id"]))
    recorded = manifest["dataset"]
    # The storage may have moved since; its own layout knows where the table is now.
    dataset = Dataset(
        **recorded | {"uri": layout.dataset(recorded["fingerprint"]), "classes": tuple(recorded["classes"])}
    )
    asked = manifest["settings"]
    settings = resolve_settings(
        Settings(
            **asked
            | {
                "poolings": tuple(Pooling(each) for each in asked["poolings"]),
                "norm_states": tuple(NormState(each) for each in asked["norm_states"]),
                "device": "auto" if asked["device"].startswith("cuda") else asked["device"],
            }
        )
    )
    shards = tuple(
        layout.shard(row["embedding_set_id"], shard["index"]) for shard in manifest["plan"]["shards"]
    )
    return _Run(
        row=row,
        tables=collect(layout, row["run_id"]),
        dataset=dataset,
        model=_same_model(row, settings.trust_remote_code),
        settings=settings,
        shards=shards,
        seed=json.loads(row["parameters"])["seed"],
    )


def _same_model(row: Mapping[str, Any], trust_remote_code: bool) -> ModelFolder:
    """The run's model, of the very revision that it saw."""
    spec = parse_source(row["model_id"]).pinned(row["model_revision"])
    with working("Finding the model"):
        model = resolve_model(spec, trust_remote_code=trust_remote_code)
    if model.revision != row["model_revision"]:
        raise UserError(
            f"{row['model_id']} is not what the run saw: its files have changed since (revision "
            f"{model.revision[:12]} against {row['model_revision'][:12]}). Sweep again, and export that run."
        )
    return model


def _check_layer(run: _Run, layer: int) -> None:
    last = run.model.layers if run.settings.max_layer is None else run.settings.max_layer
    if not 0 <= layer <= last:
        raise UserError(
            f"The run has scored layers 0 to {last}; it knows nothing of layer {layer} (--layer)."
        )


def _exported_norm_state(whole: LoadedModel, layer: int, asked: NormState) -> NormState:
    """What a model that ends there puts out: the same as asked where nothing, or only the last layer, is normed."""
    same = whole.backbone.final_norm is None or layer == whole.backbone.layers
    return asked if same else NormState.FINAL_NORM


def _whole_model_embeddings(
    run: _Run, whole: LoadedModel, layer: int, norm_state: NormState, pooling: Pooling
) -> tuple[np.ndarray, np.ndarray]:
    """Which test rows are checked, int [C] among the test rows, and the whole model's float32 [C, D] of them."""
    rows = min(CHECKED_ROWS, run.dataset.test_rows)
    checked = np.sort(np.random.default_rng(run.seed).permutation(run.dataset.test_rows)[:rows])
    with working("Embedding the checked rows with the whole model"):
        embedded = embed_texts(
            whole.backbone,
            whole.tokenizer,
            _test_texts(run, checked),
            poolings=[pooling],
            norm_states=[norm_state],
            max_length=run.settings.max_length,
            token_budget=run.settings.token_budget or 2_048,
            max_layer=layer,
        )
    return checked, embedded.states[norm_state, pooling][layer]


def _test_texts(run: _Run, rows: np.ndarray) -> list[str]:
    texts = read_table(run.dataset.uri)["text"][run.dataset.train_rows :]
    return texts.gather(rows).to_list()


def _features(layout: Layout, run: _Run, pooling: Pooling, norm_state: NormState, layer: int) -> Layer:
    """The layer's embeddings of every row: the run's own where they are kept, else made now and deleted again."""
    if norm_state in run.settings.norm_states and all(exists(uri) for uri in run.shards):
        return read_layer(run.shards, layer=layer, norm_state=norm_state.value, pooling=pooling.value)
    settings = replace(run.settings, poolings=(pooling,), norm_states=(norm_state,), max_layer=layer)
    with working("Planning the shards"):
        planned = plan_embedding_set(layout, run.dataset, run.model, settings)
    outcomes = []
    with progress_bar(Pace("Embedding", "rows", planned.rows)) as advance:
        for shard in planned.shards:
            outcome = embed_shard(layout, planned, shard, run.dataset, run.model, settings)
            outcomes.append(outcome)
            advance(
                shard.stop - shard.start,
                tokens=0 if outcome.reused else outcome.tokens,
                reused=outcome.reused,
            )
    uris = [outcome.uri for outcome in outcomes]
    features = read_layer(uris, layer=layer, norm_state=norm_state.value, pooling=pooling.value)
    # Read before they are deleted: on a disk, arrays may still be views of the files.
    features = replace(features, embeddings=features.embeddings.copy())
    delete_embeddings(outcomes)
    return features


def _fit_head(run: _Run, features: Layer) -> Probe:
    train = features.row_id < run.dataset.train_rows
    return fit_probe(
        features.embeddings[train],
        features.label[train],
        features.embeddings[~train],
        features.label[~train],
        seed=run.seed,
    )


def _audit_again(
    layout: Layout, run: _Run, probe: Probe, pooling: Pooling, asked: NormState, layer: int
) -> tuple[float, float, float, float]:
    """The head's accuracy less the audited one on the same test rows, its 95 % interval and p."""
    part = f"{pooling.value}-{asked.value}-{layer:03d}"
    audited = read_staged(layout, run.row["run_id"], "prediction", part).sort("row_id")
    label = audited["label"].to_numpy()
    found = compare(probe.predictions == label, audited["predicted"].to_numpy() == label, seed=run.seed)
    return found.difference, found.low, found.high, found.p_value


def _refuse_worse(
    layer: int,
    asked: NormState,
    norm_state: NormState,
    accuracy: float,
    difference: tuple[float, float, float, float],
) -> None:
    change, low, high, p = difference
    if high < 0:
        raise UserError(
            f"Layer {layer} was chosen as {asked.value}, but a model that ends there puts its states through its final "
            f"norm, and behind it the layer is worse: {percent(accuracy)} of test texts, {points(change)} points (95 % "
            f"interval {points(low)} to {points(high)}, {p_value(p)}). Sweep again with --norm-state "
            f"{norm_state.value}, which finds the layer that is best behind the norm, or export this one all the same "
            f"with --layer {layer}."
        )


def _probe_row(run: _Run, pooling: Pooling, norm_state: NormState, layer: int) -> dict[str, Any]:
    return (
        run.tables["probe"]
        .filter(pooling=pooling.value, norm_state=norm_state.value, layer=layer)
        .row(0, named=True)
    )


def _check(
    run: _Run,
    folder: Path,
    probe: Probe,
    checked: np.ndarray,
    expected: np.ndarray,
    pooling: Pooling,
    layer: int,
) -> dict[str, Any]:
    """Load the folder as anybody would, and hold its embeddings and labels against the whole model's."""
    device, trust = run.settings.device, run.settings.trust_remote_code
    texts = _test_texts(run, checked)
    cut, tokenizer = load_plain(folder, device, trust_remote_code=trust)
    embedded = plain_embeddings(cut, tokenizer, texts, pooling, run.settings.max_length)
    deviation = float(np.abs(embedded - expected).max() / np.abs(expected).max())
    if not deviation <= TOLERANCE:
        raise UserError(
            f"The {run.model.family!r} model cut after layer {layer} does not give the whole model's embeddings: they "
            f"differ by {deviation:.1e} of the largest value, so this family cannot be cut there. Nothing was written."
        )
    labels = probe.classes.tolist()
    names = [run.dataset.classes[label] for label in labels]
    predicted = load_classifier(folder).predict(embedded.astype(np.float64))
    fitted = np.array(names)[np.searchsorted(probe.classes, probe.predictions[checked])]
    original, _ = load_plain(Path(run.model.folder), device, trust_remote_code=trust)
    sizes = size_of(cut, folder), size_of(original, Path(run.model.folder))
    rates = measure_rates(original, cut, tokenizer, texts[:TIMED_ROWS], run.settings.max_length)
    return {
        "checked_rows": len(checked),
        "deviation": deviation,
        "agreement": float((predicted == fitted).mean()),
        "parameters": (sizes[0].parameters, sizes[1].parameters),
        "bytes": (sizes[0].bytes, sizes[1].bytes),
        "tokens_per_second": (rates.cut, rates.whole),
    }
