"""The one error type that is shown to users without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A problem the user can mend: bad input, a missing file, an impossible setting.

    The message says what was expected, what came and what to do. The command line prints it and exits with code 2.
    """
