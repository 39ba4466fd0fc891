"""A file on an object store that several machines replace: read with its version, replaced only while that stands.

pyarrow's filesystems, which read and write all else, cannot compare before they write; obstore can.
"""

import importlib.util
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotFoundError,
    PreconditionError,
)
from obstore.store import ObjectStore, S3Store, from_url

from storage.errors import UnreachableError, UserError
from storage.files import filesystem

# Stores whose objects have a version that a write can name.
SCHEMES = ("s3://", "gs://", "gcs://", "abfs://", "abfss://")
# A network that is gone is told, not waited for by its client's three minutes.
RETRIES: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
# Of these one is set wherever obstore finds credentials by itself.
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


@dataclass(frozen=True)
class Version:
    """Which content of an object was read: what the store calls it, or that there was none."""

    named: Any
    """obstore's ETag and version; None where there was no object."""


class SharedObject:
    """One object of a store, for as long as one merge takes."""

    def __init__(self, uri: str) -> None:
        """Raises UserError where the store or its credentials are out of reach."""
        self.uri = uri
        folder, _, self._name = uri.rpartition("/")
        self._store = _store(folder)

    def read(self) -> tuple[bytes | None, Version]:
        """The object's content, None where there is no object, and the version to replace."""
        try:
            found = obstore.get(self._store, self._name)
            named = {name: found.meta.get(name) for name in ("e_tag", "version")}
            return bytes(found.bytes()), Version({name: each for name, each in named.items() if each})
        except (NotFoundError, FileNotFoundError):
            return None, Version(None)
        except BaseError as error:
            raise self._refused("read", error) from error

    def replace(self, content: Path, version: Version) -> bool:
        """Put a file in the place of what was read; False, and nothing is written, where that is no longer there."""
        mode: Any = "create" if version.named is None else version.named
        try:
            obstore.put(self._store, self._name, content, mode=mode, use_multipart=False)
            return True
        except (PreconditionError, AlreadyExistsError):
            return False
        except BaseError as error:
            raise self._refused("written", error) from error

    def _refused(self, what: str, error: BaseError) -> UserError:
        # obstore has one class for a network that fails and a store that is starting: these may pass.
        kind = UnreachableError if isinstance(error, GenericError) else UserError
        return kind(
            f"{self.uri} could not be {what}: {str(error).splitlines()[0]}. Are its credentials and AWS_ENDPOINT_URL "
            "those of this store, and does it know If-Match, as S3 does? The scores are staged: the same command goes "
            "on from them."
        )


def is_shared(uri: str) -> bool:
    """Whether what lies at `uri` has a version that a write can name."""
    return uri.startswith(SCHEMES)


def _store(folder: str) -> ObjectStore:
    parts = urlsplit(folder)
    if parts.scheme != "s3":
        return from_url(folder.replace("gcs://", "gs://", 1), retry_config=RETRIES)
    # Where it lies is asked of pyarrow, so that both go to the same place.
    config: Any = {"region": filesystem(folder)[0].region}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint:
        config["endpoint"] = endpoint
    options: Any = {"allow_http": endpoint.startswith("http://")}
    bucket, finder = parts.netloc.rpartition("@")[2], None
    if parts.username and parts.password:
        config |= {"access_key_id": parts.username, "secret_access_key": parts.password}
    else:
        finder = _credentials()
    return S3Store(
        bucket,
        prefix=parts.path.strip("/") or None,
        config=config,
        client_options=options,
        retry_config=RETRIES,
        credential_provider=finder,
    )


def _credentials() -> Any:
    """Who finds the keys where the environment does not hold them: boto3, if they lie in ~/.aws."""
    if any(os.environ.get(name) for name in CREDENTIALS):
        return None
    if importlib.util.find_spec("boto3") is not None:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    named = os.environ.get("AWS_SHARED_CREDENTIALS_FILE"), os.environ.get("AWS_CONFIG_FILE")
    places = [named[0] or "~/.aws/credentials", named[1] or "~/.aws/config"]
    if any(Path(place).expanduser().exists() for place in places):
        raise UserError(
            f"The keys of S3 are in {' or '.join(places)}, which merging into a shared database needs boto3 to read: "
            "`pip install 'layerscout[s3]'`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    return None
