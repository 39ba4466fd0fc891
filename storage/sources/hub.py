"""`hf:`: repositories of the Hugging Face hub, as snapshots in the hub's own cache on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from storage.errors import UnreachableError, UserError
from storage.sources.source import Fetched, Kind, Source

TOKEN_HELP = "set HF_TOKEN (or the Prefect Secret block `hf-token`) to a token of an account that may read it"


@dataclass(frozen=True)
class HubSource(Source):
    """`location` is `OWNER/NAME`; no revision is the main branch."""

    scheme = "hf"
    about = "Hugging Face hub"
    ways: ClassVar[Mapping[Kind, str]] = {
        "model": "hf:OWNER/NAME[@REVISION]",
        "dataset": "hf:OWNER/NAME[@REVISION]",
    }

    revision: str | None = None

    @classmethod
    def parse(cls, location: str) -> Self:
        """Part the revision from the name."""
        repository, at, revision = location.partition("@")
        if not repository:
            raise UserError(f"'hf:{location}' names no repository. Write hf:OWNER/NAME[@REVISION].")
        if at and not revision:
            raise UserError(
                f"'hf:{location}' ends in '@' without a revision. Write hf:OWNER/NAME@REVISION, or leave out '@'."
            )
        return cls(repository, revision or None)

    @property
    def spec(self) -> str:
        """With its revision, where one was named."""
        return f"hf:{self.location}@{self.revision}" if self.revision else f"hf:{self.location}"

    @property
    def hub_id(self) -> str:
        """The repository's name."""
        return self.location

    def fetch(self, kind: Kind, patterns: Sequence[str]) -> Fetched:
        """A snapshot, and its commit."""
        folder, commit = fetch_snapshot(self.location, self.revision, kind, patterns)
        return Fetched(folder, commit, is_repository=True)

    def describe(self, kind: Kind) -> str:
        """The hub is not asked."""
        return "from the hub"

    def page(self, kind: Kind) -> str:
        """The repository on the hub."""
        return f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{self.location}"

    def pinned(self, revision: str) -> str:
        """The commit in the place of a branch."""
        return f"hf:{self.location}@{revision}"

    def below(self, root: Path) -> str:
        """A folder with the repository's name stands for it."""
        local = root / self.location.rsplit("/", 1)[-1]
        return f"path:{local}" if local.is_dir() else self.spec


def fetch_snapshot(name: str, revision: str | None, kind: Kind, patterns: Sequence[str]) -> tuple[Path, str]:
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
    # Half a second, which every other source and command need not wait for.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = HubSource(name).page(kind)
    try:
        folder = Path(
            snapshot_download(name, revision=revision, repo_type=kind, allow_patterns=list(patterns))
        )
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
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HfHubHTTPError

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
