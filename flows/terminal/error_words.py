"""What a person reads of an error that no command of ours has raised for them."""

from collections.abc import Callable

from pydantic import ValidationError

from flows.running.settings_files import undecodable_settings
from storage.errors import is_about_a_place, is_about_a_store, told_of_a_place, told_of_a_store


def flag_errors(error: ValidationError) -> list[str]:
    """One sentence a flag: what was given and what it takes."""
    return _sentences(error, lambda name: "--" + name.replace("_", "-"))


def option_errors(error: ValidationError) -> list[str]:
    """As `flag_errors`, of options in Python."""
    return _sentences(error, lambda name: name)


def _sentences(error: ValidationError, named: Callable[[str], str]) -> list[str]:
    sentences: dict[str, str] = {}
    for each in error.errors(include_url=False):
        if not each["loc"]:  # of flags that do not go together
            sentences[each["msg"]] = f"{each['msg'].removeprefix('Value error, ')}."
            continue
        flag = named(str(each["loc"][0]))
        why = each["msg"].removeprefix("Value error, ")
        given = f"{flag} is missing." if each["type"] == "missing" else f"{flag} {each['input']}: {why}."
        sentences.setdefault(flag, given)
    return list(sentences.values())


def in_words(error: Exception, *, can_debug: bool) -> str:
    """What else may come to the outermost frame. can_debug: the command has a flag for its traceback."""
    if is_about_a_place(error):
        return told_of_a_place(error)
    if is_about_a_store(error):
        return told_of_a_store(error)
    if isinstance(error, UnicodeDecodeError) and (file := undecodable_settings()) is not None:
        return f"{file} cannot be read as UTF-8, and Prefect looks for settings there. Save it so, or take it away."
    # Of pydantic-settings, which Prefect brings: its settings are in a file that is no TOML.
    if type(error).__name__ == "SettingsError":
        return str(error)
    way = ": the same command with --debug shows where it happened" if can_debug else ""
    return f"{type(error).__name__}: {error}\nThis was not foreseen{way}."


def settings_error(error: ValidationError) -> str:
    """That Prefect cannot read one of its settings."""
    found = error.errors(include_url=False)[0]
    name = ".".join(map(str, found["loc"])) or "url"
    return (
        f"Prefect cannot use what it is told about {error.title}, {name}: {found['msg']}. It reads PREFECT_… "
        "variables, .env and prefect.toml in this folder, and its profile: correct it there, or take it out."
    )
