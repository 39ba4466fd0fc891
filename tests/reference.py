"""`python -m tests.reference`: docs/reference.md from the docstrings of `import layerscout`."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import layerscout

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
HEAD = """# Reference

Made from the docstrings by `python -m tests.reference`; [in Python](python.md) shows how it is used.
"""


def reference() -> str:
    """The page."""
    return HEAD + "".join(_entries()) + "\n"


def _entries() -> Iterator[str]:
    for name in sorted(layerscout.__all__, key=lambda each: (each[0].isupper(), each)):
        thing = getattr(layerscout, name)
        yield _entry(f"layerscout.{name}", thing, "##")
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            for attribute, member in vars(thing).items():
                if not attribute.startswith("_") and inspect.getdoc(member):
                    yield _entry(f"{name}.{attribute}", member, "###")


def _entry(name: str, thing: Any, level: str) -> str:
    if isinstance(thing, property) or (inspect.isclass(thing) and issubclass(thing, Exception)):
        title = name
    else:
        parameters = inspect.signature(thing).parameters.values()
        shown = [
            str(each.replace(annotation=inspect.Parameter.empty))
            for each in parameters
            if each.name != "self"
        ]
        keyword = next((i for i, each in enumerate(parameters) if each.kind is each.KEYWORD_ONLY), None)
        if keyword is not None:
            shown.insert(keyword - (next(iter(parameters)).name == "self"), "*")
        title = f"{name}({', '.join(shown)})"
    return f"\n{level} `{title}`\n\n```text\n{inspect.getdoc(thing)}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
