"""Bad labelled text: files, rows, labels, columns and splits."""

import gzip
import json
from functools import partial
from pathlib import Path

import polars as pl

from tests.bad_input.case import Case

FILES, ROWS, LABELS, WORDS, COLUMNS, SPLITS = (
    "Files of texts",
    "Rows and quotation marks",
    "Labels",
    "Words and their tags",
    "Columns",
    "Splits",
)
# Twenty good rows, for what is bad to stand among.
GOOD = "".join(f"text number {i},{'good' if i % 2 else 'bad'}\n" for i in range(20))
TABLE = "text,label\n" + GOOD


def _write(name: str, content: str | bytes) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _file(kind: str, given: str, name: str, content: str | bytes, more: str = "") -> Case:
    return Case(
        kind, given, f"layerscout inspect --dataset 'path:{name}'{more}", partial(_write, name, content)
    )


def _parquet(given: str, labels: pl.Series, kind: str = LABELS) -> Case:
    frame = pl.DataFrame({"text": [f"text {i}" for i in range(len(labels))], "label": labels})
    return Case(
        kind,
        given,
        "layerscout inspect --dataset path:rows.parquet",
        lambda: frame.write_parquet("rows.parquet"),
    )


def _tagged(given: str, row: str, more: str = "") -> Case:
    """A row among good ones."""
    good = '{"tokens": ["the", "sea"], "tags": ["D", "N"]}\n{"tokens": ["wind"], "tags": ["N"]}\n' * 5
    return _file(WORDS, given, "rows.jsonl", f"{good}{row}\n", more)


def _folder(given: str, files: dict[str, str]) -> Case:
    def arrange() -> None:
        for name, content in files.items():
            _write(f"data/{name}", content)

    return Case(SPLITS, given, "layerscout inspect --dataset path:data", arrange)


CASES = [
    # Files
    _file(FILES, "an ending in capitals", "ROWS.CSV", TABLE),
    _file(FILES, "a gzipped table", "rows.csv.gz", gzip.compress(TABLE.encode(), mtime=0)),
    _file(
        FILES, "a gzipped table that is cut off", "rows.csv.gz", gzip.compress(TABLE.encode(), mtime=0)[:-9]
    ),
    _file(FILES, "a table that is not gzipped, named as if", "rows.csv.gz", TABLE),
    _file(FILES, "UTF-16 with its mark", "rows.csv", TABLE.encode("utf-16")),
    _file(FILES, "UTF-16 without a mark", "rows.csv", TABLE.encode("utf-16-le")),
    _file(
        FILES,
        "Latin-1",
        "rows.csv",
        (TABLE + "un café crème et un thé glacé à la pêche,good\n").encode("latin-1"),
    ),
    _file(
        FILES, "Latin-1, told", "rows.csv", (TABLE + "un thé,good\n").encode("latin-1"), " --encoding latin-1"
    ),
    _file(FILES, "an encoding that there is not", "rows.csv", TABLE, " --encoding klingon"),
    _file(FILES, "an encoding that it is not in", "rows.csv", TABLE + "un thé,good\n", " --encoding ascii"),
    _file(
        FILES,
        "a mark (BOM) before JSON lines",
        "rows.jsonl",
        b"\xef\xbb\xbf"
        + b"\n".join(json.dumps({"text": f"text {i}", "label": "xy"[i % 2]}).encode() for i in range(20)),
    ),
    _file(
        FILES,
        "a JSON array",
        "rows.json",
        json.dumps([{"text": f"text {i}", "label": "xy"[i % 2]} for i in range(20)]),
    ),
    _file(
        FILES, "JSON that holds columns", "rows.json", json.dumps({"text": {"0": "a"}, "label": {"0": "x"}})
    ),
    _file(FILES, "JSON over many lines that is no array", "rows.json", '{"text":\n ["a"]}'),
    _file(FILES, "JSON lines with a broken one", "rows.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"\n'),
    _file(FILES, "JSON lines of strings", "rows.jsonl", '"a"\n"b"\n'),
    _file(FILES, "a spreadsheet", "rows.xlsx", b"PK\x03\x04"),
    _file(FILES, "a text file", "rows.txt", "a\nb\n"),
    _file(FILES, "no Parquet, named as if", "rows.parquet", b"PAR1"),
    _file(FILES, "an empty file", "rows.csv", b""),
    _file(FILES, "a header and no row", "rows.csv", "text,label\n"),
    _file(FILES, "NUL characters", "rows.csv", TABLE + "a\0b,good\n"),
    _file(FILES, "line ends of an old Mac", "rows.csv", TABLE.replace("\n", "\r")),
    _file(FILES, "semicolons", "rows.csv", TABLE.replace(",", ";")),
    _file(FILES, "bars", "rows.csv", TABLE.replace(",", "|")),
    _file(FILES, "tabs in a .csv", "rows.csv", TABLE.replace(",", "\t")),
    Case(
        FILES,
        "a name like a pattern, with others that fit it",
        "layerscout inspect --dataset 'path:all*.csv'",
        lambda: (_write("all*.csv", TABLE), _write("all-old.csv", "text,label\nold,x\n")),
    ),
    Case(FILES, "a file that is not there", "layerscout inspect --dataset path:nowhere.csv"),
    Case(
        FILES,
        "a broken link",
        "layerscout inspect --dataset path:rows.csv",
        lambda: Path("rows.csv").symlink_to("gone"),
    ),
    Case(
        FILES,
        "a folder named like a file",
        "layerscout inspect --dataset path:rows.csv",
        lambda: Path("rows.csv").mkdir(),
    ),
    # Rows
    _file(
        ROWS,
        "a quotation mark that swallows rows of a CSV",
        "rows.csv",
        TABLE + '"So it begins,good\na,bad\nb,bad\nit ends",bad\n',
    ),
    _file(
        ROWS,
        "a quotation mark that swallows rows of a TSV",
        "rows.tsv",
        TABLE.replace(",", "\t") + '"So it begins\tgood\na\tbad\nb\tbad\nit ends"\tbad\n',
    ),
    _file(ROWS, "a quotation mark that is never closed", "rows.csv", TABLE + '"So it begins,good\na,bad\n'),
    _file(ROWS, "text behind a closing quotation mark", "rows.csv", TABLE + '"So" it begins,good\n'),
    _file(ROWS, "a comma in a text that is not quoted", "rows.csv", TABLE + "well, yes,good\n"),
    _file(ROWS, "a row that is too short", "rows.csv", TABLE + "well\n"),
    _file(ROWS, "blank rows and rows of separators", "rows.csv", TABLE + "\n \n,\n"),
    _file(ROWS, "an empty text", "rows.csv", TABLE + " ,good\n"),
    _file(ROWS, "a .tab file that is not Orange's", "rows.tab", TABLE.replace(",", "\t")),
    _file(
        ROWS,
        "texts that are numbers",
        "rows.csv",
        "text,label\n" + "".join(f"{i}.5,{'xy'[i % 2]}\n" for i in range(9)),
    ),
    # Labels
    _file(LABELS, "`01`, `1` and `1E0`", "rows.csv", "text,label\n" + "a,01\nb,1\nc,1E0\n" * 5),
    _file(LABELS, "an empty label", "rows.csv", TABLE + "a,\n"),
    _file(LABELS, "a label `nan`", "rows.csv", TABLE + "a,nan\n"),
    _file(LABELS, "`food` and `food `", "rows.csv", "text,label\n" + "a,food\nb,food \nc,drink\n" * 5),
    _file(LABELS, "twenty digits", "rows.csv", "text,label\n" + f"a,{'1' * 20}\nb,{'2' * 20}\n" * 5),
    _file(LABELS, "one class only", "rows.csv", "text,label\n" + "a,x\nb,x\n" * 5),
    _file(
        LABELS, "as many labels as rows", "rows.csv", "text,label\n" + "".join(f"a,x{i}\n" for i in range(20))
    ),
    _parquet("unsigned 64-bit integers", pl.Series([2**64 - 1, 0] * 9, dtype=pl.UInt64)),
    _parquet("integers that an empty cell made floats", pl.Series([1.0, 2.0] * 9)),
    _parquet("floats with a fraction", pl.Series([1.5, 2.0] * 9)),
    _file(
        LABELS,
        "test rows of one number",
        "rows.csv",
        "text,label,part\n" + "".join(f"a{i},{i}.5,train\n" for i in range(9)) + "b,0.5,test\nc,0.5,test\n",
        " --split-column part",
    ),
    _parquet("1e30", pl.Series([1e30, 2.0] * 9)),
    _parquet("NaN", pl.Series([1.0, float("nan")] * 9)),
    _parquet("dates", pl.Series([0, 1] * 9).cast(pl.Date)),
    _parquet("durations", pl.Series([0, 1] * 9).cast(pl.Duration)),
    _parquet("lists", pl.Series([["a"], ["b"]] * 9)),
    _file(
        LABELS,
        "lists in JSON",
        "rows.jsonl",
        '{"text": "a", "label": ["x"]}\n{"text": "b", "label": ["y"]}\n',
    ),
    _file(
        LABELS,
        "lists of 0 and 1, one for each label there is",
        "rows.jsonl",
        "".join(f'{{"text": "text {i}", "labels": [{i % 2}, 0, 0]}}\n' for i in range(20)),
    ),
    # Words
    _tagged("as many tags as words", '{"tokens": ["a", "ship"], "tags": ["D", "N"]}'),
    _tagged("fewer tags than words", '{"tokens": ["a", "ship"], "tags": ["D"]}'),
    _tagged("an empty word", '{"tokens": ["a", " "], "tags": ["D", "N"]}'),
    _tagged("no word", '{"tokens": [], "tags": []}'),
    _tagged("a word without a tag", '{"tokens": ["a", "ship"], "tags": ["D", null]}'),
    _tagged("words that are one string", '{"tokens": "a ship", "tags": ["D", "N"]}'),
    _tagged("tags that are one string", '{"tokens": ["a", "ship"], "tags": "DN"}'),
    _file(WORDS, "tags of a table", "rows.csv", TABLE, " --task token-classification"),
    Case(
        WORDS,
        "tags that are fractions",
        "layerscout inspect --dataset path:rows.parquet",
        lambda: pl.DataFrame({"tokens": [["a"], ["b"]] * 9, "tags": [[0.5], [1.5]] * 9}).write_parquet(
            "rows.parquet"
        ),
    ),
    _file(
        WORDS,
        "CoNLL-X, whose words are numbered, in a .conll",
        "rows.conll",
        "1\tthe\tthe\tD\tD\t_\t2\tdet\t_\t_\n2\tsea\tsea\tN\tN\t_\t0\troot\t_\t_\n\n" * 8,
    ),
    _file(
        WORDS,
        "texts so few that one is left for test",
        "rows.jsonl",
        '{"tokens": ["the", "sea"], "tags": ["D", "N"]}\n' * 4,
    ),
    # Columns
    _file(COLUMNS, "no header", "rows.csv", "what a film,good\n" + GOOD),
    _file(COLUMNS, "names that say nothing", "rows.csv", TABLE.replace("text,label", "x1,x2")),
    _file(COLUMNS, "a column that is not there", "rows.csv", TABLE, " --text-column body"),
    _file(COLUMNS, "`Text` and `TEXT`", "rows.csv", "Text,TEXT,label\n" + "a,b,x\nc,d,y\n" * 5),
    _file(COLUMNS, "two columns of one name", "rows.csv", "text,text,label\n" + "a,b,x\nc,d,y\n" * 5),
    _file(COLUMNS, "blanks around names", "rows.csv", TABLE.replace("text,label", " text , label ")),
    _file(
        COLUMNS,
        "a text column of lists",
        "rows.jsonl",
        '{"text": ["a"], "label": "x"}\n{"text": ["b"], "label": "y"}\n',
    ),
    _file(COLUMNS, "features of pairs, and one text column", "rows.csv", TABLE, " --text-pairs features"),
    _file(
        COLUMNS,
        "features of pairs of one column with itself",
        "rows.csv",
        TABLE,
        " --text-column text --text-column text --text-pairs features",
    ),
    _file(
        COLUMNS,
        "features of pairs, and an empty text in the second column",
        "rows.csv",
        "one,other,label\n" + "a,b,x\nc,d,y\n" * 5 + "e,,x\n",
        " --text-column one --text-column other --text-pairs features",
    ),
    _file(
        COLUMNS,
        "a group column of lists",
        "rows.jsonl",
        "".join(f'{{"text": "text {i}", "label": "{i % 2}", "author": ["a{i}"]}}\n' for i in range(20)),
        " --group-column author",
    ),
    Case(
        COLUMNS,
        "weights that are dates",
        "layerscout inspect --dataset path:rows.parquet --weight-column day",
        lambda: pl.DataFrame(
            {
                "text": [f"text {i}" for i in range(20)],
                "label": ["x", "y"] * 10,
                "day": pl.Series(range(20)).cast(pl.Date),
            }
        ).write_parquet("rows.parquet"),
    ),
    _file(
        COLUMNS,
        "weights of which some are next to nothing",
        "rows.csv",
        "text,label,w\n" + "".join(f"text {i},{'xy'[i % 2]},1e-{i}\n" for i in range(20)),
        " --weight-column w",
    ),
    # Splits
    _folder("train, dev and eval", {"train.csv": TABLE, "dev.csv": TABLE, "eval.csv": TABLE}),
    _folder("two files for one split", {"train.csv": TABLE, "dev.csv": TABLE, "valid.csv": TABLE}),
    _folder("no train file", {"test.csv": TABLE}),
    _folder("a label that train lacks", {"train.csv": TABLE, "test.csv": TABLE + "a,ugly\n"}),
    _folder("a test split without labels", {"train.csv": TABLE, "test.csv": "text,label\na,\nb,\n"}),
    _folder(
        "a test split with some labels missing", {"train.csv": TABLE, "test.csv": "text,label\na,good\nb,\n"}
    ),
    _folder(
        "splits that name their columns in other ways",
        {"train.csv": TABLE, "test.csv": TABLE.replace("label", "class")},
    ),
    _folder("a test split of no row", {"train.csv": TABLE, "test.csv": "text,label\n"}),
    _file(
        SPLITS,
        "times that are written in two ways",
        "rows.csv",
        "text,label,day\n"
        + "".join(f"text {i},{'xy'[i % 2]},2024-05-{i + 10}\n" for i in range(20))
        + "a,x,1/6/24\n",
        " --time-column day",
    ),
    _file(
        SPLITS,
        "a row without a time",
        "rows.csv",
        "text,label,day\n"
        + "".join(f"text {i},{'xy'[i % 2]},2024-05-{i + 10}\n" for i in range(20))
        + "a,x,\n",
        " --time-column day",
    ),
    _file(
        SPLITS,
        "a test row that is earlier than train rows",
        "rows.csv",
        "text,label,day,part\n"
        + "".join(f"text {i},{'xy'[i % 2]},{i},{'train' if i % 5 else 'test'}\n" for i in range(20)),
        " --time-column day --split-column part",
    ),
    _file(
        SPLITS,
        "three groups",
        "rows.csv",
        "text,label,author\n" + "".join(f"text {i},{'xy'[i % 2]},a{i % 3}\n" for i in range(20)),
        " --group-column author",
    ),
    _file(
        SPLITS,
        "test rows of one group",
        "rows.csv",
        "text,label,author,part\n"
        + "".join(f"text {i},{'xy'[i % 2]},a{i // 4},{'train' if i < 16 else 'test'}\n" for i in range(20)),
        " --group-column author --split-column part",
    ),
    Case(
        SPLITS,
        "groups that a gap made floats in test",
        "layerscout inspect --dataset path:data --group-column author",
        lambda: [
            _write(f"data/{split}.csv", f"text,label,author\n{rows}")
            for split, rows in (("train", "a,x,1\nb,y,2\n" * 5), ("test", "a,x,2.0\nb,y,3.0\n" * 5))
        ],
    ),
    _folder("an empty folder", {"README": "nothing here"}),
]
