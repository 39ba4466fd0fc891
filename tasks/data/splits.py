"""Which rows are train and which are test: the source's word, a column's, or a seeded stratified part."""

import numpy as np
import polars as pl

from storage.errors import UserError
from tasks.data.reading import SPLIT_NAMES

# The share of rows that becomes `test` where a data set brings none.
TEST_SHARE = 0.2
# Fewer rows of a class tell nothing about it: a silhouette needs a neighbour of the same class.
LEAST_ROWS_PER_CLASS = 2
# Of one alone on a side nothing is left out, and no interval is drawn.
LEAST_GROUPS = 2


def by_split_column(rows: pl.DataFrame, where: str) -> dict[str, pl.DataFrame]:
    """Rows with a column `split` as one frame a split, in any of its usual names and any case.

    Raises:
        UserError: a row says none of them, or none says train.
    """
    known = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    said = rows["split"].str.strip_chars().str.to_lowercase()
    strange = rows["split"].filter(~said.is_in(list(known)) | said.is_null()).unique().to_list()
    if strange:
        named = ", ".join(repr(each) for each in sorted(strange, key=str)[:5])
        raise UserError(f"A row of {where} is of {named}, and rows are of {', '.join(known)}.")
    splits = said.replace_strict(known, return_dtype=pl.String)
    found = {split: rows.filter(splits == split).drop("split") for split in SPLIT_NAMES}
    if found["train"].is_empty():
        raise UserError(f"No row of {where} is of train.")
    return {split: frame for split, frame in found.items() if frame.height}


def split_rows(splits: dict[str, pl.DataFrame], seed: int, where: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Train (with validation) and test; a seeded stratified test part is cut where there is none.

    Where rows have a column `group`, no group is on both sides. Where they have a column `time`, both are in its order,
    no row of test is earlier than one of train, and the part that is cut is the latest rows.

    Raises:
        UserError: a row has no group, the splits share one, or there are too few for LEAST_GROUPS on both sides, or no
            class has two rows; a row of test is earlier than one of train, or all are of one time.
    """
    train = pl.concat([splits[name] for name in ("train", "validation") if name in splits])
    test = splits.get("test")
    if "time" in train.columns:
        return _by_time(train, test, where)
    if "group" in train.columns:
        _check_groups(train, test, where)
    if test is not None:
        return train, test
    if "group" in train.columns:
        return _by_groups(train, seed, where)
    quantiles = _quantiles(train, seed)
    # A class keeps its first rows for train, so that none of them stands in test alone.
    kept = (pl.col("quantile") < 1 - TEST_SHARE) | (pl.col("rank") < LEAST_ROWS_PER_CLASS)
    return quantiles.filter(kept).select(train.columns), quantiles.filter(~kept).select(train.columns)


def _check_groups(train: pl.DataFrame, test: pl.DataFrame | None, where: str) -> None:
    for rows in (train, *([] if test is None else [test])):
        if missing := rows["group"].null_count():
            raise UserError(f"{missing:,} rows of {where} are of no group. Name one for each of them.")
    if test is None:
        count = train["group"].n_unique()
        if count < 2 * LEAST_GROUPS:
            raise UserError(
                f"{where} has {count} {'group' if count == 1 else 'groups'}, and train and test take {LEAST_GROUPS} "
                "each, so that four are the least. Name a column of more groups, or leave --group-column out."
            )
        return
    shared = sorted(set(train["group"]) & set(test["group"]))
    if shared:
        raise UserError(
            f"{len(shared):,} groups of {where} stand in train and in test, such as {shared[0]!r}: accuracies would be "
            "too high. Leave them out of one of the two."
        )


def _by_time(train: pl.DataFrame, test: pl.DataFrame | None, where: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both in order of time; as test the rows from that time on that leaves it nearest to TEST_SHARE of the rows."""
    train = train.sort("time", maintain_order=True)
    if test is not None:
        test = test.sort("time", maintain_order=True)
        later = train.filter(pl.col("time") > test["time"].min()).height
        if later:
            raise UserError(
                f"{later:,} train rows of {where} are later than the first test row, so that what comes after it would "
                "be known. Leave them out, or leave --time-column out to take the splits as they are."
            )
        return train, test
    times = train["time"].to_numpy()
    begins = np.flatnonzero(times[1:] != times[:-1]) + 1  # where a later time does
    if not len(begins):
        raise UserError(f"All rows of {where} are of one time, so that none is later than others, for test.")
    first = int(begins[np.abs(begins - (1 - TEST_SHARE) * len(times)).argmin()])
    return train[:first], train[first:]


def check_sides(train: pl.DataFrame, test: pl.DataFrame, column: str, where: str) -> None:
    """`UserError` where one side has rows of one group alone; without a column `group` each row is one, a text.

    column: of the groups, or of the words of a text.
    """
    for side, rows in (("train", train), ("test", test)):
        raised = f"raise --max-{side}-rows if it is set"
        if "group" not in rows.columns:
            if rows.height == 1:
                raise UserError(
                    f"{side} of {where} has one text, and texts are left out whole, and intervals are over texts: at "
                    f"least two are needed in train and in test (column {column!r}). Add texts, part that one, or "
                    f"{raised}."
                )
        elif rows["group"].n_unique() == 1:
            raise UserError(
                f"All {side} rows of {where} (--group-column {column}) are of the group {rows['group'][0]!r}, and "
                "groups are left out whole, and intervals are over groups: at least two are needed in train and in "
                f"test. Add rows of others, {raised}, or leave --group-column out."
            )


def _by_groups(rows: pl.DataFrame, seed: int, where: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Whole groups of about TEST_SHARE of the rows as test, the classes about as they are in all.

    Few groups make a larger part, for LEAST_GROUPS on both sides, and so do classes of fewer rows than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import

    value, group = rows["value"].to_numpy(), rows["group"].to_numpy()
    most = rows["value"].value_counts()["count"].to_numpy().max()
    if most < LEAST_ROWS_PER_CLASS:
        raise UserError(
            f"No class of {where} has two rows, so that none can be in train and in test. Name another --label-column, "
            "or add rows."
        )
    groups = rows["group"].n_unique()
    # A fold gets a group before another gets its second: three folds of four groups or more are always enough. Classes
    # too rare for three are parted without a look at them.
    for strata, most_folds in ((value, min(groups, most)), (np.zeros(len(value)), groups)):
        for folds in range(min(round(1 / TEST_SHARE), most_folds), 1, -1):
            parted = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(rows, strata, group)
            for each in parted:
                train, test = (rows[side] for side in each)
                if min(train["group"].n_unique(), test["group"].n_unique()) >= LEAST_GROUPS:
                    return train, test
    raise AssertionError("fewer than four groups")


def stratified_sample(
    rows: pl.DataFrame, most: int | None, seed: int, *, in_turn: bool = False
) -> pl.DataFrame:
    """At most `most` rows, each class in proportion and at least 2 rows of it, in their old order.

    Every row gets its quantile within its class after a seeded shuffle; the smallest quantiles are taken.

    in_turn: in the order in which they are taken instead, so that the first n of them are the sample of n.

    Raises:
        UserError: `most` is too small for 2 rows of every class.
    """
    if most is not None and most < rows.height:
        least = int(rows.group_by("value").len()["len"].clip(upper_bound=LEAST_ROWS_PER_CLASS).sum())
        if most < least:
            raise UserError(
                f"{most:,} rows are too few for {rows['value'].n_unique():,} classes: {least:,} are the least that "
                f"keep {LEAST_ROWS_PER_CLASS} rows of each. Raise --max-train-rows and --max-test-rows, or leave them "
                "out."
            )
    elif not in_turn:
        return rows
    order = _quantiles(rows, seed).with_row_index("position")
    taken = order.sort(pl.col("rank") >= LEAST_ROWS_PER_CLASS, "quantile", "position").head(
        most or rows.height
    )
    return (taken if in_turn else taken.sort("position")).select(rows.columns)


def _quantiles(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Each row's rank within its class after a seeded shuffle, and the share of the class before it."""
    shuffled = np.random.default_rng(seed).permutation(rows.height)
    return rows.with_columns(key=pl.Series(shuffled)).with_columns(
        rank=pl.col("key").rank("ordinal").over("value").cast(pl.Int64) - 1,
        quantile=(pl.col("key").rank("ordinal").over("value") - 0.5) / pl.len().over("value"),
    )
