"""What there is on this machine, what is missing, and how to get it."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import psutil
import torch
from prefect.settings import get_current_settings
from rich.console import Console
from rich.table import Table
from rich.text import Text

from storage.cache import cache_folder
from storage.errors import UserError
from storage.places import check_folder, why_not_writable
from storage.sources.wheels import BUILT_INS
from tasks.embedding.embed import choose_dtype

LEAST_FREE_GIB = 5
SHOWN_VERSIONS = ("layerscout", "prefect", "torch", "transformers", "datasets", "pyarrow", "polars", "duckdb")


def examine(storage: str) -> bool:
    """Print what was found; whether nothing is missing that a sweep needs."""
    table = Table(box=None, show_header=False, pad_edge=False)
    complete = True
    for name, found, remedy in _findings(storage):
        complete = complete and remedy is None
        mark = "[green]ok[/]" if remedy is None else "[red]missing[/]"
        table.add_row(mark, f"[bold]{name}[/]", Text(found if remedy is None else f"{found} — {remedy}"))
    Console(highlight=False).print(table)
    return complete


def _why_not_reached(storage: str) -> str | None:
    try:
        check_folder(storage, "--storage")
    except UserError as error:
        return str(error)
    return None


def _findings(storage: str) -> Iterator[tuple[str, str, str | None]]:
    gib = 2**30
    memory = psutil.virtual_memory()
    yield "machine", f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores", None
    yield "memory", f"{memory.total / gib:.0f} GiB, {memory.available / gib:.0f} GiB available", None
    yield "python", f"{platform.python_version()} in {sys.prefix}", None
    for name in SHOWN_VERSIONS:
        yield name, version(name), None
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    device = torch.device("cuda" if gpus else "cpu")
    yield "device", ", ".join(gpus) or "cpu (no CUDA device that torch can use)", None
    yield "dtype auto", str(choose_dtype(device)).removeprefix("torch."), None
    yield "threads", f"{torch.get_num_threads()}", None
    places = [("cache", cache_folder(), "LAYERSCOUT_CACHE")]
    if "://" in storage:
        yield "storage", storage, _why_not_reached(storage)
    else:
        places.insert(0, ("storage", Path(storage).absolute(), "--storage"))
    for name, folder, flag in places:
        if (why := why_not_writable(folder)) is not None:
            yield name, f"{folder}", f"{why}: choose another folder ({flag}), or change its permissions"
            continue
        nearest = next(each for each in (folder, *folder.parents) if each.exists())
        free = shutil.disk_usage(nearest).free / gib
        low = free < LEAST_FREE_GIB
        remedy = f"free at least {LEAST_FREE_GIB} GiB, or choose another folder ({flag})" if low else None
        yield name, f"{folder}, {free:.0f} GiB free", remedy
    cached = sorted(name for name in BUILT_INS if (cache_folder() / "wheels" / name).is_dir())
    yield "built in", f"{', '.join(cached) or 'none'} unpacked of {', '.join(BUILT_INS)}", None
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "--version"], capture_output=True, text=True, check=False
    )
    yield (
        "pip",
        " ".join(pip.stdout.split()[:2]) or "not there",
        "python -m ensurepip (pip fetches the built-in models)" if pip.returncode else None,
    )
    url = get_current_settings().api.url
    yield "prefect server", url or "none configured: a sweep starts its own on 127.0.0.1", None
