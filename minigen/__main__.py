"""The command line: ``minigen list | train | sample | edit | claims | laws | book | tour`` or ``python -m minigen ...``."""

import importlib
import io
import sys
from difflib import get_close_matches

from kernels import command
from kernels.memory import keep_freed_memory
from kernels.threads import blas_at_one_thread, get_threads
from minigen import __version__
from minigen.errors import UserError, os_reason

COMMANDS = {  # name -> (module, what it does); a module is imported when its command is called
    "list": ("minigen.cli.list", "the curriculum as a table: what runs today"),
    "train": ("minigen.cli.train", "train a system and watch it: minigen train SYSTEM"),
    "sample": ("minigen.cli.sample", "draw samples from trained weights: minigen sample SYSTEM --weights FILE"),
    "edit": ("minigen.cli.edit", "edit a picture: minigen edit SYSTEM IMAGE"),
    "claims": ("minigen.cli.claims", "test common claims about these models, and write the verdicts on one page"),
    "laws": ("minigen.cli.laws", "check samplers against their maths, ours or yours: minigen laws mymodule:MySampler"),
    "book": ("minigen.cli.book", "write the sources as web pages, with the equations typeset beside the code"),
    "tour": ("minigen.cli.tour", "train every system briefly, and show them all on one page"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Mistakes of the user are reported in one sentence, with status 2."""
    return command.run(lambda: _told(sys.argv[1:] if argv is None else argv), "minigen")


def _told(args: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not every terminal can show all letters of the equations,
            stream.reconfigure(errors="replace")  # and not every path can be decoded
    try:
        return _dispatch(args)
    except UserError as error:
        print(f"minigen: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        if error.filename is None:  # not about a path: command.run looks at stdout
            raise
        print(f"minigen: cannot use a path that was given: {os_reason(error)}", file=sys.stderr)
        return UserError.status


def _dispatch(args: list[str]) -> int:
    if args[:1] == ["help"] and args[1:]:
        args = [*args[1:], "--help"]
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] == "--version":
        print(f"minigen {__version__}")
        return 0
    if args[0] not in COMMANDS:
        near = get_close_matches(args[0], COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"unknown command '{args[0]}': {hint}the commands are {', '.join(COMMANDS)}")
    module, _ = COMMANDS[args[0]]
    try:
        get_threads()
    except ValueError as error:  # of MINIGEN_THREADS
        raise UserError(str(error)) from None
    keep_freed_memory()
    with blas_at_one_thread():
        return importlib.import_module(module).main(args[1:])


def usage() -> str:
    """The help text of the command line as a whole."""
    lines = [f"  {name:8}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["usage: minigen COMMAND ...", "", *lines, "", "'minigen COMMAND --help' explains a command."])


if __name__ == "__main__":
    sys.exit(main())
