"""What a person sees while a run trains: a live bar on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from minigen.train.optim import ema_decay

PLAIN_SECONDS = 5.0
SMOOTHING = 0.98


class Progress:
    """Step, loss, samples per second, time left. Use as a context manager around the steps.

    ``say`` prints a line without disturbing the bar.
    """

    def __init__(self, name: str, total: int, done: int = 0):
        from rich.console import Console

        self.name, self.total, self.done = name, total, done
        self.console = Console(highlight=False, soft_wrap=True)
        self.live: Any = None
        self.start = self.spoke = time.monotonic()
        self.first = done
        self.loss: float | None = None
        self.samples = 0
        self.stage, self.entered = "", done

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Live

            self.live = Live(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self.console,
                refresh_per_second=5,
            )
            self.live.start()
            self.task = self.live.add_task(self.name, total=self.total, completed=self.done, figures="")
        self.start = self.spoke = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self._show()
            self.live.stop()
        elif self.done > self.first:
            self._show()

    def enter(self, stage: str) -> None:
        """The steps from here on are those of a stage: its name is shown, and the average of the loss starts anew."""
        if stage != self.stage:
            self.stage, self.entered, self.loss = stage, self.done, None

    def advance(self, loss: float, samples: int) -> None:
        """One step is done: its loss and how many samples it saw."""
        self.done += 1
        self.samples += samples
        d = ema_decay(self.done - self.entered, SMOOTHING)
        self.loss = loss if self.loss is None else d * self.loss + (1 - d) * loss
        now = time.monotonic()
        if now - self.spoke > (0.2 if self.live is not None else PLAIN_SECONDS):
            self.spoke = now
            self._show()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """The time within it does not count as training: samples are drawn, files written."""
        start = time.monotonic()
        yield
        self.start += time.monotonic() - start

    def say(self, text: str) -> None:
        """One line above the bar."""
        self.console.print(text, markup=False)

    def figures(self) -> str:
        """``loss 0.1234   5,120 samples/s   1:05 left``; the loss is a moving average over about 50 steps of the stage."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        steps = self.done - self.first
        if self.loss is None or steps == 0:
            return ""
        left = (self.total - self.done) * seconds / steps
        return f"loss {self.loss:.4g}   {self.samples / seconds:,.0f} samples/s   {clock(left)} left"

    def _show(self) -> None:
        title = f"{self.name} ({self.stage})" if self.stage else self.name
        if self.live is not None:
            self.live.update(self.task, description=title, completed=self.done, figures=self.figures())
        else:
            self.say(f"{title}: step {self.done}/{self.total}   {self.figures()}")


def clock(seconds: float) -> str:
    """``1:05`` or ``2:00:07``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
