"""How many tokens of a text are read where nobody has said it."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter, ValidationError

from storage.cache import cache_folder
from storage.manifest import DamagedManifestError, read_manifest, write_manifest
from tasks.data.dataset import Dataset
from tasks.data.stored_table import read_table
from tasks.embedding.description import load_tokenizer, text_config
from tasks.embedding.families import family_row
from tasks.embedding.model import ModelFolder, folder_here
from tasks.embedding.prompts import with_prompt
from tasks.embedding.row_tokens import tokenise_uncut, uncut_texts

STEPS = (128, 256, 384, 512)
"""Few, so that a set that grows keeps its length, and short texts the one that they have always had."""
COVERED = 0.99
"""The share of the texts that is to be read whole, as far as the steps reach."""
# Of more texts, so many are counted.
COUNTED_TEXTS = 10_000


@dataclass(frozen=True)
class _Kept:
    max_length: Annotated[int, Field(ge=1, le=STEPS[-1])]


_KEPT = TypeAdapter(_Kept)


def resolve_length(
    asked: int | None,
    dataset: Dataset,
    model: ModelFolder,
    prompt: str | None,
    *,
    trust_remote_code: bool = False,
) -> int:
    """The maximum length in tokens: what was asked for, else what `covering` makes of the train texts with their
    prompt, since every choice hangs on it and no test row has a say in that.

    Texts are counted once a machine. Of saved states no token is read, which is 1.
    """
    if asked is not None or model.is_saved_states:
        return asked or 1
    made_of = ["train", dataset.fingerprint, model.id, model.revision, prompt, STEPS, COVERED, COUNTED_TEXTS]
    kept = cache_folder() / "lengths" / f"{hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]}.json"
    try:
        return _KEPT.validate_python(read_manifest(str(kept))).max_length
    except (FileNotFoundError, DamagedManifestError, ValidationError):
        pass  # it is found again
    texts = uncut_texts(read_table(dataset.uri, range(dataset.train_rows)))
    some: Any = [texts[each] for each in counted_rows(len(texts))]
    folder = Path(folder_here(model, trust_remote_code=trust_remote_code))
    tokenizer = with_prompt(load_tokenizer(folder, trust_remote_code=trust_remote_code), prompt)
    counts = tokenise_uncut(tokenizer, some).counts
    found = covering(counts, positions_of(model, trust_remote_code=trust_remote_code))
    write_manifest(str(kept), asdict(_Kept(found)))
    return found


def counted_rows(rows: int) -> npt.NDArray[np.int64]:
    """Of so many rows those whose tokens are counted, evenly spread."""
    return np.unique(np.linspace(0, rows - 1, COUNTED_TEXTS).astype(np.int64))


def covering(token_counts: npt.NDArray[np.integer], positions: int | None) -> int:
    """The first of STEPS that covers COVERED of the texts, or the last one; at most `positions`.

    token_counts: int [N], N ≥ 1, of the texts with their special tokens before any cut.
    """
    enough = next((step for step in STEPS if (token_counts <= step).mean() >= COVERED), STEPS[-1])
    return enough if positions is None else min(enough, positions)


def positions_of(model: ModelFolder, *, trust_remote_code: bool = False) -> int | None:
    """The most tokens of a text that the model's configuration knows of; None where it tells no end."""
    folder = Path(folder_here(model, trust_remote_code=trust_remote_code))
    config = text_config(folder, model.id, trust_remote_code=trust_remote_code)
    stated = getattr(config, "max_position_embeddings", None)
    ends = [family_row(config).positions(config), stated if type(stated) is int and stated > 0 else None]
    return min((end for end in ends if end is not None), default=None)
