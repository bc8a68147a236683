"""What dpinn raises when the user can put it right, what it warns with, how it quotes others."""

import re


class DpinnError(Exception):
    """A mistake in the input or surroundings, told in one sentence that says what to do.

    The command line prints the sentence alone; ``--debug`` shows the traceback as well.
    """


class DpinnWarning(UserWarning):
    """Something worked otherwise than asked, and says how."""


def first_line(error: BaseException) -> str:
    """Return the first line of a message without credentials, at most 200 characters."""
    lines = shown_uri(str(error)).splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 200 else lines[0][:199] + "…"


def shown_uri(text: str) -> str:
    """Return a URI, or a text in which a library quotes one, without user name and password."""
    text = re.sub(r"(?<=://)[^/\s'\"]*@", "", text)
    return re.sub(r"(?i)\b(password|token)=[^&\s'\"]*", r"\1=...", text)
