"""What a labelled text set is like, and what about it would make an answer worth less: seen before any cost is paid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.data.tagged_words import text_rows
from tasks.embedding.text_pairs import texts_of

FEW_ROWS = 5
"""A class with fewer train rows is never held out when the probe's penalty is chosen."""
FEW_TEST_ROWS = 100
LOPSIDED = 0.8
FEW_COUNT = 0.5
"""Of the train rows, by their weights."""
MUCH_CUT = 0.1


@dataclass(frozen=True)
class Lengths:
    """Of all texts, in `unit`: tokens of the model that is to be used, or characters."""

    unit: str
    median: float
    p95: float
    longest: int
    cut_share: float | None
    """Share of the texts, 0–1, that are longer than the maximum length; None where that is not in this unit."""


@dataclass(frozen=True)
class Inspection:
    """Texts are the same here if they differ in case and white space alone."""

    classes: pl.DataFrame
    """One row a class, in the order of the labels: class, train, test (rows), share (of train rows, 0–1)."""
    train_rows: int
    test_rows: int
    lengths: Lengths | None
    """None of a data set without texts, which has no repeats and leaks either."""
    repeated: int
    """Train rows whose text stands in an earlier train row."""
    contradicted: int
    """Train rows whose text also has another label in train."""
    leaked: int
    """Test rows whose text stands in train."""
    counting_rows: float
    """So many train rows of equal weight have a mean as sure as theirs: (Σw)² / Σw² (Kish 1965)."""


def inspect_table(
    table: pl.DataFrame,
    classes: Sequence[str],
    *,
    token_counts: npt.NDArray[np.integer] | None = None,
    max_length: int | None = None,
) -> Inspection:
    """Count classes, lengths, duplicates and leaks of a table `text, label, split`; of words all but the classes are of
    their texts; of text pairs lengths are each text's.

    token_counts: int [N], of the texts before any cut, where a model is known; max_length: the tokens that are read.
    """
    has_texts = bool((table["text"] != "").any())
    by_class = pl.DataFrame(
        {
            "class": list(classes),
            "train": _count(table.filter(split="train"), len(classes)),
            "test": _count(table.filter(split="test"), len(classes)),
        }
    ).with_columns(share=pl.col("train") / pl.col("train").sum())
    if "text_id" in table.columns:
        table = text_rows(table)
    rows = table.select("label", "split", words=_words() if has_texts else pl.int_range(pl.len()))
    train, test = (rows.filter(split=split) for split in ("train", "test"))
    weights = table.filter(split="train")["weight"].to_numpy() if "weight" in table.columns else None
    labels_of = train.group_by("words").agg(pl.col("label").n_unique().alias("labels"), pl.len())
    return Inspection(
        classes=by_class,
        train_rows=train.height,
        test_rows=test.height,
        lengths=_lengths(table, token_counts, max_length) if has_texts else None,
        repeated=train.height - labels_of.height,
        contradicted=int(labels_of.filter(pl.col("labels") > 1)["len"].sum()),
        leaked=test.join(train.select("words").unique(), on="words", how="semi").height,
        counting_rows=train.height if weights is None else weights.sum() ** 2 / (weights**2).sum(),
    )


def warnings_of(
    found: Inspection,
    *,
    test_is_made: bool,
    time_column: str | None = None,
    group_column: str | None = None,
) -> list[str]:
    """What to know or mend before a sweep, a sentence each, the gravest first; empty where nothing is."""
    said = []
    if found.leaked:
        said.append(
            f"{found.leaked:,} of {found.test_rows:,} test rows have a text that is in train too: accuracies will be "
            "too high. Remove them from one of the two."
        )
    if found.contradicted:
        said.append(
            f"{found.contradicted:,} train rows share their text with a row of another label: no model can tell them "
            "apart. Decide for one label, or remove them."
        )
    if found.repeated:
        said.append(
            f"{found.repeated:,} train row{' repeats' if found.repeated == 1 else 's repeat'} an earlier text, which "
            "counts twice in every silhouette, and whose ridge accuracy is too high. Keep one of each."
        )
    rare = found.classes.filter(pl.col("train") < FEW_ROWS)
    if rare.height:
        said.append(
            f"{_named(rare)} {'has' if rare.height == 1 else 'have'} fewer than {FEW_ROWS} train rows: too few to be "
            "scored well (a class of one row has silhouette 0). Add rows, merge classes, or live with it."
        )
    untested = found.classes.filter(pl.col("test") == 0)
    if untested.height:
        said.append(
            f"{_named(untested)} {'has' if untested.height == 1 else 'have'} no test row: no accuracy covers it."
        )
    if found.test_rows < FEW_TEST_ROWS:
        half = 100 * 1.96 * 0.5 / found.test_rows**0.5
        said.append(
            f"{found.test_rows:,} test rows are few: an accuracy near 50 % is known to ± {half:.0f} points only, so "
            "most layers will be level within noise."
        )
    if found.counting_rows < FEW_COUNT * found.train_rows:
        said.append(
            f"Weights differ so much that {found.train_rows:,} train rows tell no more than {found.counting_rows:,.0f} "
            "of equal weight would: look for single rows of great weight."
        )
    largest = found.classes.sort("train", descending=True).row(0, named=True)
    if largest["share"] > LOPSIDED:
        said.append(
            f"{100 * largest['share']:.0f} % of the train rows are {largest['class']!r}: always naming it is right "
            "that often, so look at macro F1 beside accuracy."
        )
    cut = None if found.lengths is None else found.lengths.cut_share
    if cut is not None and cut > MUCH_CUT:
        said.append(
            f"{100 * cut:.0f} % of the texts are longer than the maximum length and will be cut. Raise --max-length, "
            "or read them whole with --long-texts split."
        )
    if test_is_made:
        part = "a seeded stratified fifth of the rows becomes"
        if group_column is not None:
            part = "whole groups, about a fifth of the rows, become"
        if time_column is not None:
            part = "the latest fifth of the rows becomes"
        said.append(f"There is no test split: {part} one.")
    if time_column is not None:
        said.append(
            "Within train, a row that is left out is judged by all others, later ones too: test rows alone tell what a "
            "layer is worth on what is yet to come."
        )
    return said


def _words() -> pl.Expr:
    return pl.col("text").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


def _count(rows: pl.DataFrame, classes: int) -> list[int]:
    return np.bincount(rows["label"].to_numpy(), minlength=classes).tolist()


def _lengths(
    table: pl.DataFrame, token_counts: npt.NDArray[np.integer] | None, max_length: int | None
) -> Lengths:
    if token_counts is None:
        texts = pl.Series("text", texts_of(table))
        counts, unit, cut = texts.str.len_chars().to_numpy(), "characters", None
    else:
        counts, unit = token_counts, "tokens"
        cut = None if max_length is None else float((counts > max_length).mean())
    return Lengths(unit, float(np.median(counts)), float(np.quantile(counts, 0.95)), int(counts.max()), cut)


def _named(classes: pl.DataFrame) -> str:
    names = classes["class"].to_list()
    some = ", ".join(repr(name) for name in names[:5])
    return some + (f" and {len(names) - 5} more classes" if len(names) > 5 else "")
