"""Predict labels, or numbers, with this folder's model and linear head: python predict.py "a text" "another text"

Where a row is a pair of texts (`text_pairs` in `head/head.json`), the two of each stand one after the other. Where
words have tags (`words`), a text's words are parted by spaces, and each is printed with its tag, a word a line.
A model that brings Python code of its own is run with --trust-remote-code before the texts, and never without.
Needs torch, transformers, safetensors and scikit-learn; `layerscout export` has put it here. As a module it gives
`load_classifier`, a scikit-learn pipeline from embeddings to class names, and `embed`, the embeddings it takes.
"""

import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

BATCH = 32
TRUST = "--trust-remote-code"


class NoTokenError(ValueError):
    """A text of which the tokenizer leaves nothing: there is nothing to embed."""


def load_classifier(folder: Path) -> Pipeline:
    """Standardisation and logistic regression with the weights of `head/`, as a fitted scikit-learn pipeline.

    Where a text is told several labels or a number, linear regression: a value of each label, or the number.
    """
    weights = load_file(folder / "head" / "weights.safetensors")
    head = json.loads((folder / "head" / "head.json").read_text(encoding="utf-8"))
    scaler = StandardScaler()
    scaler.mean_, scaler.scale_ = weights["mean"], weights["scale"]
    scaler.var_ = weights["scale"] ** 2
    scaler.n_features_in_ = len(weights["mean"])
    scaler.n_samples_seen_ = head["train_rows"]
    if "classes" not in head:
        values = LinearRegression()
        values.coef_, values.intercept_ = weights["coefficients"], weights["intercepts"]
        values.n_features_in_ = len(weights["mean"])
        return make_pipeline(scaler, values)
    regression = LogisticRegression()
    regression.classes_ = np.array(head["classes"])
    regression.coef_, regression.intercept_ = weights["coefficients"], weights["intercepts"]
    regression.n_features_in_ = len(weights["mean"])
    regression.n_iter_ = np.array([head["iterations"]])
    if len(head["classes"]) == 2:  # scikit-learn keeps one row for two classes: their difference
        regression.coef_ = regression.coef_[1:] - regression.coef_[:1]
        regression.intercept_ = regression.intercept_[1:] - regression.intercept_[:1]
    return make_pipeline(scaler, regression)


def embed(
    folder: Path,
    texts: Sequence[str] | Sequence[tuple[str, str]] | Sequence[Sequence[str]],
    *,
    trust_remote_code: bool = False,
    device: str = "cpu",
    reduced: bool = True,
) -> np.ndarray:
    """Embeddings of the texts, float64 [N, D]: what the head was fitted on, of states made in float32.

    texts: pairs, where the head was fitted on pairs; then their features, see `pair_features`. Lists of words, where it
    was fitted on words: then of all words of all texts in turn, see `encode_words`. reduced: to fewer dimensions, where
    the folder does that.
    """
    head = json.loads((folder / "head" / "head.json").read_text(encoding="utf-8"))
    if head.get("runs_own_code") and not trust_remote_code:
        names = ", ".join(sorted(each.name for each in folder.glob("*.py") if each.name != "predict.py"))
        raise PermissionError(
            f"The model runs code of its own ({names}): read it, and allow it if you trust it."
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=trust_remote_code)
    model = model.eval().to(device)
    states = encode_rows(model, tokenizer, head, texts)
    return reduce_states(folder, states) if reduced else states


def reduce_states(folder: Path, states: np.ndarray) -> np.ndarray:
    """float64 [N, D] → [N, W], to as many dimensions as the folder reduces them to; as they are where it does not."""
    reduction = folder / "head" / "reduction.safetensors"
    if not reduction.exists():
        return states
    weights = load_file(reduction)
    return states @ weights["weight"].T + weights["bias"]


def encode_rows(model: Any, tokenizer: Any, head: dict[str, Any], rows: Sequence[Any]) -> np.ndarray:
    """What `encode` gives of texts; of pairs, where the head was fitted on pairs, their features, [N, S·4·D]; of lists
    of words, where it was fitted on words, what `encode_words` gives."""
    if "words" in head:
        for row in rows:
            if isinstance(row, str) or not len(row):
                raise ValueError(f"The head was fitted on words, and {row!r:.60} is no list of some.")
        return encode_words(model, tokenizer, head, [list(row) for row in rows])
    if not head.get("text_pairs"):
        return encode(model, tokenizer, head, [str(each) for each in rows])
    for row in rows:
        if isinstance(row, str) or len(row) != 2:
            raise ValueError(f"The head was fitted on pairs of texts, and {row!r:.60} is none.")
    first, second = (encode(model, tokenizer, head, [row[at] for row in rows]) for at in (0, 1))
    return pair_features(first, second, len(head["states"]))


def pair_features(u: np.ndarray, v: np.ndarray, states: int = 1) -> np.ndarray:
    """u and v [N, S·D], embeddings of the first and the second texts → [N, S·4·D]: of each of S states in turn
    u, v, |u - v| and u * v."""
    parts = [
        part
        for one, other in zip(np.split(u, states, axis=1), np.split(v, states, axis=1), strict=True)
        for part in (one, other, np.abs(one - other), one * other)
    ]
    return np.concatenate(parts, axis=1)


def encode(model: Any, tokenizer: Any, head: dict[str, Any], texts: list[str]) -> np.ndarray:
    """float64 [N, S·D]: the states that `head` names, pooled, side by side; it is what `head.json` holds."""
    if "windows" in head:
        return encode_whole(model, tokenizer, head, texts)
    refuse_without_token(tokenizer(texts, verbose=False)["input_ids"] if texts else [], texts)
    norm = find_norm(model, head["final_norm"])
    is_deep = any(each["source"] != "last_hidden_state" for each in head["states"])
    asked = {"output_hidden_states": True} if is_deep else {}
    found = []
    for start in range(0, len(texts), BATCH):
        inputs = tokenizer(
            texts[start : start + BATCH],
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=head["max_length"],
            return_tensors="pt",
        )
        # Token types of a single text are all 0, which every model takes for granted.
        accepted = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            output = model(**accepted, **asked)
            hidden = output.hidden_states if is_deep else ()
            mask = accepted["attention_mask"].bool()
            found.append(pool_states(head["states"], output.last_hidden_state, hidden, mask, norm))
    return torch.cat(found).double().cpu().numpy()


def encode_whole(model: Any, tokenizer: Any, head: dict[str, Any], texts: list[str]) -> np.ndarray:
    """`encode` where texts of more than `max_length` tokens are not cut but read in windows, as `head.json` says."""
    norm = find_norm(model, head["final_norm"])
    tokens = [tokenizer(text, verbose=False)["input_ids"] for text in texts]
    refuse_without_token(tokens, texts)
    windows = [(text, each) for text, ids in enumerate(tokens) for each in split(len(ids), head)]
    of_text: list[list[torch.Tensor]] = [[] for _ in head["states"]]
    found = []
    for place in range(0, len(windows), BATCH):
        batch = windows[place : place + BATCH]
        ids = [in_window(tokens[text], window, head) for text, window in batch]
        longest = max(map(len, ids))
        mask = torch.tensor([[i < len(each) for i in range(longest)] for each in ids])
        inputs = torch.full(mask.shape, tokenizer.pad_token_id or 0)
        inputs[mask] = torch.tensor([token for each in ids for token in each])
        with torch.inference_mode():
            output = model(
                input_ids=inputs.to(model.device),
                attention_mask=mask.long().to(model.device),
                output_hidden_states=True,
            )
            for row, (text, (shift, start, stop)) in enumerate(batch):
                for state, parts in zip(head["states"], of_text, strict=True):
                    of_layer = layer_of(state, output.last_hidden_state, output.hidden_states)[row]
                    taken = of_layer[start - shift : stop - shift]
                    parts.append(
                        norm(taken) if norm is not None and state["source"] == "final_norm" else taken
                    )
                if stop == len(tokens[text]):
                    whole = torch.ones(1, stop, dtype=torch.bool, device=model.device)
                    pooled = [
                        pool(torch.cat(parts)[None], whole, state["pooling"], *state["around"])
                        for state, parts in zip(head["states"], of_text, strict=True)
                    ]
                    found.append(torch.cat(pooled, dim=1))
                    of_text = [[] for _ in head["states"]]
    return torch.cat(found).double().cpu().numpy()


def refuse_without_token(tokens: Sequence[Sequence[int]], texts: Sequence[str]) -> None:
    """`NoTokenError` that names the first text without one. tokens: of each text."""
    for place, (ids, text) in enumerate(zip(tokens, texts, strict=True), start=1):
        if not len(ids):
            raise NoTokenError(f"Text {place} ({text!r}) has no token, and so no embedding: leave it out.")


def encode_words(model: Any, tokenizer: Any, head: dict[str, Any], texts: list[list[str]]) -> np.ndarray:
    """float64 [W, S·D], of all words of the texts in turn: each is pooled from its own tokens.

    Of a word that has no token, or a token beyond the first `max_length` of its text, NaN.
    """
    norm = find_norm(model, head["final_norm"])
    found = []
    for start in range(0, len(texts), BATCH):
        batch = [
            # Some tokenizers have a space before all words but the first, as in a whole text.
            [words[0], *(f" {word}" for word in words[1:])] if head["words"]["spaced"] else words
            for words in texts[start : start + BATCH]
        ]
        inputs = tokenizer(
            batch,
            is_split_into_words=True,
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=head["max_length"],
            return_tensors="pt",
        )
        uncut = tokenizer(batch, is_split_into_words=True, verbose=False)
        with torch.inference_mode():
            output = model(
                input_ids=inputs["input_ids"].to(model.device),
                attention_mask=inputs["attention_mask"].to(model.device),
                output_hidden_states=True,
            )
            for row, words in enumerate(batch):
                own = tokens_of_words(inputs.word_ids(row), len(words))
                for read, whole in zip(own, tokens_of_words(uncut.word_ids(row), len(words)), strict=True):
                    if not read or len(read) < len(whole):
                        width = len(head["states"]) * output.last_hidden_state.shape[-1]
                        found.append(torch.full((1, width), float("nan"), device=model.device))
                        continue
                    at = (row, slice(read[0], read[-1] + 1))
                    hidden = [each[at][None] for each in output.hidden_states]
                    mask = torch.ones(1, read[-1] + 1 - read[0], dtype=torch.bool, device=model.device)
                    last = output.last_hidden_state[at][None]
                    found.append(pool_states(head["states"], last, hidden, mask, norm))
    return torch.cat(found).double().cpu().numpy()


def tokens_of_words(word_ids: Sequence[int | None], words: int) -> list[list[int]]:
    """The places of each word's tokens, by the word of each token."""
    places: list[list[int]] = [[] for _ in range(words)]
    for place, word in enumerate(word_ids):
        if word is not None:
            places[word].append(place)
    return places


def split(length: int, head: dict[str, Any]) -> list[tuple[int, int, int]]:
    """The windows of a text of `length` tokens, those around it among them: (shift, start, stop) each.

    Token i of a window is the text's token i + shift, and the text's tokens start to stop are taken from it. Windows
    overlap by one in `overlap` at the least, and are as few as do.
    """
    before, after = head["windows"]["around"]
    room, own = head["max_length"] - before - after, length - before - after
    if own <= room:
        return [(0, 0, length)]
    windows = -(-(own - room) // (room - room // head["windows"]["overlap"])) + 1
    starts = [window * (own - room) // (windows - 1) for window in range(windows)]
    bounds = [0]
    for one, other in pairwise(starts):
        bounds.append(before + (one + room if head["windows"]["causal"] else (one + room + other) // 2))
    bounds.append(length)
    return list(zip(starts, bounds[:-1], bounds[1:], strict=True))


def in_window(ids: list[int], window: tuple[int, int, int], head: dict[str, Any]) -> list[int]:
    """The window's tokens, with those around every text."""
    before, after = head["windows"]["around"]
    room, start = head["max_length"] - before - after, before + window[0]
    end = len(ids) - after
    return ids[:before] + ids[start : min(start + room, end)] + ids[end:]


def layer_of(state: dict[str, Any], last: torch.Tensor, hidden: Sequence[torch.Tensor]) -> torch.Tensor:
    """[B, T, D], before any norm is applied; see `pool_states`."""
    return last if state["source"] == "last_hidden_state" else hidden[state["layer"]]


def find_norm(model: torch.nn.Module, ending: str | None) -> torch.nn.Module | None:
    """The outermost of a model's modules whose name is this, or ends in it."""
    if ending is None:
        return None
    return model.get_submodule(
        min((name for name, _ in model.named_modules() if f".{name}".endswith(f".{ending}")), key=len)
    )


def pool_states(
    states: list[dict[str, Any]],
    last: torch.Tensor,
    hidden: Sequence[torch.Tensor],
    mask: torch.Tensor,
    norm: torch.nn.Module | None,
) -> torch.Tensor:
    """The states named in `head.json`, each pooled, side by side: [B, S·D].

    states: each with `layer`, `pooling`, `around` and `source`: `last_hidden_state`, `hidden_states` (of its layer), or
    `final_norm` (of those). last: [B, T, D], what the model returns. hidden: of every layer from 0 on, each [B, T, D].
    mask: bool [B, T]. norm: the model's own, where a source is `final_norm`.
    """
    parts = []
    for each in states:
        of_layer = layer_of(each, last, hidden)
        if each["source"] == "final_norm":
            assert norm is not None
            of_layer = norm(of_layer)
        parts.append(pool(of_layer, mask, each["pooling"], *each["around"]))
    return torch.cat(parts, dim=1)


def pool(
    states: torch.Tensor, mask: torch.Tensor, pooling: str, before: int = 0, after: int = 0
) -> torch.Tensor:
    """states [B, T, D] and their mask [B, T] → [B, D]. Texts begin at the left: padding is on the right.

    before, after: tokens around each text that are none of its own.
    """
    if pooling == "first":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states)), mask.sum(1) - 1]
    if pooling == "max":
        return states.masked_fill(~mask[:, :, None], float("-inf")).amax(1)
    if pooling == "mean_tail":  # the mean without the first token, unless there is no other
        mask = mask.clone()
        mask[mask.sum(1) > 1, 0] = False
    if pooling == "text_mean":  # the mean of the text's own tokens, unless it has none
        place = torch.arange(mask.shape[1], device=mask.device)
        own = mask & (place >= before) & (place < mask.sum(1, keepdim=True) - after)
        mask = torch.where(own.any(1, keepdim=True), own, mask)
    return states.masked_fill(~mask[:, :, None], 0).sum(1) / mask.sum(1, keepdim=True)


def say(head: dict[str, Any], values: np.ndarray) -> str:
    """The labels whose values [T] are above the threshold that `head.json` names; or the number, [1]."""
    if "labels" not in head:
        return f"{values[0]:.6g}"
    told = [name for name, value in zip(head["labels"], values, strict=True) if value > head["threshold"]]
    return ", ".join(told) or "no label"


def print_tags(classifier: Any, texts: Sequence[list[str]], embeddings: np.ndarray) -> None:
    """As `main` prints words. embeddings: [W, D], of all words in turn."""
    is_read = ~np.isnan(embeddings).any(axis=1)
    told = np.zeros((len(embeddings), len(classifier.classes_)))
    if is_read.any():
        told[is_read] = classifier.predict_proba(embeddings[is_read])
    place = 0
    for words in texts:
        for word in words:
            row, read = told[place], is_read[place]
            print(
                f"{word}\t{classifier.classes_[row.argmax()]}\t{row.max():.3f}" if read else f"{word}\t-\t-"
            )
            place += 1
        print()


def main(texts: list[str]) -> None:
    """Print each text's label, its probability and the text; or its labels, or its number, and the text.

    Of pairs, the label of each pair and both its texts. Of words, a word a line with its tag and the probability, "-"
    for a word that the model does not read, and a blank line after each text.
    """
    folder = Path(__file__).parent
    trusted = texts[:1] == [TRUST]
    texts = texts[1:] if trusted else texts
    classifier: Any = load_classifier(folder)
    head = json.loads((folder / "head" / "head.json").read_text(encoding="utf-8"))
    rows: Sequence[Any] = texts
    if head.get("text_pairs"):
        if not texts or len(texts) % 2:
            sys.exit(
                f"A label is of a pair of texts, and {len(texts)} were given: python predict.py ONE OTHER …"
            )
        rows = list(zip(texts[::2], texts[1::2], strict=True))
        texts = [f"{one}\t{other}" for one, other in rows]
    if "words" in head:
        rows = [text.split() for text in texts if text.strip()]
        if not rows:
            sys.exit('There is no word to tag: python predict.py "some words" …')
    try:
        embeddings = embed(folder, rows, trust_remote_code=trusted)
    except PermissionError as refused:
        sys.exit(f"{refused} python predict.py {TRUST} TEXT …")
    except NoTokenError as error:
        sys.exit(str(error))
    if "words" in head:
        print_tags(classifier, rows, embeddings)
        return
    if "classes" not in head:
        for text, row in zip(texts, classifier.predict(embeddings), strict=True):
            print(f"{say(head, row)}\t{text}")
        return
    probabilities = classifier.predict_proba(embeddings)
    for text, row in zip(texts, probabilities, strict=True):
        print(f"{classifier.classes_[row.argmax()]}\t{row.max():.3f}\t{text}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["Name some texts after the command, and their labels are predicted."])
