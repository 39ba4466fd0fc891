"""The user's cache on this machine: models, wheels, calibrations and locks, shared by all storage folders."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The user's cache: `LAYERSCOUT_CACHE` where set, else the platform's own place."""
    return Path(os.environ.get("LAYERSCOUT_CACHE") or platformdirs.user_cache_dir("layerscout"))
