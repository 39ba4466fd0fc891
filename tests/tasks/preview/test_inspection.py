"""What is counted and warned of, against a plain loop over the rows."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tasks.preview.inspection import Inspection, inspect_table, warnings_of

WORDS = ["a", "A ", "b  c", "B c", "d"]


def table_of(rows: list[tuple[str, int, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["text", "label", "split"], orient="row").with_columns(
        pl.col("label").cast(pl.Int32)
    )


def words(text: str) -> str:
    return " ".join(text.lower().split())


@given(
    st.lists(
        st.tuples(st.sampled_from(WORDS), st.integers(0, 2), st.sampled_from(["train", "test"])), min_size=1
    )
)
def test_counts_against_a_plain_loop(rows: list[tuple[str, int, str]]) -> None:
    rows = [*rows, ("d", 0, "train"), ("e", 1, "test")]
    found = inspect_table(table_of(rows), ["x", "y", "z"])
    train = [(words(text), label) for text, label, split in rows if split == "train"]
    test = [(words(text), label) for text, label, split in rows if split == "test"]
    assert (found.train_rows, found.test_rows) == (len(train), len(test))
    assert found.classes["train"].to_list() == [sum(label == each for _, label in train) for each in range(3)]
    assert found.classes["test"].to_list() == [sum(label == each for _, label in test) for each in range(3)]
    assert found.repeated == sum(
        text in {before for before, _ in train[:i]} for i, (text, _) in enumerate(train)
    )
    labels = {text: {label for other, label in train if other == text} for text, _ in train}
    assert found.contradicted == sum(len(labels[text]) > 1 for text, _ in train)
    assert found.leaked == sum(text in labels for text, _ in test)


def test_lengths_are_characters_or_tokens() -> None:
    rows = table_of([("abc", 0, "train"), ("a", 1, "train"), ("abcdefgh", 0, "test")])
    plain = inspect_table(rows, ["x", "y"]).lengths
    assert (plain.unit, plain.median, plain.longest, plain.cut_share) == ("characters", 3, 8, None)
    tokens = inspect_table(rows, ["x", "y"], token_counts=np.array([4, 2, 9]), max_length=4).lengths
    assert (tokens.unit, tokens.median, tokens.longest, tokens.cut_share) == ("tokens", 4, 9, 1 / 3)


def good() -> Inspection:
    rows = [(f"text {i}", i % 2, "train" if i < 200 else "test") for i in range(400)]
    return inspect_table(table_of(rows), ["x", "y"])


def test_a_good_data_set_has_nothing_to_warn_of() -> None:
    assert warnings_of(good(), test_is_made=False) == []
    assert warnings_of(good(), test_is_made=True)[0].startswith("There is no test split")
    of_times = warnings_of(good(), test_is_made=True, time_column="day")
    assert of_times[0] == "There is no test split: the latest fifth of the rows becomes one."
    assert "judged by all others, later ones too" in of_times[1]
    assert warnings_of(good(), test_is_made=False, time_column="day") == of_times[1:]


def test_every_warning_says_what_to_do() -> None:
    rows = [("same", 0, "train"), ("Same", 1, "train"), ("same", 0, "train"), ("same", 0, "test")]
    rows += [(f"text {i}", 0, "train") for i in range(40)] + [("once", 2, "train")]
    found = inspect_table(table_of(rows), ["x", "y", "z"], token_counts=np.full(45, 9), max_length=8)
    said = warnings_of(found, test_is_made=False)
    for part, sentence in zip(
        [
            "1 of 1 test rows have a text that is in train too",
            "3 train rows share their text with a row of another label",
            "2 train rows repeat an earlier text",
            "'y', 'z' have fewer than 5 train rows",
            "'y', 'z' have no test row",
            "1 test rows are few: an accuracy near 50 % is known to ± 98 points",
            "95 % of the train rows are 'x'",
            "100 % of the texts are longer than the maximum length",
        ],
        said,
        strict=True,
    ):
        assert part in sentence


def test_weights_that_differ_much_are_told_of() -> None:
    rows = table_of([(f"text {i}", i % 2, "train" if i < 200 else "test") for i in range(400)])

    def weighted(weights: np.ndarray) -> Inspection:
        return inspect_table(rows.with_columns(weight=weights), ["x", "y"])

    assert inspect_table(rows, ["x", "y"]).counting_rows == 200
    assert weighted(np.full(400, 3.0)).counting_rows == 200
    draw = np.random.default_rng(0).uniform(0.1, 2.0, 400)
    of_train = draw[:200] / draw[:200].sum()
    assert np.isclose(weighted(draw).counting_rows, 1 / sum(share * share for share in of_train))
    assert warnings_of(weighted(draw), test_is_made=False) == []
    heavy = np.where(np.arange(400) < 5, 1_000.0, 1.0)
    (said,) = warnings_of(weighted(heavy), test_is_made=False)
    assert said.startswith(
        "Weights differ so much that 200 train rows tell no more than 5 of equal weight would"
    )
