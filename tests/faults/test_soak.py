"""One round of the soak, which takes half an hour at a release: with `make test-faults`, since its kills, readers and
sweeps are each tried on every change."""

import subprocess
import sys

from tests.faults.conftest import LONG

if LONG:

    def test_a_round_leaves_nothing_behind() -> None:
        done = subprocess.run(
            [sys.executable, "-m", "tests.soak", "0"],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 rounds, " in done.stdout
