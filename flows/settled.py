"""What a sweep's parameters come to: how embeddings are made, and which layers are scored and how."""

from flows.parameters import SweepParameters
from storage.errors import UserError
from storage.layout import Layout
from tasks.curves import CurveOfRun, LayerOfRun, curves_of, layers_of
from tasks.data.dataset import Dataset
from tasks.embedding.lengths import STEPS, resolve_length
from tasks.embedding.model import ModelFolder
from tasks.embedding.pooling import WORD_POOLINGS
from tasks.embedding.prompts import resolve_prompt
from tasks.embedding.set_records import EmbeddingSet
from tasks.embedding.settings import Settings
from tasks.embedding.words import without_cut_words
from tasks.scoring.criteria import OF_SINGLE_ROWS
from tasks.scoring.layer_scores import ScoringSettings
from tasks.vocabulary import NO_PROMPT, LongTexts, ProbeProtocol, Task


def check_task(parameters: SweepParameters, dataset: Dataset) -> None:
    """Raise UserError where something is asked for that is only for one class a text, or for rows that are independent,
    and they are something else."""
    if dataset.group_key is not None:
        _check_groups(parameters, dataset)
    if dataset.weight_column is not None and parameters.races:
        raise UserError(
            f"--until-confident adds rows that count alike, and those of {dataset.id} have weights (--weight-column "
            f"{dataset.weight_column}). Leave it out, and give --max-train-rows."
        )
    if dataset.task is Task.SINGLE_LABEL:
        return
    if dataset.task is Task.TOKEN_CLASSIFICATION:
        _check_words(parameters, dataset)
        return
    told = f"one class a text, and labels of {dataset.id} are {dataset.task.value}. Leave it out"
    if dataset.weight_column is not None:
        raise UserError(f"--weight-column {dataset.weight_column} is for {told}.")
    if parameters.races:
        raise UserError(f"--until-confident is for {told}: all train rows are read then.")
    if parameters.probe_protocol is not ProbeProtocol.LOGISTIC:
        raise UserError(
            f"--probe-protocol {parameters.probe_protocol.value} is for {told}: the probe is ridge regression then."
        )


def _check_groups(parameters: SweepParameters, dataset: Dataset) -> None:
    told, rows = f"and labels of {dataset.id} are a tag of each word", "the other words of its text"
    if dataset.group_column is not None:
        told = f"and those of {dataset.id} are in groups (--group-column {dataset.group_column})"
        rows = "the other rows of its group"
    if parameters.races:
        raise UserError(
            f"--until-confident adds rows that are independent, {told}, which depend on each other. Leave it out, and "
            "give --max-train-rows."
        )
    for criterion in parameters.criterion:
        if criterion in OF_SINGLE_ROWS:
            raise UserError(
                f"--criterion {criterion} leaves out one row at a time, {told}: {rows} would give it away. ridge_loo "
                "and ridge_loo_information leave out all of them."
            )


def _check_words(parameters: SweepParameters, dataset: Dataset) -> None:
    told = f"and labels of {dataset.id} are a tag of each word"
    if parameters.prompt != NO_PROMPT:
        raise UserError(
            f"--prompt {parameters.prompt} stands around a whole text and asks for one embedding of it, {told}. Leave "
            "it out."
        )
    if parameters.attention_rows:
        raise UserError(
            f"--attention-rows {parameters.attention_rows} is of whole texts, {told}. Leave it out; a sweep of "
            "the same texts with one label each measures it."
        )
    if parameters.long_texts is LongTexts.SPLIT:
        raise UserError(
            f"--long-texts split joins what windows say of a whole text, {told}, and a word has its tokens in one of "
            "them. Leave it out: words beyond --max-length are counted and not scored."
        )
    for pooling in parameters.pooling:
        if pooling not in WORD_POOLINGS:
            raise UserError(
                f"--pooling {pooling} is of a whole text, {told}, whose own tokens are pooled. Take of "
                f"{', '.join(WORD_POOLINGS)}."
            )


def settle_words(
    layout: Layout, parameters: SweepParameters, dataset: Dataset, model: ModelFolder, settings: Settings
) -> Dataset:
    """The data set as its embeddings will have it: where rows are words, without those that the model does not read.

    Raises:
        UserError: the tokenizer does not say which token is of which word, or too few words are read.
    """
    if dataset.words is None:
        return dataset
    trust = parameters.trust_remote_code
    return without_cut_words(layout, dataset, model, settings.max_length, trust_remote_code=trust)


def settle_settings(parameters: SweepParameters, dataset: Dataset, model: ModelFolder) -> Settings:
    """How embeddings are to be made, with what prompt and length come to once model and texts are known.

    Raises:
        UserError: the model brings no prompt of its own, or its tokenizer takes none.
    """
    trust = parameters.trust_remote_code
    prompt = resolve_prompt(parameters.prompt, dataset, model, trust_remote_code=trust)
    length = resolve_length(parameters.length_asked, dataset, model, prompt, trust_remote_code=trust)
    return settings_of(parameters, prompt, length)


def settings_of(
    parameters: SweepParameters, prompt: str | None = None, max_length: int | None = None
) -> Settings:
    """How embeddings are to be made; device and dtype are resolved where the work will run."""
    return Settings(
        poolings=parameters.pooling,
        norm_states=parameters.norm_state,
        max_length=max_length or parameters.length_asked or STEPS[-1],
        dtype=parameters.dtype,
        device=parameters.device,
        trust_remote_code=parameters.trust_remote_code,
        max_layer=parameters.max_layer,
        token_budget=parameters.token_budget,
        storage_dtype=parameters.storage_dtype,
        prompt=prompt,
        stream_blocks=parameters.stream_blocks,
        long_texts=parameters.long_texts,
    )


def settle_curves(
    layout: Layout,
    run_id: str,
    parameters: SweepParameters,
    planned: EmbeddingSet,
    dataset: Dataset,
    model: ModelFolder,
) -> tuple[list[CurveOfRun], list[LayerOfRun]]:
    """Every curve of a run, a pooling × norm state each, and every layer of all of them."""
    deepest = parameters.max_layer or model.layers
    curves = curves_of(
        layout,
        run_id,
        planned,
        parameters.pooling,
        parameters.norm_state,
        parameters.seed,
        dataset,
        is_cut=deepest < model.layers,
    )
    return curves, layers_of(curves, planned, dataset, range(deepest + 1))


def scoring_of(parameters: SweepParameters) -> ScoringSettings:
    """How every layer is to be scored."""
    return ScoringSettings(
        metrics=parameters.metric,
        criteria=parameters.criterion,
        protocol=parameters.probe_protocol,
        silhouette_rows=parameters.silhouette_rows,
        silhouette_precision=parameters.silhouette_precision,
    )
