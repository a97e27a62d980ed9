"""`minigen list`: the curriculum as a table."""

import os

from minigen.cli.curriculum import CURRICULUM, Entry

USAGE = "usage: minigen list\n\nThe curriculum as a table: chapter, system, paper, file, and what runs today."
WIDE = 120  # columns of a terminal from which on titles and commands are shown
WHOLE = 140  # and from which on paths of files are given from the root of the project


def main(args: list[str]) -> int:
    """Print the table; takes no arguments."""
    from rich.console import Console
    from rich.table import Table

    from minigen.cli.arguments import no_arguments

    if no_arguments("list", args, USAGE):
        return 0
    console = Console(highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdecimal():
        console.width = 160  # a pipe has no width: keep one line per entry
    wide = console.width >= WIDE
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2 if wide else 1, 0, 0))
    table.add_column("ch.", justify="right")
    table.add_column("system", no_wrap=True)
    if wide:
        table.add_column("what")
    table.add_column("paper")
    table.add_column("file", no_wrap=True)
    table.add_column("runs today" if wide else "runs", no_wrap=True)
    before = 0
    for entry in CURRICULUM:
        chapter = "" if entry.chapter == before else str(entry.chapter)
        what = [entry.title] if wide else []
        file = entry.file if console.width >= WHOLE else entry.file.removeprefix("minigen/")
        style = None if entry.exists else "dim"
        table.add_row(chapter, entry.name, *what, entry.paper, file, runs(entry, wide), style=style)
        before = entry.chapter
    console.print(table)
    if not wide:
        console.print("yes: minigen train, sample, tour")
    return 0


def runs(entry: Entry, wide: bool = True) -> str:
    """What can be done with an entry today: commands; for a part of a system, what it is."""
    if not entry.exists:
        return "planned"
    if entry.kind == "system":
        edits = ["edit"] if entry.edits else []
        return ", ".join(["train", "sample", *edits, "tour"] if wide else ["yes", *edits])
    if entry.kind == "sampler":
        return entry.used if wide else "sampler"
    if entry.kind == "part":
        return "part"
    return "import, bench" if entry.name == "kernels" and wide else "import"
