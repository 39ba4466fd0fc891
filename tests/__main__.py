"""`python -m tests`: the whole suite; tests that drive a browser need Chromium, and what is left out is said last."""

import os
import shutil
import sys

import pytest


def main() -> int:
    """Run pytest; its exit code."""
    has_browser = shutil.which("chromium") and shutil.which("chromedriver")
    if has_browser or os.environ.get("LAYERSCOUT_BROWSER") == "required":
        return pytest.main(sys.argv[1:])
    code = pytest.main(["-m", "not browser", *sys.argv[1:]])
    print("Left out: the browser tests, since there is no chromium with chromedriver on the PATH.")
    return code


if __name__ == "__main__":
    sys.exit(main())
