"""How a command ends: a status, and a sentence instead of a traceback for what is not the program's fault.

That is: a reader that has seen enough (``| head``), Ctrl-C, a stdout that is closed or full, and too little memory.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path


def run(main: Callable[[], int], name: str) -> int:
    """The exit status of ``main()``; ``name`` begins the sentence on stderr about what stopped it."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by the shell: ``>&-``
            setattr(sys, stream, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False))
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()  # while a closed pipe can still be told from a mistake
    except BrokenPipeError:
        _let_go_of_stdout()
        return 0
    except KeyboardInterrupt as error:
        print(" ".join([f"{name}: stopped", *getattr(error, "__notes__", ())]), file=sys.stderr)
        return 130
    except MemoryError as error:
        print(f"{name}: there is not enough memory for that{f': {error}' if str(error) else ''}", file=sys.stderr)
        return 2
    except OSError as error:
        try:
            print(flush=True)
        except OSError:  # so that is what went wrong
            _let_go_of_stdout()
            print(f"{name}: cannot write to stdout: {error.strerror}", file=sys.stderr)
            return 2
        raise


def _let_go_of_stdout() -> None:
    """What Python still writes when it ends goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def unwritable(file: Path) -> str | None:
    """Why a file cannot be written, as far as that can be seen without writing it; None if it can."""
    if file.is_dir():
        return f"{file} is a folder"
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}"
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        return f"{file} cannot be written"
    return None
