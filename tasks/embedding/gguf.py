"""A GGUF file as a model folder: its numbers are made plain once, and the cache keeps what came of it."""

import json
import os
import re
import struct
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from transformers import AutoModel, AutoTokenizer

from storage.cache import cache_folder
from storage.errors import UserError
from storage.files import sha256_of
from tasks.embedding.description import words
from tasks.embedding.weights import load_whole
from tasks.embedding.without_bars import without_bars

# The SHA-256 of each of a cached folder's files, written last.
MADE = "made.json"


def folder_of_gguf(file: Path, spec: str) -> tuple[Path, str]:
    """De-quantise once: the cache keeps a folder of safetensors named by the file's SHA-256."""
    if split := re.search(r"-\d{5}-of-(\d{5})\.gguf$", file.name):
        raise UserError(
            f"{file} (from {spec}) is one of {int(split[1])} parts of a model. Join them first: llama-gguf-split "
            "--merge FIRST_PART JOINED.gguf, then name gguf:JOINED.gguf."
        )
    sha256 = sha256_of(file)
    done = cache_folder() / "gguf" / sha256[:32]
    done.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{done}.lock"):
        if not _is_as_it_was_made(done):
            with tempfile.TemporaryDirectory(dir=done.parent, prefix=".part.") as scratch:
                part = Path(scratch) / "model"
                _dequantise(file, part, spec)
                (part / MADE).write_text(json.dumps(_hashes(part)), encoding="utf-8")
                # Another process may be loading the old one: it is moved away whole, and the new one is there at once.
                if os.path.lexists(done):
                    done.rename(Path(scratch) / "old")
                part.rename(done)
    return done, sha256


def _is_as_it_was_made(folder: Path) -> bool:
    """Whether a cached folder holds what was once put there. One of an older version does not say, and is made anew."""
    try:
        made: dict[str, str] = json.loads((folder / MADE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or none that can be read
        return False
    return made == _hashes(folder)


def _hashes(folder: Path) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.name != MADE}


def _dequantise(file: Path, into: Path, spec: str) -> None:
    # Alone in a folder: what lies beside it must not change its tokens, nor bring code.
    alone = into.parent / "file"
    alone.mkdir()
    (alone / file.name).symlink_to(file.absolute())
    options: dict[str, Any] = {
        "gguf_file": file.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    try:
        with without_bars():
            load = partial(
                AutoModel.from_pretrained, alone, dtype=torch.float32, output_loading_info=True, **options
            )
            model: Any = load_whole(load, str(file))
        tokenizer = AutoTokenizer.from_pretrained(alone, **options)
    except (OSError, ValueError, ImportError, KeyError, struct.error) as error:
        raise UserError(
            f"{file} (from {spec}) does not load as GGUF: {words(error).replace(f'{alone}/', '')}. transformers "
            f"{transformers.__version__} reads the families listed in its GGUF guide; convert others to "
            "safetensors and use path:FOLDER."
        ) from error
    # The plain weights are saved; the description of a quantisation that is gone would forbid it.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    with without_bars():
        model.save_pretrained(into)
    tokenizer.save_pretrained(into)
