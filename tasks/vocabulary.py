"""The words of a sweep: poolings, norm states, metrics, probes. A command line needs nothing that computes."""

from enum import StrEnum
from typing import Literal

TEXT, LABEL_NAMES = "{text}", "{label_names}"
"""What a prompt's template holds in the place of a text, and of the names of the classes."""
NO_PROMPT = "none"
PROMPTS = (NO_PROMPT, "one-word", "task", "model")
"""The names of prompts; everything else is a template."""
CHAT = "chat:"
"""What stands before a prompt that is to be what a user says, in the form of the model's chat template."""


class Task(StrEnum):
    """What labels tell of each text, or of each word of it."""

    SINGLE_LABEL = "single-label"
    """One class of several."""
    MULTI_LABEL = "multi-label"
    """Any number of labels, none included."""
    REGRESSION = "regression"
    """A number, such as a score or stars."""
    TOKEN_CLASSIFICATION = "token-classification"
    """One class, its tag, of each word: slots, named entities, parts of speech."""

    @property
    def is_one_class(self) -> bool:
        """Whether a row is told one class of several."""
        return self in (Task.SINGLE_LABEL, Task.TOKEN_CLASSIFICATION)


AskedTask = Literal["auto", "single-label", "multi-label", "regression", "token-classification"]
TextPairs = Literal["joined", "features"]
"""What is made of a row's two texts: one text, or an embedding of each and the features of both."""


class Pooling(StrEnum):
    """How the token states of one text become one embedding. "Token" means a non-padding token."""

    MEAN = "mean"
    """Mean over all tokens."""
    MEAN_TAIL = "mean_tail"
    """Mean over all tokens but the first, which decoders use as an attention sink; one token: that token."""
    TEXT_MEAN = "text_mean"
    """Mean over the text's own tokens, without a prompt's and special ones around it; of a text that has none, over
    all."""
    LAST = "last"
    """The last token: in a decoder the only one that has seen the whole text."""
    FIRST = "first"
    """The first token: `[CLS]` in BERT-like encoders."""
    MAX = "max"
    """Per dimension, the largest value over all tokens."""
    ATTENTION_SUMMARY = "attention_summary"
    """Mean over the text's own tokens, weighted by what the token attends to that stands for the text: a decoder's
    last, an encoder's first. Of the block that reads the layer, mean over heads; the last layer is weighted as its own
    block has attended. Never on the first token, which is an attention sink, unless there is no other; of a text that
    has no token of its own, on all others."""
    ATTENTION_RECEIVED = "attention_received"
    """The same, weighted by the attention that each token receives of those that may see it."""


class LongTexts(StrEnum):
    """What becomes of a text that is longer than the maximum length."""

    CUT = "cut"
    """The rest is not read."""
    SPLIT = "split"
    """All of it is read, in windows that overlap, and pooled as one text."""


class NormState(StrEnum):
    """Which states are pooled."""

    AS_RETURNED = "as_returned"
    """Hugging Face's `hidden_states`: only the last layer has passed the model's final norm."""
    FINAL_NORM = "final_norm"
    """The final norm applied to the tokens of every layer: what a model cut there would put out."""


class Metric(StrEnum):
    """The distance. Squared Euclidean and cosine have a closed form in O(N·K·D); Euclidean needs all pairs."""

    EUCLIDEAN = "euclidean"
    SQEUCLIDEAN = "sqeuclidean"
    COSINE = "cosine"


class Space(StrEnum):
    """What is done to the features before: nothing, subtract their mean, or also divide by their deviation.

    A constant feature is divided by 1. Centring changes cosine only.
    """

    RAW = "raw"
    CENTRED = "centred"
    STANDARDISED = "standardised"


class Precision(StrEnum):
    """Products of the Euclidean metric: float32 with float64 care (error ≤ 1e-6), or bfloat16 (≤ 1e-4)."""

    EXACT = "exact"
    FAST = "fast"


class ProbeProtocol(StrEnum):
    """How the linear layer is trained: to the optimum with a chosen penalty, or the way deep learning does it."""

    LOGISTIC = "logistic"
    SGD = "sgd"
    """Adam on mini-batches for a fixed number of epochs, without a penalty: closer to what papers mean by "we train a
    linear layer", and farther from a number that only depends on the data."""
