"""Snapshots of hub repositories, in the hub's own cache on this machine."""

from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from storage.errors import UnreachableError, UserError

TOKEN_HELP = "set HF_TOKEN (or the Prefect Secret block `hf-token`) to a token of an account that may read it"


def fetch_snapshot(
    name: str, revision: str | None, kind: Literal["model", "dataset"], patterns: list[str]
) -> tuple[Path, str]:
    """Bring one repository's files here, and say which commit they are.

    A snapshot that is already in the cache is used without asking the hub when `HF_HUB_OFFLINE=1`.

    Args:
        name: `OWNER/NAME` on the hub.
        revision: branch, tag or commit; None is the main branch.
        kind: which of the hub's two sorts of repository.
        patterns: file names to take, as `fnmatch` reads them.

    Raises:
        UserError: no such repository or revision, no access (401, 403), or no network.
    """
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
    try:
        folder = Path(snapshot_download(name, revision=revision, repo_type=kind, allow_patterns=patterns))
    except GatedRepoError as error:
        raise UserError(f"hf:{name} is gated. Ask for access at {page}, then {TOKEN_HELP}.") from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"hf:{name} has no revision {revision!r}. Its branches and tags are at {page}/tree/main."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"The hub has no {kind} {name!r} that you may read. Check the name at {page}; if it is private or "
            f"gated, {TOKEN_HELP}."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _unanswered(name, page, error) from error
    # The hub's cache names a snapshot's folder by its commit.
    return folder, folder.name


def _unanswered(name: str, page: str, error: Exception) -> UserError:
    """What a refusal, a failing hub or no hub at all means for the user."""
    # Where nothing lies in the cache either, the hub's client wraps what the hub answered.
    answered = error if isinstance(error, HfHubHTTPError) else error.__cause__
    if not isinstance(answered, HfHubHTTPError):
        # The user forbade the network: no waiting brings it back.
        kind = UserError if HF_HUB_OFFLINE else UnreachableError
        return kind(
            f"hf:{name} is not on this machine and the hub cannot be reached. Is there a network, and is "
            "HF_HUB_OFFLINE unset? Without a hub use wheel:NAME (built in) or path:FOLDER."
        )
    status = answered.response.status_code
    if status in (401, 403):
        return UserError(f"The hub refused hf:{name} ({status}). See {page} for access, and {TOKEN_HELP}.")
    return UnreachableError(f"The hub answered {status} for hf:{name} ({page}). Try again later.")
