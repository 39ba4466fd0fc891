"""`python -m benchmarks`: every bar against its peer, printed and written to results/latest.json.

Absolute times drift on shared machines; the ratios are taken within one process, ours and the peer in turn.
"""

import argparse
import importlib
import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

PARTS = (
    "extraction",
    "runtimes",
    "attention",
    "scoring",
    "choosing",
    "export",
    "service",
    "workers",
    "scale",
)
RESULTS = Path(__file__).parent / "results" / "latest.json"


def main() -> int:
    """Run the parts that were asked for; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--only", choices=PARTS)
    only = parser.parse_args().only
    parts = (only,) if only else PARTS
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in parts:
        bars = importlib.import_module(f"benchmarks.{part}").run()
        measured_at = datetime.now(UTC).isoformat(timespec="seconds")
        command = f"make bench ONLY={part}"
        kept[part] = {"command": command, "measured_at": measured_at, "machine": _machine(), "bars": bars}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(kept, indent=2) + "\n")
        _show(part, bars)
    return 0 if all(bar["holds"] for part in parts for bar in kept[part]["bars"]) else 1


def _machine() -> dict[str, object]:
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "machine": platform.machine(),
        "torch": version("torch"),
    }


def _show(part: str, bars: list[dict[str, object]]) -> None:
    table = Table(title=part, title_justify="left")
    for heading in ("bar", "ours", "peer", "ratio", "wanted", "holds"):
        table.add_column(heading, justify="left" if heading == "bar" else "right")
    for bar in bars:
        figures = [bar["ours"], bar["peer"], bar["ratio"]]
        numbers = [f"{each:.4g}" if isinstance(each, float) else str(each) for each in figures]
        table.add_row(str(bar["name"]), *numbers, str(bar["bar"]), "yes" if bar["holds"] else "NO")
    Console(width=160).print(table)


if __name__ == "__main__":
    sys.exit(main())
