"""Python scripts beside a data set are never run."""

from pathlib import Path

import pytest

from storage.errors import UserError
from storage.layout import Layout
from tasks.data.dataset import read_dataset
from tests.conftest import labelled_text

SCRIPT = "from pathlib import Path; Path(__file__).with_name('ran').touch()"


def test_a_folder_with_a_script_of_its_own_name_is_refused_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "verses"
    folder.mkdir()
    (folder / "verses.py").write_text(SCRIPT)
    labelled_text(40).write_parquet(folder / "train-00000-of-00001.parquet")
    for name in (folder, folder / "verses.py"):
        with pytest.raises(UserError, match=r"verses\.py"):
            read_dataset(f"path:{name}", Layout(""))
    assert not (folder / "ran").exists()


def test_a_script_of_another_name_changes_nothing(tmp_path: Path) -> None:
    labelled_text(40).write_parquet(tmp_path / "train-00000-of-00001.parquet")
    for name in ("loading.py", "dataset.py", "__init__.py"):
        (tmp_path / name).write_text(SCRIPT)
    found, _ = read_dataset(f"path:{tmp_path}", Layout(""))
    assert found.train_rows + found.test_rows == 40
    assert not (tmp_path / "ran").exists()
