"""When each row is of, as numbers that can be put in order."""

from collections.abc import Mapping
from datetime import UTC, datetime

import polars as pl

from storage.errors import UserError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NUMBERS, DATES, AWARE = "numbers", "dates", "dates with a time zone"


def with_times(
    splits: Mapping[str, pl.DataFrame], columns: Mapping[str, pl.Series], where: str
) -> dict[str, pl.DataFrame]:
    """The splits with a column `time` of what their time column says: numbers as they are, dates in seconds since 1970.

    columns: of each split its time column, of numbers, dates, or texts that are all numbers or all dates of ISO 8601
    (`2024`, `2024-05`, `2024-05-17`, `2024-05-17T08:30`, with a time zone or without). Times are float64: a double
    tells microseconds apart for three hundred years around 1970.

    Raises:
        UserError: a row has no time, or one that cannot be read; or some are of another kind than others, which no
            order is known of.
    """
    found, kinds = {}, {}
    for split, rows in splits.items():
        kind, times = _times(columns[split], f"{split} of {where}")
        found[split] = rows.with_columns(time=times)
        kinds[kind] = split
    if len(kinds) > 1:
        told = " and ".join(f"{kind} in {split}" for kind, split in kinds.items())
        raise UserError(f"The times of {where} are {told}, and have no order. Write them all in one way.")
    return found


def _times(column: pl.Series, where: str) -> tuple[str, pl.Series]:
    """What the values are, and float64 [N]."""
    if missing := column.null_count() + _blank(column):
        raise UserError(f"{missing:,} rows in {where} are of no time. Give one to each, or leave them out.")
    kind = column.dtype
    if kind.is_numeric():
        times = column.cast(pl.Float64)
        if not times.is_finite().all():
            raise UserError(f"A time in {where} is not finite. Give each row one, or leave such rows out.")
        return NUMBERS, times
    if kind == pl.String:
        return _of_texts(column, where)
    if kind == pl.Date or isinstance(kind, pl.Datetime):
        aware = isinstance(kind, pl.Datetime) and kind.time_zone is not None
        moments = column.cast(pl.Datetime("us")) if kind == pl.Date else column
        return AWARE if aware else DATES, moments.dt.timestamp("us").cast(pl.Float64) / 1e6
    raise UserError(
        f"The times in {where} are {kind}, and no order is known of these. Name a column of dates or numbers."
    )


def _blank(column: pl.Series) -> int:
    return int((column.str.strip_chars() == "").sum()) if column.dtype == pl.String else 0


def _of_texts(column: pl.Series, where: str) -> tuple[str, pl.Series]:
    texts = column.str.strip_chars()
    numbers = texts.cast(pl.Float64, strict=False)
    are_numbers = numbers.is_finite().fill_null(False)
    if are_numbers.all():
        return NUMBERS, numbers
    kinds: dict[str, str] = {}
    read = []
    for text in texts:
        moment = _moment(text)
        if moment is None:
            odd = texts.filter(~are_numbers)[0] if 2 * are_numbers.sum() >= len(texts) else text
            raise UserError(
                f"{odd!r:.60} in {where} is no time that can be told for certain. Write dates as 2024-05-17 or "
                "2024-05-17T08:30, or all times as numbers."
            )
        kinds[DATES if moment.tzinfo is None else AWARE] = text
        read.append(_seconds(moment))
    if len(kinds) > 1:
        told = " and ".join(map(repr, kinds.values()))
        raise UserError(
            f"Of the times in {where} some have a time zone and some have none, such as {told}: they have no order. "
            "Write them all in one way."
        )
    return next(iter(kinds)), pl.Series(read, dtype=pl.Float64)


def _moment(text: str) -> datetime | None:
    """A date of ISO 8601, or its year and month alone; None of anything else."""
    digits = text.replace("-", "")
    month = f"{text}-01" if len(text) == 7 and len(digits) == 6 and digits.isdecimal() else text
    try:
        return datetime.fromisoformat(month)
    except ValueError:
        return None


def _seconds(moment: datetime) -> float:
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (aware - _EPOCH).total_seconds()
