"""Errors that the user can fix."""


class UserError(ValueError):
    """The user's input cannot be used: the message says what, which file, expected and got, and what to do.

    A script prints it as one line and ends with status 2. Every other exception is a bug and shows its traceback.
    """
