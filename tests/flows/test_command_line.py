"""Looking before paying, exit codes, help that teaches, and completion."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import polars as pl
import pytest
from cyclopts import App

from flows.cli import app
from flows.parameters import SweepParameters
from flows.terminal.error_words import in_words
from flows.terminal.preview import show_inspection, show_plan
from storage.errors import UserError
from tests.conftest import labelled_text
from tests.flows.conftest import COMMAND, command_here, environment, layerscout


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's CSV: other column names, semicolons, a class of one row, a doubled text."""
    rows = labelled_text(120, seed=3)
    rows = pl.concat(
        [rows, rows.head(1), pl.DataFrame({"text": ["gull [goat] star"], "label": ["rare [1]"]})]
    )
    path = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    rows.rename({"text": "Body", "label": "stars"}).write_csv(path, separator=";")
    return path


def test_inspect_shows_classes_lengths_duplicates_and_leaks(
    reviews: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_inspection(
        f"path:{reviews}",
        text_column=(),
        joined_by="\n",
        label_column="stars",
        encoding=None,
        model=f"path:{tiny_model}",
        max_length=8,
    )
    shown = " ".join(capsys.readouterr().out.split())
    for part in (
        "text: Body, label: stars",
        r"\d+ tokens, 95 % up to \d+, longest \d+",
        r"rare \[1\] 1 0",
        r"'rare \[1\]' has fewer than 5 train rows",
        r"'rare \[1\]' has no test row",
        "are longer than the maximum length",
        "There is no test split",
    ):
        assert re.search(part, shown), part


def test_inspect_as_a_command(reviews: Path) -> None:
    done = command_here("inspect", "--dataset", f"path:{reviews}", "--label-column", "stars")
    assert (done.returncode, done.stderr) == (0, "Reading the data set\n")
    assert "characters" in done.stdout


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    reviews: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "out"
    show_plan(
        SweepParameters(
            model=f"path:{tiny_model}",
            dataset=f"path:{reviews}",
            label_column="stars",
            dtype="float32",
            device="cpu",
            storage=str(storage),
        )
    )
    shown = " ".join(capsys.readouterr().out.split())
    tokens = (
        sum(len(text.split()) for text in pl.read_csv(reviews, separator=";")["Body"]) + 2
    )  # "[goat]" is three
    assert f"{tokens:,} tokens" in shown
    assert f"{122 * 4 * 2 * 32 * 4:,} of embeddings" in shown  # rows × layers × poolings × width × bytes
    assert re.search(r"float32 on cpu, 1 shard embedding about 1 s \(assumed: 50% of the", shown)
    assert re.search(r"scoring about \d+ s \(8 layers", shown)  # 4 layers × 2 poolings
    assert "Nothing was run" in shown
    assert not storage.exists()


def test_a_dry_run_refuses_a_criterion_that_there_is_not(reviews: Path, tiny_model: Path) -> None:
    asked = SweepParameters(
        model=f"path:{tiny_model}", dataset=f"path:{reviews}", criterion=("logme", "nonesuch")
    )
    with pytest.raises(UserError, match=r"no criterion 'nonesuch'. Those known are: .*knn_loo, loes, logme"):
        show_plan(asked)


def test_exit_codes(tmp_path: Path) -> None:
    of_processes = [
        (["--version"], 0),
        (["inspect", "--dataset", f"path:{tmp_path / 'none.csv'}"], 1),
        (["sweep"], 2),
    ]
    others = [
        (["export", "0", "--out", str(tmp_path / "new"), "--storage", str(tmp_path)], 1),
        (["inspect"], 1),
        (["export", "0"], 2),
        (["export", "0", "--out", "x", "--layer", "deep"], 2),
    ]
    ended = [(layerscout(*arguments, env=environment()), code) for arguments, code in of_processes]
    for done, code in [*ended, *((command_here(*arguments), code) for arguments, code in others)]:
        assert done.returncode == code, (done.args, done.stderr)
        assert (done.stderr == "") == (code == 0)
        assert "Traceback" not in done.stderr


def test_settings_that_prefect_cannot_decode_are_named(tmp_path: Path) -> None:
    (tmp_path / "prefect.toml").write_bytes('[api]\nurl = "http://127.0.0.1:1/api"\n'.encode("utf-16"))
    done = subprocess.run(
        [*COMMAND, "doctor"], env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{tmp_path / 'prefect.toml'} cannot be read as UTF-8" in done.stderr
    assert "not foreseen" not in done.stderr


@pytest.mark.parametrize(
    "raised",
    [
        "When resolving region for bucket 'b': AWS Error NETWORK_CONNECTION during HeadBucket operation: curlCode: 6",
        "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of no token.",
    ],
)
def test_an_object_store_that_does_not_answer_is_a_sentence(raised: str) -> None:
    told = in_words(OSError(raised), can_debug=False)
    assert told.startswith(f"The object store cannot be read or written: {raised.rstrip('.')}. Check ")
    # Where nobody knows better, the error is told as it is.
    assert "not foreseen" in in_words(OSError("something else"), can_debug=False)


def test_the_version_is_that_of_the_distribution() -> None:
    assert command_here("--version").stdout.strip() == version("layerscout")


def test_ctrl_c_is_130() -> None:
    code = (
        "import sys; sys.argv = ['layerscout', 'sql', 'SELECT 1']\n"
        "import flows.cli, storage.results\n"
        "def interrupted(*_, **__): raise KeyboardInterrupt\n"
        "storage.results.query = interrupted\n"
        "flows.cli.main()\n"
    )
    done = subprocess.run([COMMAND[0], "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_help_of_every_command_has_an_example() -> None:
    commands = {name: each for name, each in app.resolved_commands().items() if not name.startswith("-")}
    assert {"sweep", "grid", "sql", "export", "inspect", "ui", "doctor"} <= set(commands)
    for name, command in commands.items():
        assert isinstance(command, App)
        assert f"Example: layerscout {name}" in (command.help or ""), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands_and_their_flags(shell: str) -> None:
    script = app.generate_completion(shell=shell)
    for word in ("inspect", "export", "dry-run", "label-column"):
        assert word in script
