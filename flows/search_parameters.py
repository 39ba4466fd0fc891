"""What a search is asked to do: a sweep with several prompts, from flags or a file of them."""

from pathlib import Path

from pydantic import Field, field_validator

from flows.parameters import AskedOfAll, SweepParameters, checked_prompt
from storage.errors import UserError
from tasks.vocabulary import CHAT, NO_PROMPT, PROMPTS, TEXT


class SearchParameters(AskedOfAll):
    """One model × one data set with several prompts, one sweep each."""

    prompt: tuple[str, ...] = Field(
        (NO_PROMPT, "one-word", "task"),
        title="Prompts",
        description="What stands around every text: templates with {text} in them, and {label_names} for the classes' "
        "names; or one-word, task, model, none; with chat: before any of these, as what a user says in the model's "
        "chat template. Without none there is nothing to tell a gain by.",
        min_length=1,
    )
    chat: bool = Field(
        False, title="Chat", description="Try each prompt in the model's chat template too, as chat:PROMPT."
    )

    @field_validator("prompt")
    @classmethod
    def _hold_the_text_once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(checked_prompt(each) for each in values))

    @property
    def prompts(self) -> tuple[str, ...]:
        """All that are tried, in the order in which they were asked for."""
        in_chat = (
            [each if each.startswith(CHAT) else CHAT + each for each in self.prompt] if self.chat else []
        )
        return tuple(dict.fromkeys((*self.prompt, *in_chat)))

    def sweeps(self) -> list[SweepParameters]:
        """One a prompt, in their order."""
        shared = self.model_dump(exclude={"prompt", "chat"})
        return [SweepParameters(**shared, prompt=each) for each in self.prompts]


def with_prompts_of(parameters: SearchParameters, file: Path) -> SearchParameters:
    r"""The parameters with the prompts of a file beside those that were asked for, or beside none where none was.

    A line is a prompt, as `--prompt` takes it; \n in it is a line break, and empty lines are none.

    Raises:
        UserError: the file cannot be read, or a line is no prompt; it says which.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{file} (--prompt-file) cannot be read: {error}.") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                name = line.strip()
                is_named = name.removeprefix(CHAT) in PROMPTS
                prompts.append(checked_prompt(name if is_named else line.replace("\\n", "\n")))
            except ValueError as error:
                raise UserError(
                    f"{file} (--prompt-file), line {number}: {line.strip()!r} is {error}."
                ) from error
    if not prompts:
        raise UserError(f"{file} (--prompt-file) holds no prompt. Write one a line, with {TEXT} in it.")
    asked = parameters.prompt if "prompt" in parameters.model_fields_set else (NO_PROMPT,)
    return SearchParameters.model_validate(parameters.model_dump() | {"prompt": (*asked, *prompts)})
