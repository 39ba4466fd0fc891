"""What the words alone tell, without any model: what an embedding has to beat to be worth its cost."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from prefect import task
from scipy.sparse import csr_matrix

from storage.layout import Layout
from storage.staged import is_staged, rows_of, stage
from tasks.data.dataset import Dataset
from tasks.data.splits import stratified_sample
from tasks.data.stored_table import read_table, targets_of
from tasks.data.units import read_units
from tasks.numerics.proportion import wilson_interval
from tasks.retries import LONG_S, RETRIED
from tasks.scoring.ridge import TEMPERATURES
from tasks.scoring.target import Target, fit_decision_rule, interval, judge, right_of_none
from tasks.vocabulary import Task

STRENGTHS = (1.0, 10.0, 100.0)
"""scikit-learn's C, the weakest penalty last; the one with the lowest held-out log loss is taken."""
RIDGES = (0.1, 1.0, 10.0)
"""The same of ridge regression: scikit-learn's alpha."""
HELD_OUT = 0.2
"""Share of the train rows that choose among them."""
MOST_ROWS = 50_000
"""Train rows that are read; of more, so many drawn by class: more words tell little more, and cost minutes."""
MOST_TURNS = 10_000
"""Over the rows, of a fit; the weakest penalty takes some hundred."""
_PREDICTION = {"row_id": pl.Int64, "label": pl.Int32, "predicted": pl.Int32}
# What a text is cut into: words, and single signs that are no space, such as an emoji.
_WORDS = r"\w+|[^\w\s]"


@dataclass(frozen=True)
class TextBaseline:
    """A linear classifier of words and pairs of words. Accuracies are fractions 0–1."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    """Wilson's 95 % interval."""
    strength: float
    """C, of STRENGTHS."""
    predictions: npt.NDArray[np.int32]
    """[n_test] labels."""


def fit_text_baseline(
    train_texts: list[str],
    y_train: npt.NDArray[np.integer],
    test_texts: list[str],
    y_test: npt.NDArray[np.integer],
    *,
    weights: npt.NDArray[np.float64] | None = None,
    seed: int = 0,
) -> TextBaseline:
    """TF-IDF of words and pairs of words, and logistic regression of each class against the others (scikit-learn's),
    measured on the test rows.

    weights: of the train rows, [n], where they count differently in the fit.
    """
    # Here, so that a sweep's start does not wait for it.
    from sklearn.feature_extraction.text import TfidfVectorizer

    labels = np.asarray(y_train)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORDS)
    features = words.fit_transform(train_texts)
    counted = np.ones(len(labels)) if weights is None else weights / weights.mean()
    strength = _choose_strength(features, labels, counted, seed)
    model = _fitted(strength, features, labels, counted, seed)
    predicted = model.predict(words.transform(test_texts))
    low, high = wilson_interval(int((predicted == y_test).sum()), len(y_test))
    return TextBaseline(
        accuracy=float((predicted == y_test).mean()),
        accuracy_low=low,
        accuracy_high=high,
        strength=strength,
        predictions=predicted.astype(np.int32),
    )


def _choose_strength(
    features: csr_matrix, labels: npt.NDArray[np.integer], counted: npt.NDArray[np.float64], seed: int
) -> float:
    """The strength with the lowest log loss on rows held out of the train rows; classes of one row stay in."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels)
    several = counts[labels] > 1
    if not several.any():
        return STRENGTHS[0]
    held_out = max(int(HELD_OUT * several.sum()), int((counts > 1).sum()))
    fitted, told = train_test_split(
        np.flatnonzero(several), test_size=held_out, stratify=labels[several], random_state=seed
    )
    fitted = np.concatenate([fitted, np.flatnonzero(~several)])
    losses = []
    for strength in STRENGTHS:
        model = _fitted(strength, features[fitted], labels[fitted], counted[fitted], seed)
        said = model.predict_proba(features[told])
        losses.append(log_loss(labels[told], said, labels=model.classes_, sample_weight=counted[told]))
    return STRENGTHS[int(np.argmin(losses))]


def _fitted(
    strength: float,
    features: csr_matrix,
    labels: npt.NDArray[np.integer],
    counted: npt.NDArray[np.float64],
    seed: int,
) -> Any:
    """A class at a time, in its dual: rows are fewer than words, and all classes at once take many times as long."""
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    with config_context(enable_metadata_routing=True):
        one = LogisticRegression(
            C=strength, solver="liblinear", dual=True, max_iter=MOST_TURNS, random_state=seed
        )
        model = OneVsRestClassifier(one.set_fit_request(sample_weight=True))
        return model.fit(features, labels, sample_weight=counted)


def score_text(layout: Layout, run_id: str, dataset: Dataset, seed: int) -> None:
    """Stage `baseline`, a row for the words and one for the largest class, and what the words said of each test row.

    Of a data set without texts there are no words, and the largest class alone has a row.
    """
    if all(is_staged(layout, run_id, table, "baseline") for table in ("baseline", "text_prediction")):
        return
    table = read_table(dataset.uri).rename({"label": "value"})
    if dataset.task is Task.TOKEN_CLASSIFICATION:
        _score_words(layout, run_id, dataset, table)
        return
    if dataset.task is not Task.SINGLE_LABEL:
        _score_target(layout, run_id, dataset, table, seed)
        return
    train = stratified_sample(table.filter(split="train"), MOST_ROWS, seed)
    test = table.filter(split="test")
    y_train, y_test = train["value"].to_numpy(), test["value"].to_numpy()
    units = read_units(dataset)[len(table) - len(test) :]
    weights = None if dataset.weight_key is None else train[dataset.weight_key].to_numpy()
    measured, predictions = {}, pl.DataFrame(schema=_PREDICTION)
    if dataset.has_texts:
        started = time.perf_counter()
        texts = train["text"].to_list(), y_train, test["text"].to_list(), y_test
        found = fit_text_baseline(*texts, weights=weights, seed=seed)
        seconds = time.perf_counter() - started
        measured["text"] = (found.accuracy, found.accuracy_low, found.accuracy_high, seconds)
        if not units.are_rows:
            measured["text"] = (*interval(units.of(found.predictions == y_test)), seconds)
        predictions = pl.DataFrame(
            {"row_id": test["row_id"], "label": test["value"], "predicted": found.predictions},
            schema=_PREDICTION,
        )
    of_most = y_test == np.bincount(y_train, weights).argmax()
    hits = int(of_most.sum())
    measured["majority"] = (hits / len(y_test), *wilson_interval(hits, len(y_test)), 0.0)
    if not units.are_rows:
        measured["majority"] = (*interval(units.of(of_most)), 0.0)
    _stage(layout, run_id, measured, predictions, len(train), len(test))


def _score_words(layout: Layout, run_id: str, dataset: Dataset, table: pl.DataFrame) -> None:
    """The same where words have tags: each is given the tag that it has most often in train, and one that train has not
    that of most words."""
    train, test = (table.filter(split=split) for split in ("train", "test"))
    started = time.perf_counter()
    predicted = most_frequent_tags(train, test["text"])
    seconds = time.perf_counter() - started
    most = int(np.bincount(train["value"].to_numpy()).argmax())
    units = read_units(dataset)[len(train) :]
    measured = {}
    for name, told, took in (
        ("text", predicted, seconds),
        ("majority", np.full(len(test), most, dtype=np.int32), 0.0),
    ):
        measured[name] = (*interval(units.of(test["value"].to_numpy() == told)), took)
    predictions = pl.DataFrame(
        {"row_id": test["row_id"], "label": test["value"], "predicted": predicted}, schema=_PREDICTION
    )
    _stage(layout, run_id, measured, predictions, len(train), len(test))


def most_frequent_tags(train: pl.DataFrame, words: pl.Series) -> npt.NDArray[np.int32]:
    """Of each word the tag (`value`) that the same word (`text`) has most often in train, of equals the first; of a
    word that is new, the tag of most words."""
    counted = train.group_by("text", "value").len().sort("len", "value", descending=[True, False])
    known = counted.unique("text", keep="first", maintain_order=True).select("text", "value")
    most = int(np.bincount(train["value"].to_numpy()).argmax())
    told = words.alias("text").to_frame().join(known, on="text", how="left", maintain_order="left")
    return told["value"].fill_null(most).cast(pl.Int32).to_numpy()


def _score_target(layout: Layout, run_id: str, dataset: Dataset, table: pl.DataFrame, seed: int) -> None:
    """The same where several labels or a number are told: of texts by ridge regression."""
    train = stratified_sample(table.filter(split="train"), MOST_ROWS, seed)
    test = table.filter(split="test")
    wanted, truth = (Target(dataset.task, targets_of(rows)) for rows in (train, test))
    units = read_units(dataset)[len(table) - len(test) :]
    measured, right = {}, np.empty(0)
    if dataset.has_texts:
        started = time.perf_counter()
        right = fit_text_target(train["text"].to_list(), wanted, test["text"].to_list(), truth, seed=seed)
        measured["text"] = (*interval(units.of(right)), time.perf_counter() - started)
    measured["majority"] = (*interval(units.of(right_of_none(wanted, truth))), 0.0)
    predictions = pl.DataFrame({"row_id": test["row_id"][: len(right)], "right": right})
    _stage(layout, run_id, measured, predictions, len(train), len(test))


def fit_text_target(
    train_texts: list[str], wanted: Target, test_texts: list[str], truth: Target, *, seed: int = 0
) -> npt.NDArray[np.float64]:
    """How right TF-IDF of words and pairs of words, and ridge regression (scikit-learn's), tell each test row, [m].

    Penalty and rule are those that do best on rows held out of train.
    """
    # Here, so that a sweep's start does not wait for it.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import train_test_split

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORDS)
    features = words.fit_transform(train_texts)
    fitted, told = train_test_split(np.arange(len(train_texts)), test_size=HELD_OUT, random_state=seed)
    held_out = replace(wanted, values=wanted.values[told])
    tried = []
    for penalty in RIDGES:
        model = Ridge(penalty, solver="sparse_cg").fit(features[fitted], wanted.values[fitted])
        values = model.predict(features[told]).reshape(len(told), -1)
        rule = fit_decision_rule(held_out, values, TEMPERATURES)
        loss = judge(held_out, values, rule, variance=float(wanted.values.var())).loss.mean()
        tried.append((float(loss), penalty, rule))
    _, penalty, rule = min(tried, key=lambda each: each[0])
    model = Ridge(penalty, solver="sparse_cg").fit(features, wanted.values)
    values = model.predict(words.transform(test_texts)).reshape(len(test_texts), -1)
    return judge(truth, values, rule).right


def _stage(
    layout: Layout,
    run_id: str,
    measured: Mapping[str, tuple[float, float, float, float]],
    predictions: pl.DataFrame,
    n_train: int,
    n_test: int,
) -> None:
    rows = [
        {"name": name, "n_train": n_train, "n_test": n_test}
        | dict(zip(("accuracy", "accuracy_low", "accuracy_high", "seconds"), values, strict=True))
        for name, values in measured.items()
    ]
    stage(layout, run_id, "text_prediction", "baseline", predictions)
    stage(
        layout, run_id, "baseline", "baseline", rows_of("baseline", pl.DataFrame({"run_id": [run_id]}), rows)
    )


@task(name="score-text", task_run_name="score the words alone", timeout_seconds=LONG_S, **RETRIED)
def score_text_task(layout: Layout, run_id: str, dataset: Dataset, seed: int) -> None:
    """What the words alone tell: TF-IDF and logistic regression."""
    score_text(layout, run_id, dataset, seed)
