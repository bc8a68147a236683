"""What dpinn raises when the user can put it right, and what it warns with."""


class DpinnError(Exception):
    """A mistake in the input or surroundings, told in one sentence that says what to do.

    The command line prints the sentence alone; ``--debug`` shows the traceback as well.
    """


class DpinnWarning(UserWarning):
    """Something worked otherwise than asked, and says how."""
