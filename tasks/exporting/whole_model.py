"""Texts through the whole model of a run, as its sweep embedded them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.embed import embed_tokens
from tasks.embedding.model import LoadedModel, load_model
from tasks.embedding.prompts import with_prompt
from tasks.embedding.text_pairs import pair_features
from tasks.embedding.tokens import tokenise
from tasks.embedding.words import read_words, tokenise_words
from tasks.exporting.recorded_run import RecordedRun
from tasks.exporting.states import Cut

# Of a run that had none of its own; what is in a batch changes no embedding.
TOKEN_BUDGET = 2_048


def load_whole(run: RecordedRun, dtype: str = "float32") -> LoadedModel:
    """The run's model, whole, with a tokenizer that puts texts into the run's prompt."""
    loaded = load_model(
        run.model.folder, dtype, run.settings.device, trust_remote_code=run.settings.trust_remote_code
    )
    return replace(loaded, tokenizer=with_prompt(loaded.tokenizer, run.settings.prompt))


def embed_cut(run: RecordedRun, whole: LoadedModel, cut: Cut, texts: Sequence[Any]) -> NDArray[np.float32]:
    """float32 [N, S·D]: the S states of the cut, side by side; blocks after the deepest are not run.

    Of text pairs, where the two texts of a row stand in turn, the features of the pairs: [N / 2, S·4·D]. Where words
    have tags, of all words of the texts, which are lists of them, in turn; NaN of a word that is not read whole.
    """
    length, read = run.settings.max_length, None
    if run.of_words:
        tokens, read = read_words(*tokenise_words(whole.tokenizer, texts, length))
    else:
        tokens = tokenise(whole.tokenizer, texts, length, run.settings.long_texts)
    embedded = embed_tokens(
        whole.backbone,
        tokens,
        poolings=cut.poolings,
        norm_states=cut.norm_states,
        token_budget=run.settings.token_budget or TOKEN_BUDGET,
        max_layer=cut.deepest,
    )
    states = [embedded.states[each.norm_state, each.pooling][each.layer] for each in cut.states]
    if run.of_pairs:
        states = [pair_features(each) for each in states]
    found = np.concatenate(states, axis=1)
    if read is None:
        return found
    every = np.full((len(read), found.shape[1]), np.nan, dtype=np.float32)
    every[read] = found
    return every
