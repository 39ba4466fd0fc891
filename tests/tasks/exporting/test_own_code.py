"""A model that brings Python code of its own: nothing runs it, or asks to, without its flag; ids and files say so."""

import json
import runpy
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from storage.errors import UserError
from tasks.data.dataset import Dataset
from tasks.embedding.model import load_model, resolve_model
from tasks.embedding.settings import Settings, embedding_set_id
from tasks.exporting.cut import SavedCut, save_cut
from tasks.exporting.exported_check import load_plain
from tasks.exporting.linear_head import write_head
from tasks.exporting.predict import embed
from tasks.exporting.recorded_run import _same_model
from tasks.exporting.states import ExportedState, LayerState, Source
from tasks.scoring.probe import fit_probe
from tasks.vocabulary import LongTexts, NormState, Pooling

CODE = """
from transformers import LlamaModel


class Doubled(LlamaModel):
    def forward(self, *arguments, **named):
        found = super().forward(*arguments, **named)
        found.last_hidden_state = 2 * found.last_hidden_state
        return found
"""
TEXTS = ["wave tide ship", "cloud wind", "field of stone and wheat", "star"]


@pytest.fixture(scope="module")
def with_code(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama, with code that gives other states; transformers knows its family without that code too."""
    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("code") / "model"))
    config = json.loads((folder / "config.json").read_text())
    named = config | {"auto_map": {"AutoModel": "doubled.Doubled"}}
    (folder / "config.json").write_text(json.dumps(named))
    (folder / "doubled.py").write_text(CODE)
    return folder


def test_a_sweep_that_runs_it_has_an_id_of_its_own_and_any_other_the_one_that_it_had(
    tiny_model: Path, with_code: Path
) -> None:
    dataset = Dataset("path:x", "path", "f" * 32, "", "", ("a", "b"), "text", "label", 4, 2, False)

    def id_of(folder: Path, *, trust: bool) -> str:
        model = resolve_model(f"path:{folder}", trust_remote_code=trust)
        settings = Settings((Pooling.MEAN,), (NormState.AS_RETURNED,), 128, "float32", "cpu", trust)
        # Where it lies is no part of it here, so that the same id is found on every machine.
        model = type(model)(**asdict(model) | {"id": "path:model"})
        return embedding_set_id(dataset, model, settings)

    assert id_of(with_code, trust=True) != id_of(with_code, trust=False)
    assert id_of(tiny_model, trust=True) == id_of(tiny_model, trust=False)


def test_an_export_asks_for_its_own_flag(tiny_model: Path, with_code: Path) -> None:
    for folder, was_trusted, is_trusted, runs in [
        (with_code, True, True, True),
        (with_code, False, True, False),
        (with_code, False, False, False),
        (tiny_model, True, False, False),
        (tiny_model, True, True, False),
    ]:
        revision = resolve_model(f"path:{folder}").revision
        row = {"model_id": f"path:{folder}", "model_revision": revision}
        assert _same_model(row, was_trusted, is_trusted).runs_own_code is runs
    row = {"model_id": f"path:{with_code}", "model_revision": resolve_model(f"path:{with_code}").revision}
    with pytest.raises(UserError, match=r"Python code that path:.* brings.*add --trust-remote-code"):
        _same_model(row, was_trusted=True, is_trusted=False)


def exported(folder: Path, into: Path, *, trust: bool) -> Path:
    save_cut(folder, 3, into, trust_remote_code=trust)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 32), dtype=np.float32), np.arange(20, dtype=np.int32) % 2
    run: Any = SimpleNamespace(
        dataset=SimpleNamespace(classes=("sea", "sky")),
        settings=SimpleNamespace(max_length=16, long_texts=LongTexts.CUT),
        model=SimpleNamespace(runs_own_code=trust),
        of_pairs=False,
    )
    state = LayerState(3, Pooling.MEAN, NormState.AS_RETURNED)
    write_head(
        into, run, SavedCut(3, (ExportedState(state, Source.LAST),), None), fit_probe(X, y, X, y, seed=0)
    )
    return into


def test_an_exported_folder_runs_it_by_its_flag_alone_and_asks_nothing(
    with_code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = exported(with_code, tmp_path / "own", trust=True)
    with pytest.raises(PermissionError, match=r"code of its own \(doubled\.py\)"):
        embed(own, TEXTS)
    trusted = embed(own, TEXTS, trust_remote_code=True)
    # Without trust the family that transformers knows is exported, and names no code that is not there.
    plain = exported(with_code, tmp_path / "plain", trust=False)
    assert not list(plain.glob("doubled.py"))
    assert "auto_map" not in (plain / "config.json").read_text()
    np.testing.assert_allclose(trusted, 2 * embed(plain, TEXTS), rtol=1e-5)
    with pytest.raises(SystemExit, match=r"read it.*python predict\.py --trust-remote-code TEXT"):
        runpy.run_path(str(own / "predict.py"))["main"](["wave tide"])
    runpy.run_path(str(own / "predict.py"))["main"](["--trust-remote-code", "wave tide"])
    assert capsys.readouterr().out.endswith("\twave tide\n")


def test_without_trust_a_model_that_needs_its_code_is_refused_and_nobody_is_asked(
    with_code: Path, tmp_path: Path
) -> None:
    needs = Path(shutil.copytree(with_code, tmp_path / "needs"))
    config = json.loads((needs / "config.json").read_text())
    unknown = config | {"model_type": "doubled", "auto_map": {"AutoConfig": "doubled.Config"}}
    (needs / "config.json").write_text(json.dumps(unknown))
    with pytest.raises(UserError, match="--trust-remote-code"):
        resolve_model(f"path:{needs}")
    # Its code would be run, if anything did.
    (with_code / "doubled.py").write_text("raise SystemExit('run')")
    try:
        assert load_model(str(with_code), "float32", "cpu").backbone.family == "llama"
        load_plain(with_code)
    finally:
        (with_code / "doubled.py").write_text(CODE)
