"""`python -m tests.fuzz ENTRY FOLDER [SECONDS]`: bytes at one entry, guided by coverage; FOLDER keeps what is of use.

Needs `pip install atheris`. An input that is a find lies in FOLDER/finds: it is made small, mended, and committed below
tests/fuzz/finds/ENTRY, where a test gives it to its entry again.
"""

import importlib
import logging
import sys
from pathlib import Path

import atheris

# What it changes is taken: our own code, and the readers in Python that it calls.
with atheris.instrument_imports(include=["flows", "storage", "tasks", "csv", "json", "yaml"]):
    from tests.fuzz.entries import ENTRIES

    if sys.argv[1:2] == ["table"]:
        # The entry imports it late, and what is imported then is not followed.
        importlib.import_module("tasks.data.dataset")
from tests.fuzz.seeds import seeds


def main() -> None:
    """Until SECONDS are over (600), or until a find."""
    entry, folder, *seconds = sys.argv[1:]
    known, finds = Path(folder) / entry, Path(folder) / "finds"
    for each in (known, finds):
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()[entry]):
        (known / f"seed-{number}").write_bytes(seed)
    logging.disable(logging.CRITICAL)
    limits = ["-timeout=60", "-rss_limit_mb=4096", f"-max_total_time={seconds[0] if seconds else 600}"]
    words = Path(folder) / f"{entry}.words"
    words.write_text("\n".join(f'"{each}"' for each in WORDS[entry].split()))
    options = [*limits, f"-dict={words}", f"-artifact_prefix={finds}/{entry}-", str(known)]
    atheris.Setup([sys.argv[0], *options], ENTRIES[entry])
    atheris.Fuzz()


# What libFuzzer puts in, beside single bytes.
WORDS = {
    "table": r", ; | \x09 \" \"\" text label \x00 \xff\xfe [{ }] PAR1 null true",
    "source": r"hf: path: gguf: states: wheel: @ / .. ~ \x00 \xff",
    "grid": r"blocks: models: datasets: sweep: storage: data_root: deployment: !! &a *a <<: prompt: layers: pooling: "
    r"norm_state: metric: max_train_rows: seed: null .nan .inf 0x1 2026-01-01",
    "sql": r"SELECT FROM WHERE UNION CAST( :: INTERVAL UNNEST( generate_series( read_csv( NULL 'inf' ::BIGNUM ::TIMETZ "
    r"::VARIANT ::GEOMETRY MAP STRUCT layer_curve probe PRAGMA",
}


if __name__ == "__main__":
    main()
