"""Errors of the user at the command line, each in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """One sentence that says what is wrong and what to do. The command line prints it and exits with ``status``."""

    status = 2


class NonFinite(UserError):
    """A loss, a gradient or a sample is NaN or infinite; a run keeps the last checkpoint whose numbers are sound."""


class Interrupted(UserError):
    """Somebody pressed Ctrl-C (status 130) or asked the process to end (143); what was done is saved."""

    def __init__(self, sentence: str, signal_number: int):
        super().__init__(sentence)
        self.status = 128 + signal_number


@contextmanager
def said_in_one_sentence(doing: str) -> Iterator[None]:
    """Turn the errors of our own argument checks, of numbers too large for an array, and of the file system into a UserError.

    For code whose arguments came from a person: a flag, a path. ``doing`` begins the sentence where the error does not
    name its subject, as errors of the last two kinds do not.
    """
    try:
        yield
    except (ValueError, ImportError) as error:
        said = " ".join(str(error).split())
        too_large = said.startswith(("array is too big", "Maximum allowed"))  # NumPy's own words
        raise UserError(f"{doing}: a number is too large: {said}" if too_large else said) from error
    except OverflowError as error:
        raise UserError(f"{doing}: a number is too large: {error}") from error
    except OSError as error:
        raise UserError(f"{doing}: {os_reason(error)}") from error


def in_words(error: BaseException) -> str:
    """Any exception as one line: its type and what it says."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def os_reason(error: OSError, of: object = None) -> str:
    """The operating system's reason, with the path unless it is unknown or is ``of``, which the sentence already names:
    ``No space left on device (out/log.jsonl)``.
    """
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return f"{reason} ({error.filename})" if error.filename and str(error.filename) != str(of) else reason
