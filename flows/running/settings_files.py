"""Where Prefect looks for its settings in the working folder, when it is imported. Nothing here imports it."""

from pathlib import Path

SETTINGS_FILES = (".env", "prefect.toml", "pyproject.toml")
"""In the order of what counts more."""


def undecodable_settings() -> Path | None:
    """The first of these files that is not UTF-8, on which Prefect's import ends; None where there is none."""
    for file in map(Path, SETTINGS_FILES):
        if file.is_file():
            try:
                file.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                return file.absolute()
    return None
