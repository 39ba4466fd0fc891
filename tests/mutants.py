"""`python -m tests.mutants PER_FILE`: changes to the code, one at a time, and how many of them a test notices.

mutmut makes the changes and runs for each the tests that call the function (`[tool.mutmut]` in pyproject.toml). Of the
changes of each file PER_FILE are tried, drawn by a fixed seed, or `all`. What is tried lies in mutants/, where `mutmut
show NAME` prints a change.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

SEED = 0
# As mutmut numbers them: the tests passed; no test calls the function.
SURVIVED = {0: "survived", 5: "no test", 33: "no test"}


def drawn(per_file: int | None) -> dict[str, list[str]]:
    """File → names of its changes, in the order of the seed."""
    found = {}
    for meta in sorted(Path("mutants").rglob("*.meta")):
        names = sorted(json.loads(meta.read_text())["exit_code_by_key"])
        random.Random(SEED).shuffle(names)
        if names:
            found[str(meta.relative_to("mutants").with_suffix(""))] = names[:per_file]
    return found


def main() -> None:
    """Draw, try, and print the share that was noticed, and what was not."""
    (asked,) = sys.argv[1:] or ["12"]
    mutmut = [sys.executable, "-m", "mutmut"]
    # mutmut has no way to make all changes and try none: a name that is none ends it just then.
    ended = subprocess.run([*mutmut, "run", "none"], capture_output=True, text=True, check=False)
    if "nothing matches" not in ended.stderr:
        sys.exit(f"{ended.stdout}{ended.stderr}")
    picked = drawn(None if asked == "all" else int(asked))
    names = [name for each in picked.values() for name in each]
    subprocess.run([*mutmut, "run", "--max-children", "2", *names], check=True)
    noticed = 0
    for file, each in picked.items():
        codes = json.loads(Path(f"mutants/{file}.meta").read_text())["exit_code_by_key"]
        left = {name: SURVIVED[codes[name]] for name in each if codes[name] in SURVIVED}
        noticed += len(each) - len(left)
        print(f"{file}: {len(each) - len(left)} of {len(each)} noticed, of {len(codes)} changes")
        for name, why in left.items():
            print(f"    {why}: {name}")
    print(f"In all {noticed} of {len(names)}: {noticed / len(names):.1%}")


if __name__ == "__main__":
    main()
