"""The one error type that is shown to users without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A problem the user can mend: bad input, a missing file, an impossible setting.

    The message says what was expected, what came and what to do. The command line prints it and exits with code 2.
    """


class UnforeseenError(UserError):
    """Content of a stranger's file at which its reader stumbled, instead of finding it wrong: the reader's last resort.

    The cause is the exception itself. Users get one line; that it came to this is a fault of ours all the same, so the
    fuzz campaign counts it as a failure.
    """


def unforeseen(path: object, what: str, error: Exception) -> UnforeseenError:
    """Returns the error to raise from `error`, which reading `path` as `what` ended in."""
    return UnforeseenError(
        f"{path}: its content cannot be understood as {what} ({type(error).__name__}: {str(error)[:200]}); restore it"
        " from its source, or report it with the file where other programs read it"
    )


STUMBLES = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RecursionError,
    AssertionError,
)
"""What a reader ends in that meets content nobody thought of. Errors of the system and of memory are not among them."""
