r"""A batch in shards, each with a process of its own where there is a core for it: data parallelism.

A loss that is a mean of one term per item is the mean of its shards' losses, weighted by their sizes, and so is its
gradient:

$$L(B) = \sum_s \frac{|B_s|}{|B|} L(B_s), \qquad \nabla L(B) = \sum_s \frac{|B_s|}{|B|} \nabla L(B_s)$$

Why processes: the tiles of `kernels.threads` keep two cores busy inside one long operation, but a step of a small
network is a thousand short ones with Python between them, which only one thread at a time can run. For the same reason
two threads with a shard each are little faster than one. Each process has a Python of its own: the second is forked at
the first step of a stage, with everything that this one holds. Before each step it copies the weights from shared
memory; after it, it leaves its gradient there.

The shards' gradients are added in their order, whichever process computed them, so the result does not depend on the
number of processes.
"""

import gc
import mmap
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from kernels.threads import blas_at_one_thread, get_threads, set_threads, threads_at
from minigen.errors import UserError

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

Gradient = Callable[[int, int, int], dict[str, float]]
"""``gradient(objective, step, shard)`` adds a shard's share of the gradient to its module's ``flat_grad``; returns its
share of the figures.
"""


class Shards:
    """Computes the gradients of all shards and adds them up, in ``count`` processes or, where that cannot be, in this one.

    ``modules`` are all whose weights change while this object lives. The other processes do not see anything else that
    changes here in that time. After an exception (also an interrupt) they can no longer be used: `close`.
    """

    def __init__(self, count: int, modules: Sequence[Any], gradient: Gradient):
        self.count, self.helpers = count, list[Helper]()
        self.threads = max(1, get_threads() // count)
        if can_fork(count, modules):
            try:
                for shard in range(1, count):
                    self.helpers.append(Helper(shard, self.threads, modules, gradient))
            except OSError:  # no more processes or no memory for one: this one computes all shards
                self.close()
                self.helpers = []

    def __call__(self, gradient: Gradient, objective: int, step: int, module: Any) -> dict[str, float]:
        """Add the gradient of the whole batch to ``module.flat_grad`` and return the figures of the whole batch."""
        here = range(1 if self.helpers else self.count)
        for helper in self.helpers:
            helper.begin(objective, step)
        with threads_at(self.threads if self.helpers else get_threads()), blas_at_one_thread():
            found = [gradient(objective, step, shard) for shard in here]
        for helper in self.helpers:
            found.append(helper.answer())
            module.flat_grad += helper.shared[helper.modules.index(module)]
        if odd := sorted(set().union(*found).symmetric_difference(set(found[0]).intersection(*found))):
            raise UserError(
                f"a loss must return the same figures for every shard of a batch, but not all have '{odd[0]}'"
            )
        return {name: sum(figures[name] for figures in found) for name in found[0]}

    @property
    def cpu_seconds(self) -> float:
        """CPU time that the other processes have used since they began."""
        return sum(helper.cpu_seconds for helper in self.helpers)

    def close(self) -> None:
        """End the other processes."""
        for helper in self.helpers:
            helper.end()


def can_fork(count: int, modules: Sequence[Any]) -> bool:
    """Whether each shard gets a process: on Linux, with a thread for each, for weights in NumPy arrays."""
    host = all(isinstance(module.flat, np.ndarray) for module in modules)
    return count > 1 and host and sys.platform == "linux" and get_threads() >= count


class Helper:
    """The process of one shard, seen from the one that trains. ``end()`` ends it, and so does deleting this object."""

    def __init__(self, shard: int, threads: int, modules: Sequence[Any], gradient: Gradient):
        self.modules = list(modules)
        self.shared = [shared_like(module.flat) for module in modules]  # weights go in, gradients come back
        self.cpu_seconds = 0.0
        self.connection, theirs = Pipe()
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()  # or both processes would write what it holds
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of threads that could hold a lock at the fork: ours wait for tiles, see
                # kernels.threads
                warnings.simplefilter("ignore", DeprecationWarning)
                self.pid = os.fork()
            if self.pid == 0:
                self._live(theirs, shard, threads, gradient)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that the end of that process is an end of file here
        self.end = weakref.finalize(self, end, self.connection, self.pid, os.getpid())

    def begin(self, objective: int, step: int) -> None:
        """Set it to work on its shard, with the weights as they stand."""
        for shared, module in zip(self.shared, self.modules):
            shared[...] = module.flat
        try:
            self.connection.send((objective, step))
        except OSError as error:
            raise lost() from error

    def answer(self) -> dict[str, float]:
        """Wait until its gradients are in ``shared`` and return its figures, or raise what was raised there."""
        try:
            found, self.cpu_seconds = self.connection.recv()
        except (EOFError, OSError) as error:
            raise lost() from error
        if isinstance(found, Exception):
            raise found
        return found

    def _live(self, connection: Connection, shard: int, threads: int, gradient: Gradient) -> None:
        """The life of the process, from the fork to its end."""
        try:
            # a progress bar replaces these by streams whose lock another thread may have held at the fork
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
            gc.freeze()  # objects from before the fork are not collected, or every page of them would be copied
            # signals reach both processes: the one that trains finishes its step, saves, and ends this one
            for number in STOPPING:
                signal.signal(number, signal.SIG_IGN)
            self.connection.close()
            set_threads(threads)
            with blas_at_one_thread(), suppress(EOFError, OSError):  # the one that trains has ended
                while True:
                    self._serve(connection, shard, gradient)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)  # without exit handlers, which are for the process that trains

    def _serve(self, connection: Connection, shard: int, gradient: Gradient) -> None:
        """One step: weights in, gradient out."""
        objective, step = connection.recv()
        for shared, module in zip(self.shared, self.modules):
            module.flat[...] = shared
            module.flat_grad[...] = 0
        found: Any
        try:
            found = gradient(objective, step, shard)
        except Exception as error:
            found = sendable(error, f"In the process of shard {shard}:\n{traceback.format_exc()}")
        for shared, module in zip(self.shared, self.modules):
            shared[...] = module.flat_grad
        connection.send((found, time.process_time()))


def end(connection: Connection, pid: int, owner: int) -> None:
    """End a process and wait for that. It holds nothing that could be lost."""
    if os.getpid() != owner:  # a forked process has a copy of its siblings' helpers
        return
    connection.close()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):  # somebody else may have waited for it
        os.waitpid(pid, 0)


def lost() -> UserError:
    """The error for a process that has ended."""
    return UserError(
        "a process that computed a part of the gradient has ended (out of memory?): --resume goes on from the last "
        "checkpoint; with the environment variable MINIGEN_THREADS=1, in one process and with the same result"
    )


def sendable(error: Exception, note: str) -> Exception:
    """The exception with a note of where it comes from, or, if it cannot be pickled, a RuntimeError with that note."""
    error.add_note(note)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(note)
    return error


def shared_like(array: np.ndarray) -> np.ndarray:
    """An array of the same shape and dtype in memory that a forked process shares."""
    return np.frombuffer(mmap.mmap(-1, array.nbytes), array.dtype).reshape(array.shape)
