"""What the number is that layers are judged by, task by task, and the words for it.

Tables call it accuracy, a share from 0 to 1 that is the mean of what `scoring/target.py` calls right.
"""

from dataclasses import dataclass

from tasks.vocabulary import Task


@dataclass(frozen=True)
class Measure:
    """The words; `{}` is filled with a share in per cent."""

    name: str
    """After "expected" and "test"."""
    axis: str
    sentence: str
    """Of test texts, as the answer says it."""
    says: str
    """What follows a subject in the singular."""
    floor: str
    """The same of what tells all texts the same."""
    floor_name: str
    words_alone: str
    """What tells labels by the words, without a model."""
    rows: str
    """What is told: texts, or words of them."""
    loss: str
    """What ridge regression's left-out rows rank layers by."""


MEASURES = {
    Task.SINGLE_LABEL: Measure(
        name="accuracy",
        axis="probe accuracy",
        sentence="{} of test texts classified correctly",
        says="is right on {}",
        floor="always naming the largest class is right on {}",
        floor_name="largest class",
        words_alone="TF-IDF",
        rows="texts",
        loss="log loss",
    ),
    Task.TOKEN_CLASSIFICATION: Measure(
        name="accuracy",
        axis="probe accuracy of words",
        sentence="{} of the words of test texts given their tag",
        says="is right on {} of the words",
        floor="always naming the most frequent tag is right on {} of the words",
        floor_name="most frequent tag",
        words_alone="the most frequent tag of each",
        rows="words",
        loss="log loss",
    ),
    Task.MULTI_LABEL: Measure(
        name="F1",
        axis="mean F1 of a text's labels",
        sentence="the labels of test texts told with a mean F1 of {}",
        says="has a mean F1 of {}",
        floor="always naming the most frequent labels has a mean F1 of {}",
        floor_name="most frequent labels",
        words_alone="TF-IDF",
        rows="texts",
        loss="log loss",
    ),
    Task.REGRESSION: Measure(
        name="share of pairs in order",
        axis="share of pairs in their true order",
        sentence="{} of pairs of test texts put in their true order",
        says="puts {} of pairs in their true order",
        floor="telling all texts the same number puts {} of pairs in order",
        floor_name="one number for all",
        words_alone="TF-IDF",
        rows="texts",
        loss="squared error",
    ),
}
