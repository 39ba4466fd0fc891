"""A prompt is a template around every text, and becomes part of the tokenizer: a post-processor adds its tokens.

The template's ends and the text are tokenised apart, as special tokens are, and joined as ids. So whatever a text
says, the prompt's tokens are the same; a text that is too long is cut, never the prompt; and an exported tokenizer
brings its prompt along to any program that loads it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import normalizers, processors
from transformers import PreTrainedTokenizerFast

from storage.errors import UserError
from tasks.data.dataset import Dataset
from tasks.embedding.description import load_tokenizer
from tasks.embedding.model import ModelFolder
from tasks.vocabulary import CHAT, LABEL_NAMES, NO_PROMPT, TEXT

ONE_WORD = f'This sentence: "{TEXT}" means in one word: "'
"""Jiang et al. 2024, PromptEOL, arXiv 2307.16645: the last token's state then stands for the whole text."""
# Longer lists say less than they cost: they are read with every text, and take its room.
MOST_NAMED = 120
_PLAIN_COLUMNS = {"label", "labels", "class", "target", "y", "category"}
_SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
# Of the prompts that a model brings, the first of these names that it has, after its own default.
_OWN_NAMES = ("classification", "query")
_BEFORE, _AFTER = "<before>", "<after>"


def resolve_prompt(
    asked: str, dataset: Dataset, model: ModelFolder, *, trust_remote_code: bool = False
) -> str | None:
    """The template that `--prompt` means for these classes and this model, with `{text}` in it once; None: no prompt.

    Raises:
        UserError: the model brings no prompt or chat template of its own.
    """
    if asked.startswith(CHAT):
        said = resolve_prompt(asked.removeprefix(CHAT), dataset, model) or TEXT
        tokenizer = load_tokenizer(Path(model.folder), trust_remote_code=trust_remote_code)
        return _in_chat(said, tokenizer, model.id)
    if asked == NO_PROMPT:
        return None
    if asked == "one-word":
        return ONE_WORD
    if asked == "task":
        return _task(dataset)
    if asked == "model":
        return f"{_own_prompt(model)}{TEXT}"
    return asked.replace(LABEL_NAMES, _listed(dataset.label_names))


def with_prompt(tokenizer: Any, template: str | None) -> Any:
    """A tokenizer that puts a template around every text, made from the model's own; with None that itself.

    Blanks before `{text}` become the text's own, since most vocabularies hold a word with the blank before it.

    Raises:
        UserError: the tokenizer is one of those in plain Python, or joins special tokens in a way of its own.
    """
    if template is None:
        return tokenizer
    own = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(own, tokenizers.Tokenizer):
        raise UserError(
            f"A prompt becomes part of a tokenizer of the tokenizers library, and {type(tokenizer).__name__} is none. "
            f"Sweep with --prompt {NO_PROMPT}."
        )
    backend = tokenizers.Tokenizer.from_str(own.to_str())
    before, after = template.split(TEXT)
    first, last = _special_tokens(tokenizer)
    opening, ending = _plain_ids(tokenizer, before.rstrip(" ")), _plain_ids(tokenizer, after)
    if first and opening[: len(first)] == first:
        first, last = [], []  # a chat template writes what the model is to see from its first token on
    around = {_BEFORE: first + opening, _AFTER: ending + last}
    used = {name: ids for name, ids in around.items() if ids}
    pieces = [_BEFORE] * (_BEFORE in used) + ["$A"] + [_AFTER] * (_AFTER in used)
    backend.post_processor = processors.TemplateProcessing(
        single=pieces,
        special_tokens=[
            {"id": name, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)}
            for name, ids in used.items()
        ],
    )
    if blanks := before[len(before.rstrip(" ")) :]:
        then = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(blanks), *then])
    # Of no class of its own, such as BertTokenizer, which would put its own post-processor back when it is loaded.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
        **tokenizer.special_tokens_map,
    )


def _task(dataset: Dataset) -> str:
    """`{text}⏎The emotion of this text (anger, joy, sadness) is`, as far as column and classes have names."""
    column = dataset.label_column.replace("_", " ").strip()
    asked_for = "class" if column.lower() in _PLAIN_COLUMNS else column
    names = _listed([each for each in dataset.label_names if not each.strip().lstrip("-").isdigit()])
    names = f" ({names})" if 0 < len(names) <= MOST_NAMED else ""
    return f"{TEXT}\nThe {asked_for} of this text{names} is"


def _in_chat(said: str, tokenizer: Any, model_id: str) -> str:
    """A chat in which the user says this, up to where the model's answer would begin."""
    if getattr(tokenizer, "chat_template", None) is None:
        raise UserError(
            f"{model_id} brings no chat template, so there is none for a prompt that begins with {CHAT}. Leave that "
            "out, or take the chat model of the same name."
        )
    message = [{"role": "user", "content": said}]
    try:
        chat: str = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a stranger's program, which may fail in any way
        raise UserError(
            f"The chat template of {model_id} fails: {type(error).__name__}: {error}. Leave {CHAT} out."
        ) from error
    if chat.count(TEXT) != 1:
        raise UserError(
            f"The chat template of {model_id} names the user's words {chat.count(TEXT)} times, and a prompt holds the "
            f"text once. Leave {CHAT} out."
        )
    return chat


def _listed(names: Sequence[str]) -> str:
    """Joined by commas; braces of a class name are none of the template's."""
    return ", ".join(each.replace(TEXT, "text") for each in names)


def _own_prompt(model: ModelFolder) -> str:
    """What sentence-transformers would put before a text that is to be classified."""
    file = Path(model.folder) / _SENTENCE_TRANSFORMERS
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    prompts: dict[str, str] = known.get("prompts") or {}
    for name in (known.get("default_prompt_name"), *_OWN_NAMES):
        if name is not None and prompts.get(name):
            return prompts[name].replace(TEXT, "text")
    raise UserError(
        f"{model.id} brings no prompt of its own (`prompts` in {_SENTENCE_TRANSFORMERS}), so there is none for "
        f"--prompt model. Write one, such as --prompt 'query: {TEXT}', or choose one-word or task."
    )


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer itself puts before and after every text."""
    word = "a"
    plain, whole = _plain_ids(tokenizer, word), list(tokenizer(word)["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if plain and whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    raise UserError(
        f"{type(tokenizer).__name__} joins special tokens to a text in a way of its own, where no prompt can be put. "
        f"Sweep with --prompt {NO_PROMPT}."
    )


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
