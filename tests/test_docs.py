"""Every command and program in README.md and docs/ runs as it is printed, or says what it needs.

How a page is read:

- In a fence without a language, or of `console`, `bash` or `sh`, a line after `$ ` is a command and the lines up to the
  next one are what it printed. In a fence without any `$ `, lines that begin with a known program are commands.
- A fence of `python` is a program.
- All of them run, page by page and in order, in one folder that holds `reviews.csv` (columns body and stars), `model/`
  (a tiny Llama) and `layerscout-out/` (a finished sweep of the two); `RUN` stands for the id of its run.
- A comment on the line before a fence says why it does not run here, and nothing else may be in it:
  `<!-- needs: network -->` (or GPU, cluster, service, terminal, package), `<!-- run by: tests/flows/test_cli.py -->`.
  `hf:`, `wheel:` and `s3://` in a command say the same. Such commands still have to parse, with flags that exist.
- What `layerscout sql` printed has the columns that are shown. On docs/sql.md, whose tables are committed, it has
  every character: `tests/test_cookbook.py`.
"""

import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.settings import temporary_settings
from rich.console import Console

from flows.cli import app
from storage.results import query
from tests.conftest import labelled_text
from tests.flows.conftest import command_here, environment

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELLS = {"", "console", "bash", "sh"}
PROGRAMS = {"layerscout", "make", "python", "python3", "pip", "prefect", "docker", "kubectl", "helm", "git"}
# Named on docs/operations.md.
PREFECT_FLAGS = {"--limit", "--job-variable"}
NEEDS = {"network", "GPU", "cluster", "service", "terminal", "package"}
REMOTE = re.compile(r"\b(hf|wheel|s3|gs|https?):\S")
# Answered from committed tables by a test of its own.
COOKBOOK = "sql.md"


@dataclass(frozen=True)
class Fence:
    """One fenced block of a page."""

    place: str
    """Page and line, such as `docs/faq.md:12`."""
    language: str
    mark: str
    """What the comment before it says; empty without one."""
    lines: tuple[str, ...]

    def commands(self) -> list[tuple[str, list[str]]]:
        """(command, the lines that it printed); it goes on after a backslash or inside quotes."""
        if self.language not in SHELLS:
            return []
        prompted = any(line.startswith("$ ") for line in self.lines)
        found: list[tuple[str, list[str]]] = []
        lines = iter(self.lines)
        for line in lines:
            begins = line.startswith("$ ") if prompted else line.split(" ")[0] in PROGRAMS
            if begins:
                command = line.removeprefix("$ ")
                while command.endswith("\\") or command.count('"') % 2:
                    command = command.removesuffix("\\") + "\n" + next(lines)
                command = command.replace("\n", " ")
                found.append((command, []))
            elif found:
                found[-1][1].append(line)
        return found

    @property
    def runs_here(self) -> bool:
        return not self.mark and not any(
            REMOTE.search(command) or command.startswith("make ") for command, _ in self.commands()
        )


def fences(page: Path) -> Iterator[Fence]:
    """The fenced blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        if not (opened := re.fullmatch(r"```(\w*).*", lines[at])):
            at += 1
            continue
        end = lines.index("```", at + 1)
        before = re.fullmatch(r"<!-- (.+) -->", lines[at - 1]) if at else None
        place = f"{page.relative_to(ROOT)}:{at + 1}"
        yield Fence(place, opened[1], before[1] if before else "", tuple(lines[at + 1 : end]))
        at = end + 1


FENCES = [fence for page in PAGES for fence in fences(page) if fence.commands() or fence.language == "python"]
RUN_HERE = [
    fence
    for fence in FENCES
    if fence.runs_here and (fence.language == "python" or not fence.place.startswith(f"docs/{COOKBOOK}:"))
]


@pytest.fixture(scope="module")
def folder(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: str
) -> tuple[Path, dict[str, str]]:
    """The folder in which the pages' commands run, and their environment."""
    place = tmp_path_factory.mktemp("docs")
    labelled_text(400).select(body="text", stars="label").write_csv(place / "reviews.csv")
    (place / "model").symlink_to(tiny_model)
    bin_ = place / "bin"
    bin_.mkdir()
    (bin_ / "layerscout").write_text(f'#!/bin/sh\nexec {sys.executable} -m flows.cli "$@"\n')
    (bin_ / "layerscout").chmod(0o755)
    path = f"{bin_}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = environment(PREFECT_API_URL=prefect_server, PATH=path, PYTHONPATH=str(ROOT), COLUMNS="200")
    sweep = "layerscout sweep --model path:model --dataset path:reviews.csv --text-column body --label-column stars"
    shell(sweep, place, env)
    run_id = query(str(place / "layerscout-out/results.duckdb"), "SELECT run_id FROM run").item()
    return place, env | {"RUN": run_id}


def shell(command: str, place: Path, env: dict[str, str]) -> str:
    """What a command prints; it has to succeed."""
    command = re.sub(r"\bRUN\b", env.get("RUN", "RUN"), command)
    words = shlex.split(command)
    if words[0] == "layerscout" and not set(words) & {"|", ">"}:
        # In this process: a new one would spend many times the command's time on imports.
        with chdir(place), temporary_settings({"PREFECT_API_URL": env["PREFECT_API_URL"]}):
            done = command_here(*words[1:])
    else:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=place,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_mark_is_one_that_a_reader_understands() -> None:
    for fence in FENCES:
        kind, _, what = fence.mark.partition(": ")
        if kind == "run by":
            assert (ROOT / what).is_file(), f"{fence.place}: there is no {what}"
        elif fence.mark:
            assert (kind, what in NEEDS) == ("needs", True), f"{fence.place}: {fence.mark}"


@pytest.mark.parametrize("fence", FENCES, ids=lambda fence: fence.place)
def test_every_command_parses(fence: Fence) -> None:
    for command, _ in fence.commands():
        words = shlex.split(re.split(r" [|>&]", command)[0])
        if words[0] == "layerscout":
            app.parse_args(words[1:], exit_on_error=False, print_error=False)
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:2]], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("fence", RUN_HERE, ids=lambda fence: fence.place)
def test_what_is_printed_runs(fence: Fence, folder: tuple[Path, dict[str, str]]) -> None:
    place, env = folder
    if fence.language == "python":
        program = place / "program.py"
        program.write_text("\n".join(fence.lines))
        # In this process, which has imported already what a new one would spend its time on.
        with chdir(place), redirect_stdout(io.StringIO()):
            runpy.run_path(str(program), run_name="__main__")
    for command, shown in fence.commands():
        printed = shell(command, place, env).splitlines()
        if command.startswith("layerscout sql") and shown:
            assert printed[0].split() == shown[0].split()


def test_every_flag_that_a_page_names_exists() -> None:
    known = set(PREFECT_FLAGS)
    for command in [[], *([name] for name in app if not name.startswith("-"))]:
        shown = io.StringIO()
        app.help_print(command, console=Console(file=shown, width=200))
        known |= set(re.findall(r"--[a-z][a-z-]+", shown.getvalue()))
    for page in PAGES:
        # Inline code of ours alone: a fence may hold another program's flags, and its commands are parsed above.
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        ours = re.findall(r"`((?:--|layerscout )[^`\n]+)`", text)
        named = {flag for code in ours for flag in re.findall(r"(?<!\S)--[a-z][a-z-]+", code)}
        assert named <= known, f"{page.name}: {named - known}"


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_the_pages_hold_commands() -> None:
    assert len({fence.place.split(":")[0] for fence in FENCES}) >= 2
    assert RUN_HERE
