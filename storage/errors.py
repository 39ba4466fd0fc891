"""The one error that is meant for a person."""


class UserError(Exception):
    """Something the user can put right: the message names the value, where it came from, and the way out.

    Everything else is a bug or the machine's fault and keeps its traceback.
    """


class UnreachableError(UserError):
    """The network or a server at its other end failed: the same call may succeed later."""
