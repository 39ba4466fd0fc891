"""What a worker has in memory to embed with: the model on a device, and its tokenizer with the prompt."""

from dataclasses import replace
from typing import Any

from tasks.embedding.model import LoadedModel, ModelFolder, folder_here, load_model, tokenizer_of
from tasks.embedding.prompts import with_prompt
from tasks.embedding.settings import Settings
from tasks.machine import CORES
from tasks.numerics.cores import own_threads


def tokenizer_for(model: ModelFolder, settings: Settings) -> Any:
    """The model's, with the prompt; a worker on another machine brings the model there first."""
    folder = folder_here(model, trust_remote_code=settings.trust_remote_code)
    return with_prompt(tokenizer_of(folder, trust_remote_code=settings.trust_remote_code), settings.prompt)


def load_for(model: ModelFolder, settings: Settings, device: str) -> LoadedModel:
    """The model on this device, and its tokenizer with the prompt."""
    # OpenMP counts threads by calling thread, and one that has scored before has one.
    own_threads(CORES)
    loaded = load_model(
        folder_here(model, trust_remote_code=settings.trust_remote_code),
        settings.dtype,
        device,
        trust_remote_code=settings.trust_remote_code,
        stream=settings.stream_blocks,
    )
    return replace(loaded, tokenizer=with_prompt(loaded.tokenizer, settings.prompt))
