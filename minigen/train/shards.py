r"""A batch in shards, each with a process of its own where there is a core for it: data parallelism.

A loss that is a mean of one term an item is the mean of its shards' losses, weighted by their sizes, and so is its gradient:

$$L(B) = \sum_s \frac{|B_s|}{|B|} L(B_s), \qquad \nabla L(B) = \sum_s \frac{|B_s|}{|B|} \nabla L(B_s)$$

Why processes: the tiles of `kernels.threads` keep two cores busy inside one long operation, but a step of a small network is a
thousand short ones, with Python between them, of which one thread at a time can run. Two threads with a shard each are little
faster than one for the same reason. Processes share nothing: the second one is forked when a stage's first step comes, with all
that this one holds. Before each step it copies the weights out of memory that both see; after it, it leaves its gradient there.

The shards' gradients are added in their order, whoever computed them: the result does not depend on the number of processes.
"""

import mmap
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from kernels.threads import blas_at_one_thread, get_threads, set_threads, threads_at
from minigen.errors import UserError

Gradient = Callable[[int, int, int], dict[str, float]]
"""``gradient(objective, step, shard)`` adds a shard's share of the gradient to its module's ``flat_grad``; returns its share of the figures."""


class Shards:
    """Computes the gradients of all shards and adds them up, in ``count`` processes or, where that cannot be, in this one.

    ``modules`` are all whose weights change while this object lives. `close` ends the processes.
    """

    def __init__(self, count: int, modules: Sequence[Any], gradient: Gradient):
        self.count, self.gradient = count, gradient
        self.threads = max(1, get_threads() // count)
        shards = range(1, count) if can_fork(count, modules) else range(0)
        self.helpers = [Helper(shard, self.threads, modules, gradient) for shard in shards]

    def __call__(self, objective: int, step: int, module: Any) -> dict[str, float]:
        """Add the gradient of the whole batch to ``module.flat_grad`` and return the figures of the whole batch."""
        if not self.helpers:
            return added([self.gradient(objective, step, s) for s in range(self.count)])
        for helper in self.helpers:
            helper.begin(objective, step)
        try:
            with threads_at(self.threads), blas_at_one_thread():
                found = [self.gradient(objective, step, 0)]
        finally:
            answers = [helper.answer() for helper in self.helpers]  # or they would be taken for those of the next step
        for helper, answer in zip(self.helpers, answers):
            if isinstance(answer, Exception):
                raise answer
            module.flat_grad += helper.shared[helper.modules.index(module)]
            found.append(answer)
        return added(found)

    @property
    def cpu_seconds(self) -> float:
        """CPU time that the other processes have used since they began."""
        return sum(helper.cpu_seconds for helper in self.helpers)

    def close(self) -> None:
        """End the other processes."""
        for helper in self.helpers:
            helper.close()


def can_fork(count: int, modules: Sequence[Any]) -> bool:
    """Whether each shard gets a process: on Linux, with a thread for each, for weights in NumPy arrays."""
    host = all(isinstance(module.flat, np.ndarray) for module in modules)
    return count > 1 and host and sys.platform == "linux" and get_threads() >= count


def added(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """The sum of the shards' shares, figure by figure."""
    return {name: sum(figures[name] for figures in found) for name in found[0]}


class Helper:
    """The process of one shard, seen from the one that trains."""

    def __init__(self, shard: int, threads: int, modules: Sequence[Any], gradient: Gradient):
        self.modules = list(modules)
        self.shared = [shared_like(module.flat) for module in modules]  # the weights go there, the gradients come back
        self.cpu_seconds = 0.0
        self.connection, theirs = Pipe()
        with warnings.catch_warnings():
            # Python 3.12 warns of threads that could hold a lock at the fork: ours wait for tiles, see kernels.threads
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            try:
                self.connection.close()
                set_threads(threads)
                self.serve(theirs, shard, gradient)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)  # without what is to happen once, at the end of the process that trains
        theirs.close()  # so that its end is an end of file here

    def begin(self, objective: int, step: int) -> None:
        """Set it to work on its shard, with the weights as they stand."""
        for shared, module in zip(self.shared, self.modules):
            shared[...] = module.flat
        try:
            self.connection.send((objective, step))
        except OSError as error:
            raise self.lost() from error

    def answer(self) -> Any:
        """Wait until it is done: its figures, or the exception that was raised there. Its gradients are in ``shared``."""
        try:
            found, self.cpu_seconds = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self.lost() from error
        return found

    @staticmethod
    def lost() -> UserError:
        """The error for a process that is no more."""
        return UserError(
            "a process that computed a part of the gradient has ended (out of memory?): --resume goes on from the last "
            "checkpoint, with the environment variable MINIGEN_THREADS=1 in one process and to the same result"
        )

    def close(self) -> None:
        """End it and wait for that. (The end of the file alone would not do: a process forked later has this end open too.)"""
        with suppress(OSError):
            self.connection.send(None)
        self.connection.close()
        with suppress(ChildProcessError):  # somebody else may have waited for it
            os.waitpid(self.pid, 0)

    def serve(self, connection: Connection, shard: int, gradient: Gradient) -> None:
        """The life of the process: weights in, gradient out, until the one that trains says so or is no more."""
        # Ctrl-C reaches both processes: the one that trains finishes its step and saves, and by its end ends this one
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        with blas_at_one_thread():
            while True:
                try:
                    asked = connection.recv()
                except EOFError:
                    asked = None
                if asked is None:
                    return
                objective, step = asked
                for shared, module in zip(self.shared, self.modules):
                    module.flat[...] = shared
                    module.flat_grad[...] = 0
                found: Any
                try:
                    found = gradient(objective, step, shard)
                except Exception as error:
                    error.add_note(f"In the process of shard {shard}:\n{traceback.format_exc()}")
                    found = error
                for shared, module in zip(self.shared, self.modules):
                    shared[...] = module.flat_grad
                connection.send((found, time.process_time()))


def shared_like(array: np.ndarray) -> np.ndarray:
    """An array of the same shape and dtype in memory that a forked process shares."""
    return np.frombuffer(mmap.mmap(-1, array.nbytes), array.dtype).reshape(array.shape)
