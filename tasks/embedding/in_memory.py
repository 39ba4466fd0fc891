"""A model that somebody has in memory → a folder that `path:` reads."""

from pathlib import Path
from typing import Any

from storage.errors import UserError
from storage.given import keep_given


def keep_model(folder: Path, given: Any) -> Path:
    """Keep a loaded model below `folder`, in the dtype that it has; where it lies.

    given: a pair (model, tokenizer) of transformers, or a SentenceTransformer, of which its transformer is taken.

    Raises:
        UserError: it is neither.
    """
    if isinstance(given, tuple) and len(given) == 2:
        model, tokenizer = given
    elif hasattr(given, "encode") and hasattr(given, "tokenizer") and hasattr(given[0], "auto_model"):
        model, tokenizer = given[0].auto_model, given.tokenizer
    else:
        model = tokenizer = None
    if not (hasattr(model, "save_pretrained") and hasattr(model, "config")) or not hasattr(
        tokenizer, "save_pretrained"
    ):
        raise UserError(
            f"The model is neither a spec such as 'hf:OWNER/NAME' nor a pair (model, tokenizer) nor a "
            f"SentenceTransformer, but {type(given).__name__}."
        )

    def write(into: Path) -> None:
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)

    return keep_given(folder, str(model.config.model_type), write)
