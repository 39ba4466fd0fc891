"""Files of words and tags, a word a line, against what was written into them."""

import random
from pathlib import Path

import pytest

from storage.errors import UserError
from tasks.data.files import read_file

CONLL_2003 = """-DOCSTART- -X- -X- O

Peter NNP B-NP B-PER
sees VBZ B-VP O

Rome NNP B-NP B-LOC
-DOCSTART- -X- -X- O
"""
CONLLU = """# text = Au lait.
1-2\tAu\t_\t_\t_\t_\t_\t_\t_\t_
1\tA\tà\tADP\t_\t_\t3\tcase\t_\t_
2\tle\tle\tDET\t_\tGender=Masc\t3\tdet\t_\t_
2.1\tx\tx\tNOUN\t_\t_\t_\t_\t0:x\t_
3\tlait\tlait\tNOUN\t_\t_\t0\troot\t_\t_

# text = _
1\t_\t_\tSYM\tNFP\t_\t0\troot\t_\t_
"""


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


def test_columns_of_conll_2003(tmp_path: Path) -> None:
    text = CONLL_2003.replace("Rome", "\nRome")  # two blank lines are as good as one
    found = read_file(written(tmp_path, "train.conll", text), "path:train.conll")
    # The last text goes on with what looks like a document's beginning, so it is a word of it.
    assert found.to_dict(as_series=False) == {
        "tokens": [["Peter", "sees"], ["Rome", "-DOCSTART-"]],
        "column_2": [["NNP", "VBZ"], ["NNP", "-X-"]],
        "column_3": [["B-NP", "B-VP"], ["B-NP", "-X-"]],
        "tags": [["B-PER", "O"], ["B-LOC", "O"]],
    }


def test_columns_of_conllu(tmp_path: Path) -> None:
    found = read_file(written(tmp_path, "train.conllu", CONLLU), "path:train.conllu")
    assert found.to_dict(as_series=False) == {
        "tokens": [["A", "le", "lait"], ["_"]],
        "lemma": [["à", "le", "lait"], [None]],
        "upos": [["ADP", "DET", "NOUN"], ["SYM"]],
        "xpos": [[None, None, None], ["NFP"]],
        "deprel": [["case", "det", "root"], ["root"]],
    }


CONLL_X = """1\tThe\tthe\tDT\tDT\t_\t2\tdet\t_\t_
2\tsea\tsea\tNN\tNN\t_\t0\troot\t_\t_

1\tYes\tyes\tUH\tUH\t_\t0\troot\t_\t_
"""


def test_word_numbers_are_no_words(tmp_path: Path) -> None:
    uncommented = CONLLU.split("\n", 1)[1].replace("# text = _\n", "")
    for text in (CONLL_X, uncommented):
        with pytest.raises(UserError, match=r"first column .* counts the words of each text.*\.conllu"):
            read_file(written(tmp_path, "train.conll", text), "path:train.conll")
    # The way out.
    found = read_file(written(tmp_path, "train.conllu", CONLL_X), "path:train.conllu")
    assert found["tokens"].to_list() == [["The", "sea"], ["Yes"]]
    assert found["xpos"].to_list() == [["DT", "NN"], ["UH"]]
    assert found["deprel"].to_list() == [["det", "root"], ["root"]]


@pytest.mark.parametrize("columns", [3, 14])
def test_word_numbers_of_other_files_are_left_out(tmp_path: Path, columns: int) -> None:
    """CoNLL-2009 has more columns than are read of CoNLL-U."""
    lines = "\n".join("\t".join([str(i), *["x"] * (columns - 1)]) for i in (1, 2, 3))
    with pytest.raises(UserError, match=r"counts the words .*without that column"):
        read_file(written(tmp_path, "train.conll", lines), "path:train.conll")


def test_words_that_are_numbers_stay_words(tmp_path: Path) -> None:
    text = "1 N\n2 N\n\nyes O\n"
    assert read_file(written(tmp_path, "a.conll", text), "a")["tokens"].to_list() == [["1", "2"], ["yes"]]
    alone = "1 N\n\n1 N\n"
    assert read_file(written(tmp_path, "a.conll", alone), "a")["tokens"].to_list() == [["1"], ["1"]]


@pytest.mark.parametrize("seed", range(10))
def test_words_of_any_characters_come_back(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    letters = "aß中\u2028\u0085\u00a0#-._'\"\\,"
    words = [
        ["x" + "".join(draw.choices(letters, k=draw.randint(0, 5))) + "x" for _ in range(draw.randint(1, 6))]
        for _ in range(20)
    ]
    tags = [[draw.choice(["O", "B-X", "I-X"]) for _ in text] for text in words]
    between, newline = draw.choice("\t "), draw.choice(["\n", "\r\n"])
    lines = [
        newline.join(f"{word}{between}{tag}" for word, tag in zip(*text, strict=True))
        for text in zip(words, tags, strict=True)
    ]
    path = written(tmp_path, draw.choice(["a.iob", "a.bio", "A.IOB2"]), (2 * newline).join(lines))
    found = read_file(path, "path:a")
    assert (found["tokens"].to_list(), found["tags"].to_list()) == (words, tags)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.conll", "the D\nsea\n", r"line 2 has 1 columns, and 2 are wanted, a word and its tags: 'sea'"),
        ("a.iob", "the\nsea\n", "line 1 has 1 columns, and 2 are wanted"),
        ("a.conllu", "1\tthe\tD\n", "line 1 has 3 columns, and 10 are wanted of CoNLL-U"),
        ("a.conll", "\n\n-DOCSTART- O\n", "is empty: it holds no word"),
        ("a.conllu", "# text =\n", "is empty: it holds no word"),
    ],
)
def test_what_is_no_such_file_is_said_with_its_line(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_file(written(tmp_path, name, text), f"path:{name}")
