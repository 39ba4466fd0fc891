"""What a sweep's parameters come to: how embeddings are made and how layers are scored."""

from flows.parameters import SweepParameters
from storage.errors import UserError
from tasks.data.dataset import Dataset
from tasks.embedding.lengths import STEPS, resolve_length
from tasks.embedding.model import ModelFolder
from tasks.embedding.prompts import resolve_prompt
from tasks.embedding.settings import Settings
from tasks.scoring.layer_scores import ScoringSettings
from tasks.vocabulary import ProbeProtocol, Task


def check_task(parameters: SweepParameters, dataset: Dataset) -> None:
    """Raise UserError where something is asked for that is only for one class a text, and labels are something else."""
    if dataset.task is Task.SINGLE_LABEL:
        return
    told = f"one class a text, and labels of {dataset.id} are {dataset.task.value}. Leave it out"
    if parameters.until_confident is not None:
        raise UserError(f"--until-confident is for {told}: all train rows are read then.")
    if parameters.probe_protocol is not ProbeProtocol.LOGISTIC:
        raise UserError(
            f"--probe-protocol {parameters.probe_protocol.value} is for {told}: the probe is ridge regression then."
        )


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


def scoring_of(parameters: SweepParameters) -> ScoringSettings:
    """How every layer is to be scored."""
    return ScoringSettings(
        metrics=parameters.metric,
        criteria=parameters.criterion,
        protocol=parameters.probe_protocol,
        silhouette_rows=parameters.silhouette_rows,
        silhouette_precision=parameters.silhouette_precision,
    )
