"""One small model, tried: its layers in two dtypes against plain transformers text by text, its norm, and a cut."""

import copy
import inspect
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from storage.errors import UserError
from tasks.embedding.backbone import find_backbone
from tasks.embedding.comparison import NarrowDtypeError
from tasks.embedding.embed import EmbeddedTexts, embed_tokens
from tasks.embedding.families import chooses_experts
from tasks.embedding.forward import Backbone
from tasks.embedding.pooling import pool
from tasks.embedding.tokens import Tokens, tokenise
from tasks.exporting.cut import cut_model
from tasks.exporting.exported_check import TOLERANCE, load_plain
from tasks.exporting.predict import encode
from tasks.exporting.states import Cut, LayerState
from tasks.vocabulary import NormState, Pooling
from tests.families.small_models import PAD, VOCABULARY, WORDS

LENGTHS = (400, 150, 150, 64, 12, 12, 7, 5, 5, 1)
POOLINGS = (Pooling.MEAN, Pooling.LAST, Pooling.FIRST)
CUT = 2
"""The layer that a model is cut after."""


@dataclass(frozen=True)
class Outcome:
    """A row of the table. Each is `equal`, `refused: WHY`, or what is wrong, in capitals."""

    model_type: str
    float32: str
    bfloat16: str
    final_norm: str
    cut: str

    @property
    def is_wrong(self) -> bool:
        """Neither equal nor refused somewhere."""
        return any(each.startswith(("WRONG", "CRASH")) for each in vars(self).values())


def try_model(model_type: str, model: nn.Module) -> Outcome:
    """Try a headless model in float32; it is left as it is."""
    texts = some_texts(positions=_positions(model))
    exact = by_transformers(model, texts)
    try:
        backbone = find_backbone(copy.deepcopy(model))
    except UserError as error:
        told = f"refused: {_reason(error)}"
        return Outcome(model_type, told, told, "–", "–")
    if exact is None:
        return Outcome(model_type, "WRONG: transformers itself fails", "", "", "")
    try:
        found = ours(backbone, texts)
    except UserError as error:
        told = f"refused: {_reason(error)}"
        return Outcome(model_type, told, told, "–", "–")
    worst = max(_error(found[p], exact[p]) for p in POOLINGS)
    float32 = "equal" if worst <= 1e-4 else f"WRONG: {worst:.1e}"
    return Outcome(
        model_type,
        float32,
        _in_bfloat16(model, texts, exact),
        _norm(model, backbone, texts),
        _cut(model, backbone),
    )


def some_texts(positions: int | None) -> list[np.ndarray]:
    """Token ids, longest text first; two of them name the padding token."""
    rng = np.random.default_rng(7)
    texts = [
        rng.choice(np.array(WORDS), min(length, positions or length)).astype(np.int32) for length in LENGTHS
    ]
    texts[3][20] = PAD
    texts[5][4] = PAD
    return texts


def text_model(model: nn.Module) -> nn.Module:
    """What a person would call for the hidden states of texts: the encoder, or the language model inside."""
    config: Any = model.config
    if config.is_encoder_decoder:
        return model.get_encoder()
    text = config.get_text_config()
    if text is config:
        return model
    inside = (each for each in model.modules() if isinstance(each, hf.PreTrainedModel))
    return next(each for each in inside if type(each.config) is type(text)).base_model


def by_transformers(
    model: nn.Module, texts: Sequence[np.ndarray], norm: str | None = None
) -> dict[Pooling, np.ndarray] | None:
    """[layers + 1, N, D] for each pooling, every text by a model that has seen no other; None where it fails."""
    rows: dict[Pooling, list[torch.Tensor]] = {pooling: [] for pooling in POOLINGS}
    for ids in texts:
        body = text_model(fresh(model))
        tokens = torch.from_numpy(ids.astype(np.int64))[None]
        try:
            with torch.inference_mode():
                output = body(**_inputs(body, tokens), output_hidden_states=True)
                states = getattr(output, "hidden_states", None)
        except Exception:  # a stranger's code; what it cannot do, ours must refuse
            return None
        if states is None:
            return None
        for pooling in POOLINGS:
            try:
                rows[pooling].append(
                    torch.stack([pool(each[:, : len(ids)], None, pooling)[0] for each in states])
                )
            except (RuntimeError, TypeError):  # layers of several widths, or that are several tensors
                return None
    return {pooling: torch.stack(each, dim=1).numpy() for pooling, each in rows.items()}


def fresh(model: nn.Module) -> nn.Module:
    """A copy that shares the weights alone."""
    return copy.deepcopy(model, {id(each): each for each in model.parameters()})


def ours(
    backbone: Backbone, texts: Sequence[np.ndarray], norm_state: NormState = NormState.AS_RETURNED
) -> dict[Pooling, np.ndarray]:
    """The same by the product's own way, all texts together."""
    counts = np.array([len(each) for each in texts], dtype=np.int32)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # two batches at a time, where the model allows it
    try:
        found: EmbeddedTexts = embed_tokens(
            backbone,
            Tokens(list(texts), counts, np.zeros(len(texts), dtype=np.bool_)),
            poolings=POOLINGS,
            norm_states=[norm_state],
            token_budget=450,
        )
    finally:
        torch.set_num_threads(threads)
    return {pooling: found.states[norm_state, pooling] for pooling in POOLINGS}


def _in_bfloat16(model: nn.Module, texts: Sequence[np.ndarray], exact: dict[Pooling, np.ndarray]) -> str:
    if chooses_experts(getattr(text_model(model), "config", model.config)):
        return "float32: its router would choose other experts"
    rounded = copy.deepcopy(model).bfloat16()
    exact = by_transformers(copy.deepcopy(rounded).float(), texts) or exact
    own = by_transformers(rounded, texts)
    try:
        found = ours(find_backbone(copy.deepcopy(rounded)), texts)
    except NarrowDtypeError as error:
        return f"float32: {_reason(error)}"
    except UserError as error:
        return f"refused: {_reason(error)}"
    if own is None:
        return "WRONG: transformers itself fails"
    for pooling in POOLINGS:
        for axis in ((1, 2), (0, 2)):  # each layer of all texts, each text of all layers
            mine, theirs = (
                np.linalg.norm(each[pooling] - exact[pooling], axis=axis[1]) for each in (found, own)
            )
            mine, theirs = (np.linalg.norm(each, axis=axis[0]) for each in (mine, theirs))
            size = np.linalg.norm(np.linalg.norm(exact[pooling], axis=2), axis=axis[0])
            over = mine / (theirs + 2.0**-9 * size)
            if not over.max() <= 3:
                return f"WRONG: {over.max():.1f} times its own error"
    return "equal"


def _norm(model: nn.Module, backbone: Backbone, texts: Sequence[np.ndarray]) -> str:
    """Whether `final_norm` makes the model's output of its last block's, and is applied to every layer once."""
    if backbone.final_norm is None:
        return "none"
    name = next(name for name, each in backbone.model.named_modules() if each is backbone.final_norm)
    body = text_model(copy.deepcopy(model))
    normed = ours(backbone, texts[-4:], NormState.FINAL_NORM)[Pooling.LAST]
    for row, ids in enumerate(texts[-4:]):
        with torch.inference_mode():
            tokens = torch.from_numpy(ids.astype(np.int64))[None]
            output = body(**_inputs(body, tokens), output_hidden_states=True)
            # What was found may lie deeper in what a person calls, never inside a block.
            ends = [path for path, _ in body.named_modules() if f".{path}".endswith(f".{name}")]
            norm = body.get_submodule(min(ends, key=len))
            last = getattr(output, "last_hidden_state", output.hidden_states[-1])
            layers = [*(norm(each) for each in output.hidden_states[:-1]), last]
        theirs = torch.stack([each[0, len(ids) - 1] for each in layers]).numpy()
        if not _error(normed[:, row : row + 1], theirs[:, None]) <= 1e-4:
            return f"WRONG: {name}"
    return f"`{name}`"


def _cut(model: nn.Module, backbone: Backbone) -> str:
    """The model cut in its middle, saved and loaded as anybody would, against the layer there."""
    with tempfile.TemporaryDirectory() as scratch:
        whole, part = Path(scratch) / "whole", Path(scratch) / "cut"
        words = save_with_tokenizer(model, whole)
        norm = [] if backbone.final_norm is None else [NormState.FINAL_NORM]
        try:
            # Before and behind the final norm, side by side.
            cut = Cut(tuple(LayerState(CUT, Pooling.MEAN, each) for each in (NormState.AS_RETURNED, *norm)))
            saved = cut_model(whole, backbone, cut, part)
            loaded, tokenizer = load_plain(part)
            head = {"final_norm": saved.final_norm, "max_length": 64}
            head |= {"states": [each.described() for each in saved.states]}
            found = encode(loaded, tokenizer, head, words)
        except UserError as error:
            return f"refused: {_reason(error)}"
        except (
            Exception
        ):  # a stranger's code, with fewer blocks than it was made for: `check_exported` refuses it
            return "refused: does not run as anybody would load it"
        tokens = tokenise(tokenizer, words, 64)
        embedded = embed_tokens(
            backbone,
            tokens,
            poolings=[Pooling.MEAN],
            norm_states=cut.norm_states,
            token_budget=450,
            max_layer=CUT,
        )
        expected = np.concatenate(
            [embedded.states[each, Pooling.MEAN][CUT] for each in cut.norm_states], axis=1
        )
        if found.shape != expected.shape:
            return "refused: other embeddings"
        same = np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
        return "equal" if same else "refused: other embeddings"


def save_with_tokenizer(model: nn.Module, folder: Path) -> list[str]:
    """As a folder of Hugging Face's, with a tokenizer of words; and some texts for it."""
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    hf.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=f"w{PAD}", unk_token="w0", model_max_length=1_024
    ).save_pretrained(folder)
    return [
        " ".join(f"w{i}" for i in WORDS[start : start + length]) for start, length in ((0, 9), (3, 4), (7, 1))
    ]


def _positions(model: nn.Module) -> int | None:
    limit = getattr(getattr(text_model(model), "config", model.config), "max_position_embeddings", None)
    return limit - PAD - 1 if isinstance(limit, int) and limit > 64 else None


def _inputs(body: nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a tokenizer gives: its mask says that every token counts, the one called padding too."""
    masked = "attention_mask" in inspect.signature(body.forward).parameters
    return {"input_ids": ids} | ({"attention_mask": torch.ones_like(ids)} if masked else {})


def _error(found: np.ndarray, exact: np.ndarray) -> float:
    """The worst of layers and texts, relative. [L, N, D]."""
    if found.shape != exact.shape:
        return float("inf")
    size = np.linalg.norm(exact, axis=2)
    return float(
        np.nan_to_num(np.linalg.norm(found - exact, axis=2) / np.maximum(size, 1e-6), nan=np.inf).max()
    )


def _reason(error: UserError) -> str:
    inside = re.search(r"\((.*)\), so ", str(error))
    return inside[1] if inside else str(error).split(". ")[0]
