"""`python -m tests`: the whole suite; tests that drive a browser need Chromium, and what is left out is said last."""

import os
import shutil
import sys

import pytest

# A fifth of the suite's time is spent on waiting for commands, servers and a browser: one worker more than cores. A
# file stays on one of them, with the sweeps that its tests share, in the order in which they stand.
WORKERS = min((os.cpu_count() or 1) + 1, 4)
SHARED_OUT = ["--numprocesses", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder"]


def main() -> int:
    """Run pytest; its exit code."""
    # More threads than cores: one that waits for its like by spinning keeps another from working.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    has_browser = shutil.which("chromium") and shutil.which("chromedriver")
    if has_browser or os.environ.get("LAYERSCOUT_BROWSER") == "required":
        return pytest.main([*SHARED_OUT, *sys.argv[1:]])
    code = pytest.main([*SHARED_OUT, "-m", "not browser", *sys.argv[1:]])
    print("Left out: the browser tests, since there is no chromium with chromedriver on the PATH.")
    return code


if __name__ == "__main__":
    sys.exit(main())
