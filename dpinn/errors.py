"""What dpinn raises when the user can put it right, what it warns with, how it quotes others."""

import re


class DpinnError(Exception):
    """A mistake in the input or surroundings, told in one sentence that says what to do.

    The command line prints the sentence alone; ``--debug`` shows the traceback as well.
    """


class DpinnWarning(UserWarning):
    """Something worked otherwise than asked, and says how."""


def cause_of(error: BaseException) -> str:
    """Return what the operating system said, wherever it stands in the chain of an error.

    Where it said nothing, the error's first line; the words of torch's zip writer, which reports a
    write that fails as ``[enforce fail at inline_container.cc:664]``, are told in plain ones.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
        link = link.__cause__ or link.__context__
    if "inline_container" in str(error) or "PytorchStreamWriter" in str(error):
        return "the disk took only a part of it, as a full one does"
    return first_line(error)


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
