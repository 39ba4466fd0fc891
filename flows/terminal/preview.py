"""Looking before paying: what a data set is like, and what a sweep of it will cost. No server, nothing stored."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.parameters import SweepParameters
from flows.race import settle_race
from flows.running.progress import duration, working
from flows.running.slots import plan_slots
from flows.search_parameters import SearchParameters
from flows.settled import check_task, scoring_of, settings_of
from flows.terminal.query_rows import printable
from storage.errors import UserError
from storage.layout import Layout
from storage.results import check_database
from storage.sources.states import are_saved_states
from tasks.choosing.race import step_sizes
from tasks.data.dataset import Dataset, read_dataset
from tasks.embedding.embed import check_layers
from tasks.embedding.lengths import STEPS, counted_rows, covering, positions_of
from tasks.embedding.model import SAVED_STATES, ModelFolder, resolve_model
from tasks.embedding.prompts import resolve_prompt
from tasks.embedding.row_tokens import uncut_texts
from tasks.embedding.saved_states import open_states
from tasks.embedding.settings import Settings, resolve_settings
from tasks.embedding.states_set import check_states
from tasks.embedding.text_pairs import FORMULA, row_width, texts_a_row
from tasks.preview.forecast import Forecast, count_tokens, forecast_scoring, forecast_sweep
from tasks.preview.inspection import Inspection, Lengths, inspect_table, warnings_of
from tasks.preview.refusal import refuse_early
from tasks.reporting.answer import one_line
from tasks.scoring.criteria import check_criteria
from tasks.vocabulary import AskedTask, LongTexts, Task, TextPairs

MOST_CLASSES_SHOWN = 30


def show_inspection(
    dataset: str | None,
    *,
    text_column: Sequence[str],
    joined_by: str,
    text_pairs: TextPairs = "joined",
    label_column: Sequence[str],
    task: AskedTask = "auto",
    split_column: str | None = None,
    group_column: str | None = None,
    time_column: str | None = None,
    weight_column: str | None = None,
    encoding: str | None,
    model: str | None,
    max_length: int | None,
) -> None:
    """Print classes, lengths, duplicates and leaks of a data set, and what to mend before a sweep; or saved states.

    Raises:
        UserError: either cannot be read, or saved states are not of the data set's rows.
    """
    console = Console(highlight=False)
    saved = model is not None and are_saved_states(model)
    if model is not None and saved:
        with working("Reading the saved states"):
            states = resolve_model(model)
        _show_states(console, states)
    if dataset is None:
        if not saved:
            raise UserError(
                "There is nothing to look at: name a data set (--dataset), or saved states (--model)."
            )
        return
    with working("Reading the data set"):
        found, table = read_dataset(
            dataset,
            Layout(""),
            text_column=text_column,
            joined_by=joined_by,
            text_pairs=text_pairs,
            label_column=label_column,
            task=task,
            split_column=split_column,
            group_column=group_column,
            time_column=time_column,
            weight_column=weight_column,
            encoding=encoding,
            of_saved_states=saved,
        )
        tokens = None
        if model is not None and saved:
            check_states(states, table["place"].to_numpy(), found.source_rows)
        elif model is not None:
            folder = resolve_model(model, weights=False)
            tokens = count_tokens(folder, uncut_texts(table))
            max_length = max_length or covering(tokens[counted_rows(len(tokens))], positions_of(folder))
        seen = inspect_table(table, found.classes, token_counts=tokens, max_length=max_length)
    _show_dataset(console, found, seen)
    _show_warnings(console, found, seen)


def show_plan(parameters: SweepParameters) -> None:
    """Print what a sweep with these parameters would do and cost, and run nothing."""
    check_criteria(parameters.criterion)
    layout = Layout(parameters.storage)
    check_database(layout.results)
    trust = parameters.trust_remote_code
    with working("Reading the data set and the model's configuration"):
        dataset, table = read_dataset(parameters.dataset, layout, **parameters.rows_asked)
        check_task(parameters, dataset)
        as_asked = parameters.rows_asked
        parameters = settle_race(parameters, dataset)
        if parameters.rows_asked != as_asked:
            dataset, table = read_dataset(parameters.dataset, layout, **parameters.rows_asked)
        model = resolve_model(parameters.model, trust_remote_code=trust, weights=False)
        if model.is_saved_states:
            check_layers(SAVED_STATES, model.layers, False, parameters.norm_state, parameters.max_layer)
            check_states(model, table["place"].to_numpy(), dataset.source_rows)
            _plan_of_states(dataset, table, model, parameters)
            return
        prompt = resolve_prompt(parameters.prompt, dataset, model, trust_remote_code=trust)
        tokens = count_tokens(
            model,
            uncut_texts(table),
            max_length=parameters.length_asked or STEPS[-1],
            prompt=prompt,
            trust_remote_code=trust,
        )
        length = parameters.length_asked or covering(
            tokens[counted_rows(len(tokens))], positions_of(model, trust_remote_code=trust)
        )
        asked = settings_of(parameters, prompt, length)
        settings = resolve_settings(asked, model)
        refuse_early(model, settings, tokens.reshape(-1, texts_a_row(table)).max(axis=1))
        plan = forecast_sweep(layout, dataset, model, settings, tokens)
        cut = length if settings.long_texts is LongTexts.CUT else None
        seen = inspect_table(table, dataset.classes, token_counts=tokens, max_length=cut)
        size = plan.parameters * getattr(torch, settings.dtype).itemsize
        there = None if parameters.runner_address else plan_slots(model, settings, parameters.runner, size)
    # On a CPU all cores work whatever the slots; of several GPUs each takes a part.
    parts = 1 if there is None or settings.device == "cpu" else len(there.slots)
    layers = (parameters.max_layer or model.layers) + 1
    scored = layers * len(settings.poolings) * len(settings.norm_states)
    with working("Scoring a made-up layer to see how long it takes"):
        scoring = forecast_scoring(dataset, row_width(dataset, model), scored, scoring_of(parameters))
    console = Console(highlight=False)
    _rows(
        console,
        [
            ("model", f"{model.id}: {model.family}, {model.layers} blocks, {plan.parameters:,} parameters"),
            ("data set", f"{dataset.id}: {dataset.train_rows:,} train and {dataset.test_rows:,} test rows"),
            *_classes(dataset),
            *_pairs(dataset),
            *([] if settings.prompt is None else [("prompt", one_line(settings.prompt))]),
            (
                "texts",
                _lengths(plan, settings) + ("" if parameters.length_asked else " (--max-length auto)"),
            ),
            ("plan", f"{settings.dtype} on {settings.device}, {_shards(plan)}"),
            *([("slots", there.words)] if there is not None and there.words else []),
            ("embedding", f"about {duration(plan.seconds / parts)} ({plan.basis})"),
            ("scoring", f"about {duration(scoring)} ({scored:,} layers, each as long as a made-up one)"),
            ("bytes", f"{plan.bytes:,} of embeddings{_free(parameters.storage, plan.bytes)}"),
            *_steps(parameters, dataset),
        ],
    )
    _show_warnings(console, dataset, seen)
    console.print("Nothing was run: leave out --dry-run to sweep.")


def show_plans(parameters: SearchParameters) -> None:
    """`show_plan` of each prompt; one that cannot be is left out, as the search would leave it out.

    Raises:
        UserError: none can be; what the first says.
    """
    failed: list[UserError] = []
    for each in parameters.sweeps():
        try:
            show_plan(each)
        except UserError as error:
            failed.append(error)
            console = Console(highlight=False)
            console.print(Text(printable(f"{one_line(each.prompt)} is left out: {error}")), soft_wrap=True)
    if len(failed) == len(parameters.prompts):
        raise failed[0]


def _classes(dataset: Dataset) -> list[tuple[str, str]]:
    return [] if dataset.task is Task.REGRESSION else [("classes", f"{len(dataset.classes)}")]


def _lengths(plan: Forecast, settings: Settings) -> str:
    """How many tokens are read, and what becomes of long texts."""
    if settings.long_texts is LongTexts.CUT:
        return f"{plan.tokens:,} tokens, {plan.cut_share:.1%} of the texts cut at {settings.max_length}"
    more = plan.tokens / max(plan.tokens - plan.split_tokens, 1)
    return (
        f"{plan.tokens:,} tokens, {plan.split_share:.1%} of the texts in windows of {settings.max_length}: "
        f"{more:.2f} times as many as cut"
    )


def _steps(parameters: SweepParameters, dataset: Dataset) -> list[tuple[str, str]]:
    """How far a race may go; the rest of the plan is that of its last step."""
    if not parameters.races:
        return []
    audited = (
        "" if parameters.max_test_rows is not None else ", judged by as many test rows as the interval takes"
    )
    steps = step_sizes(dataset.train_rows, len(dataset.classes))
    least = steps[0] if parameters.budget is not None else steps[:2][-1]
    sizes = ", ".join(f"{size:,}" for size in steps)
    return [
        ("at least", f"{least:,} of {dataset.train_rows:,} train rows, and test rows"),
        (
            "at most",
            f"all of that: in steps of {sizes} train rows, until {parameters.until_confident:.0%} sure{audited}",
        ),
    ]


def _plan_of_states(
    dataset: Dataset, table: pl.DataFrame, model: ModelFolder, parameters: SweepParameters
) -> None:
    layers = (parameters.max_layer or model.layers) + 1
    size = 2 if parameters.storage_dtype == "float16" else 4
    needed = table.height * layers * model.hidden_size * size
    with working("Scoring a made-up layer to see how long it takes"):
        scoring = forecast_scoring(dataset, model.hidden_size, layers, scoring_of(parameters))
    console = Console(highlight=False)
    _show_states(console, model)
    _rows(
        console,
        [
            ("data set", f"{dataset.id}: {dataset.train_rows:,} train and {dataset.test_rows:,} test rows"),
            *_classes(dataset),
            ("scoring", f"about {duration(scoring)} ({layers:,} layers, each as long as a made-up one)"),
            ("bytes", f"{needed:,} of embeddings{_free(parameters.storage, needed)}"),
        ],
    )
    _show_warnings(console, dataset, inspect_table(table, dataset.classes))
    console.print("Nothing was run: leave out --dry-run to sweep.")


def _show_states(console: Console, model: ModelFolder) -> None:
    with open_states(Path(model.folder), model.id) as states:
        keyed = "in the order of the data set" if states.row_id is None else "keyed by row_id"
        _rows(
            console,
            [
                ("states", model.id),
                (
                    "layers",
                    f"{states.layers:,} (0 to {states.layers - 1}) of {states.width:,} features, {states.kind}",
                ),
                ("rows", f"{states.rows:,}, {keyed}"),
                ("revision", model.revision),
            ],
        )


def _show_dataset(console: Console, dataset: Dataset, seen: Inspection) -> None:
    lengths = seen.lengths
    _rows(
        console,
        [
            ("data set", dataset.id),
            ("columns", f"text: {dataset.text_column or 'none'}, label: {dataset.label_column}"),
            *_pairs(dataset),
            *([] if dataset.task is Task.SINGLE_LABEL else [("task", _task(dataset))]),
            ("rows", _counted(dataset, seen)),
            *([] if lengths is None else _of_texts(seen, lengths)),
        ],
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("class", "train", "test", "share of train"):
        table.add_column(heading, justify="left" if heading == "class" else "right", overflow="fold")
    for row in seen.classes.head(MOST_CLASSES_SHOWN).iter_rows(named=True):
        table.add_row(
            Text(printable(row["class"])), f"{row['train']:,}", f"{row['test']:,}", f"{row['share']:.1%}"
        )
    console.print()
    console.print(table)
    if seen.classes.height > MOST_CLASSES_SHOWN:
        console.print(f"… and {seen.classes.height - MOST_CLASSES_SHOWN} more classes")


def _counted(dataset: Dataset, seen: Inspection) -> str:
    if dataset.words is None:
        return f"{seen.train_rows:,} train, {seen.test_rows:,} test"
    return (
        f"{dataset.train_rows:,} words of {seen.train_rows:,} texts train, {dataset.test_rows:,} words of "
        f"{seen.test_rows:,} texts test"
    )


def _pairs(dataset: Dataset) -> list[tuple[str, str]]:
    """That each text of a row is embedded by itself, where it is."""
    if dataset.text_pairs == "joined":
        return []
    return [("text pairs", f"each text by itself; a row is {FORMULA}")]


def _task(dataset: Dataset) -> str:
    """What labels tell, and what the classes below are then."""
    if dataset.words is not None:
        return f"{dataset.task.value}; the classes are tags of words, and rows are words"
    told = f"of {len(dataset.target_names)} labels" if dataset.target_names else "of a number"
    made = "sets of labels" if dataset.target_names else "parts of the numbers"
    return f"{dataset.task.value} {told}; the classes are {made}, for silhouettes and strata alone"


def _of_texts(seen: Inspection, lengths: Lengths) -> list[tuple[str, str]]:
    return [
        (
            "lengths",
            f"median {lengths.median:,.0f} {lengths.unit}, 95 % up to {lengths.p95:,.0f}, "
            f"longest {lengths.longest:,}",
        ),
        ("duplicates", f"{seen.repeated:,} in train, {seen.contradicted:,} with another label"),
        (
            "leaks",
            f"{seen.leaked:,} test text{' that is' if seen.leaked == 1 else 's that are'} in train too",
        ),
    ]


def _show_warnings(console: Console, dataset: Dataset, seen: Inspection) -> None:
    console.print()
    by = {"time_column": dataset.time_column, "group_column": dataset.group_column}
    for sentence in warnings_of(seen, test_is_made=dataset.test_is_made, **by):
        console.print(Text.assemble(("note ", "yellow"), printable(sentence)), soft_wrap=True)


def _rows(console: Console, rows: list[tuple[str, str]]) -> None:
    for name, value in rows:
        console.print(Text.assemble((f"{name:<11}", "bold"), printable(value)), soft_wrap=True)


def _shards(plan: Forecast) -> str:
    there = f", {plan.shards_done} of them there already" if plan.shards_done else ""
    return f"{plan.shards:,} shard{'' if plan.shards == 1 else 's'}{there}"


def _free(storage: str, needed: int) -> str:
    if "://" in storage:
        return ""
    folder = Path(storage).absolute()
    free = shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free
    enough = "" if free > needed else ", which is too little: see --storage, --storage-dtype, --pooling"
    return f" ({free:,} free{enough})"
