"""The one error that is meant for a person."""

import errno
from typing import TypeGuard


class UserError(Exception):
    """Something the user can put right: the message names the value, where it came from, and the way out.

    Everything else is a bug or the machine's fault and keeps its traceback.
    """


# What no waiting mends: somebody has to change a name, a place or its permissions.
_PLACE_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}


def is_about_a_place(error: object) -> TypeGuard[OSError]:
    """Whether a file could not be opened or written for what lies there or for its permissions, now and later.

    An absent file is no such case: its disk may be away for a moment.
    """
    return isinstance(error, OSError) and error.errno in _PLACE_ERRORS


def told_of_a_place(error: OSError) -> str:
    """Such an error as a sentence with the way out."""
    place = "" if error.filename is None else f"{error.filename}: "
    return (
        f"{place}{error.strerror or error}. Choose another place (--storage, --out, LAYERSCOUT_CACHE and HF_HOME for "
        "what is cached), or change what lies there or its permissions."
    )


# How the clients of object stores begin to say what is wrong; they have no number for it.
_STORES = ("AWS Error", "google::cloud::Status", "Azure")


def is_about_a_store(error: object) -> TypeGuard[OSError]:
    """Whether an object store did not answer, or did not let this account in."""
    return isinstance(error, OSError) and error.errno is None and any(each in str(error) for each in _STORES)


def told_of_a_store(error: OSError) -> str:
    """Such an error as a sentence with the way out."""
    why = str(error).strip().splitlines()[0].rstrip(". ")
    return (
        f"The object store cannot be read or written: {why}. Check its name, the network, and this account's "
        "credentials, or choose another place (--storage, --out). What is finished is kept."
    )


class UnreachableError(UserError):
    """The network or a server at its other end failed: the same call may succeed later."""
