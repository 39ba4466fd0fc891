"""One round of the soak: what is done for half an hour at a release is done once on every change."""

import subprocess
import sys


def test_a_round_leaves_nothing_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "0"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rounds, " in done.stdout
