"""The one exception for what a user can put right: its text is a single line that says what to do."""


class InputError(ValueError):
    """Bad input: a missing folder, a damaged file, an impossible option.

    The command line prints the message as it is and exits with status 2, so the message is one line that names the
    thing that is wrong and the way out.
    """
