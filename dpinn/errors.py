"""What dpinn raises when the user can put it right, what it warns with, how it quotes others."""

import re


class DpinnError(Exception):
    """A mistake in the input or surroundings, told in one sentence that says what to do.

    The command line prints the sentence alone; ``--debug`` shows the traceback as well.
    """


class DpinnWarning(UserWarning):
    """Something worked otherwise than asked, and says how."""


def shown_uri(uri: str) -> str:
    """Return a URI without user name, password and query, fit for logs and messages."""
    scheme, mark, rest = uri.partition("://")
    if mark and not rest.startswith("/"):
        # Up to the last @: a password may hold a slash where SQLAlchemy reads the URI.
        rest = rest.rpartition("@")[2]
    return f"{scheme}{mark}{rest.partition('?')[0]}"


def first_line(error: BaseException) -> str:
    """Return the first line of a message, at most 200 characters, without logins that it quotes."""
    lines = str(error).splitlines() or [type(error).__name__]
    line = re.sub(r"(?<=://)(?!/)[^\s'\"]*@", "", lines[0])
    line = re.sub(r"(?i)\b(password|token)=[^&\s'\"]*", r"\1=...", line)
    # MLflow's clients put the address of the request before what went wrong.
    line = re.sub(r"^API request to \S+ failed with exception ", "", line)
    return line if len(line) <= 200 else line[:199] + "…"
