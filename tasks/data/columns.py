"""Which columns of a source hold text and label, and their rows without what no sweep can use."""

import logging
from collections.abc import Sequence

import polars as pl

from storage.errors import UserError
from tasks.data.labels import are_plain_integers, label_values
from tasks.data.reading import Read
from tasks.data.targets import read_targets
from tasks.vocabulary import Task

log = logging.getLogger(__name__)

# Tried in this order when no column is named.
TEXT_COLUMNS = ("text", "sentence", "content", "document", "review", "tweet", "question", "body", "title")
LABEL_COLUMNS = ("label", "labels", "category", "class", "target", "intent", "topic", "author")
_UNNAMED = pl.lit(None, dtype=pl.String)


def shared_columns(read: Read) -> list[str]:
    """The columns that every split has, in the order of train."""
    shared = [set(frame.columns) for frame in read.splits.values()]
    return [name for name in read.splits["train"].columns if all(name in columns for columns in shared)]


def find_column(role: str, asked: str | None, known: tuple[str, ...], columns: list[str], spec: str) -> str:
    there = f"Its columns are: {', '.join(columns) or 'none'}."
    if asked is not None:
        if asked not in columns:
            raise UserError(f"{spec} has no column {asked!r} in every split (--{role}-column). {there}")
        return asked
    # Under its very name first: `text` beside `Text` is what was meant.
    by_name: dict[str, list[str]] = {}
    for column in columns:
        by_name.setdefault(column.lower(), []).append(column)
    found = next((by_name[name] for name in known if name in by_name), None)
    if found is None:
        # What nobody calls a column is a value.
        headless = any(" " in column or column.isdigit() for column in columns)
        raise UserError(
            f"Which column of {spec} is the {role}? Say --{role}-column NAME. {there}"
            + (" If these are values of its first row, write a line with names above it." if headless else "")
        )
    if len(found) > 1:
        plain = [name for name in found if name == name.lower()]
        if not plain:
            raise UserError(
                f"Both {' and '.join(found)} of {spec} may be the {role}. Say --{role}-column NAME."
            )
        found = plain
    return found[0]


def clean(
    frame: pl.DataFrame, text: Sequence[str], joined_by: str, label: Sequence[str], task: Task, where: str
) -> pl.DataFrame:
    """The columns `text` and `value` (the label as it is written, null without one), `name` where the source has it.

    Of labels that are not one class, `target` as `read_targets` gives it, and `value` says whether there is one.

    text: of a data set without a text column, whose texts are empty then, none.
    """
    columns = [_texts(frame, each, where) for each in text]
    if len(columns) == 1:
        (texts,) = columns
    elif columns:
        numbered = pl.DataFrame({str(number): each for number, each in enumerate(columns)})
        texts = numbered.select(pl.concat_str(pl.all(), separator=joined_by)).to_series()
    else:
        texts = pl.repeat("", frame.height, dtype=pl.String, eager=True)
    if task is not Task.SINGLE_LABEL:
        target = read_targets([frame[each] for each in label], task, where)
        there = pl.select(pl.when(target.is_not_null()).then(pl.lit(""))).to_series()
        return pl.DataFrame({"text": texts, "value": there, "target": target}).with_columns(name=_UNNAMED)
    if len(label) > 1:
        raise UserError(
            f"A text has one class, and {len(label)} label columns were named ({', '.join(label)}). Name one, or leave "
            "--task out."
        )
    values = label_values(frame[label[0]], where)
    rows = pl.DataFrame({"text": texts, "value": values})
    companion = f"{label[0]}_name"
    if frame.schema.get(companion) == pl.String and are_plain_integers(values.drop_nulls()):
        return rows.with_columns(name=frame[companion])
    return rows.with_columns(name=_UNNAMED)


def check_pair(text: Sequence[str], spec: str, *, of_saved_states: bool) -> None:
    """Raises UserError where the features of pairs (--text-pairs) cannot be had of these columns."""
    if of_saved_states:
        raise UserError(
            "--text-pairs features embeds both texts of a row, and saved states have one embedding a row: no model "
            "runs. Leave it out; states that are such features already are swept as they are."
        )
    if len(text) != 2:
        named = ", ".join(text) or "none"
        raise UserError(
            f"--text-pairs features takes the two texts of a row from two columns, and of {spec} the text columns are "
            f"{named}. Name two, --text-column ONE --text-column OTHER, or leave --text-pairs out."
        )
    if text[0] == text[1]:
        raise UserError(
            f"--text-pairs features compares the texts of two columns, and {text[0]!r} was named as both "
            "(--text-column). Name another beside it."
        )


def pair_of(frame: pl.DataFrame, text: Sequence[str]) -> pl.Series:
    """The texts of two columns that `clean` has read, List(String) of two a row."""
    return frame.select(pl.concat_list(text)).to_series()


def _texts(frame: pl.DataFrame, text: str, where: str) -> pl.Series:
    texts = frame[text]
    if texts.dtype != pl.String:
        kind = "of lists or objects" if texts.dtype == pl.Object else texts.dtype
        raise UserError(f"Column {text!r} in {where} is {kind}, not text. Name another --text-column.")
    reject_rows(
        texts.to_frame("text"),
        pl.col("text").str.strip_chars().fill_null("") == "",
        f"an empty text (column {text!r})",
        where,
    )
    if len(texts) and texts.str.contains(r"^\s*[-+]?[\d.,]+\s*$").all():
        raise UserError(
            f"Column {text!r} in {where} holds numbers alone, not text. Name another --text-column."
        )
    return texts


def labelled(splits: dict[str, pl.DataFrame], label: str, spec: str) -> dict[str, pl.DataFrame]:
    """The splits but those where no row has a label: benchmarks keep those of their test rows to themselves."""
    kept = {}
    for split, rows in splits.items():
        if split != "train" and rows.height and rows["value"].is_null().all():
            log.warning("No row in %s of %s has a label (column %r): it is left out", split, spec, label)
            continue
        reject_rows(rows, pl.col("value").is_null(), f"no label (column {label!r})", f"{split} of {spec}")
        kept[split] = rows
    return kept


def reject_rows(rows: pl.DataFrame, bad: pl.Expr, what: str, where: str) -> None:
    """`UserError` that names the first of the rows that are bad."""
    numbers = rows.with_row_index("row").filter(bad)["row"]
    if len(numbers):
        raise UserError(
            f"Row {numbers[0] + 1:,} in {where} has {what}; {len(numbers):,} of {rows.height:,} rows do. "
            "Remove or fill these rows."
        )
