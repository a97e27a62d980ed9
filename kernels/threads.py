"""Tiles of work on this project's own threads.

NumPy releases the interpreter lock inside a matrix product and inside a long element-wise loop, so plain Python
threads keep all cores busy as long as each call is long enough (about 15 microseconds and more). Three rules follow:

* While tiles run, BLAS is held at one thread. Two pools that both spin for work collapse as soon as another process
  takes a core; one-threaded BLAS below our own threads only slows down in proportion.
* A tile's working set stays within a core's second-level cache (``TILE_BYTES``).
* Every thread takes the next tile that nobody has taken, so a core that another process slows down gets fewer tiles.

Results do not depend on the number of threads: how work is cut into tiles depends on its size alone, a tile's
arithmetic is the same whoever computes it, and sums over tiles are added in the order of the tiles.
"""

import contextvars
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

TILE_BYTES = 1 << 20  # half of a second-level cache of 2 MiB; the other half holds the result and the weights
LINE = 64  # bytes of a cache line
PIECES = 4  # into how many tiles ``split`` cuts work that would fit into one, so that there is something to share

T = TypeVar("T")


def get_threads() -> int:
    """How many threads tiles are spread over: ``MINIGEN_THREADS`` or the cores this process may use."""
    if _local.limit is not None:
        return _local.limit
    if _pool.threads is None:
        _pool.threads = _default_threads()
    return _pool.threads


def _default_threads() -> int:
    given = os.environ.get("MINIGEN_THREADS", "").strip()
    if not given:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(
            f"the environment variable MINIGEN_THREADS must be a whole number of at least 1, got {given!r}"
        )
    return int(given)


def set_threads(n: int) -> None:
    """Spread tiles over ``n`` threads from now on. Calls that are running keep the threads they have."""
    if n < 1:
        raise ValueError(f"the number of threads must be at least 1, got {n}")
    _pool.resize(int(n))


@contextmanager
def threads_at(n: int) -> Iterator[None]:
    """Within it, spread the calling thread's tiles over at most ``n`` threads."""
    before, _local.limit = _local.limit, min(n, get_threads())
    try:
        yield
    finally:
        _local.limit = before


def map_tiles(function: Callable[[T], Any], tiles: Sequence[T]) -> list[Any]:
    """``[function(tile) for tile in tiles]``, spread over the threads, with BLAS held at one thread.

    A call from inside a tile runs its own tiles in the calling thread. The context of the caller (NumPy's error
    state, other context variables) holds inside the tiles. After an exception no further tile is begun, the call
    waits for those that run, and the exception of the first tile that failed is raised.
    """
    if _local.inside:
        return [_local.scratch.during(function, tile) for tile in tiles]
    n = min(get_threads(), len(tiles))
    _blas.hold()
    _local.inside = True
    try:
        return _pool.run(function, tiles, n) if n > 1 else [_local.scratch.during(function, tile) for tile in tiles]
    finally:
        _local.inside = False
        _blas.release()


@contextmanager
def blas_at_one_thread() -> Iterator[None]:
    """Hold BLAS at one thread outside of tiles too: for programs that own their process (the command line, benchmarks)."""
    _blas.hold()
    try:
        yield
    finally:
        _blas.release()


class _Scratch:
    """The scratch arrays of one thread. All operations' lie in the same memory, since those of a tile end with it.

    The memory grows between tiles, to the most that a tile has asked for; what does not fit yet is allocated
    separately.
    """

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)
        self.top = self.most = self.depth = 0
        self.places: dict[tuple[str, Any], tuple[int, np.ndarray, int]] = {}  # bytes, the memory and where in it

    def during(self, function: Callable[[Any], T], tile: Any) -> T:
        """``function(tile)``, with names of its own: those of the tile around it keep their arrays."""
        before = self.places, self.top
        if self.most > len(self.memory):
            self.memory = _aligned(self.most)
        self.places, self.depth = {}, self.depth + 1
        try:
            return function(tile)
        finally:
            (self.places, self.top), self.depth = before, self.depth - 1

    def new(self, size: int) -> tuple[int, np.ndarray, int]:
        """The next free ``size`` bytes of the memory, or separate ones."""
        if self.depth == 0:
            return size, _aligned(size), 0
        start, end = self.top, self.top + size
        self.top = -(-end // LINE) * LINE
        self.most = max(self.most, self.top)
        return (size, self.memory, start) if end <= len(self.memory) else (size, _aligned(size), 0)


class _Local(threading.local):
    """What belongs to one thread: whether it is inside a tile, a limit to its threads, and its scratch arrays."""

    def __init__(self) -> None:
        self.inside = False
        self.limit: int | None = None
        self.scratch = _Scratch()


class _Job:
    """One call of ``map_tiles``: the tiles, who is at work, and what came out."""

    def __init__(self, function: Callable[[Any], Any], tiles: Sequence[Any]) -> None:
        self.function, self.tiles = function, tiles
        self.results: list[Any] = [None] * len(tiles)
        self.changed = threading.Condition(threading.Lock())
        self.next, self.end = 0, len(tiles)
        self.helpers = 0  # threads other than the caller's that are at work
        self.failed: tuple[int, BaseException] | None = None

    def work(self) -> None:
        """Compute tiles until none is left; what a tile raises is kept in ``failed`` and ends the job."""
        while (i := self._take()) is not None:
            try:
                self.results[i] = _local.scratch.during(self.function, self.tiles[i])
            except BaseException as error:  # KeyboardInterrupt too: the other threads must stop before it goes on
                self._fail(i, error)

    def help(self) -> None:
        """``work`` in a thread that the caller must wait for."""
        with self.changed:
            if self.next >= self.end:
                return
            self.helpers += 1
        try:
            self.work()
        finally:
            with self.changed:
                self.helpers -= 1
                self.changed.notify_all()

    def finish(self) -> None:
        """Begin no further tile and return when no helper is at work, even if a signal's handler raises meanwhile."""
        try:
            with self.changed:
                self.end = 0
                while self.helpers:
                    self.changed.wait()
        except BaseException:
            self.finish()
            raise

    def _take(self) -> int | None:
        with self.changed:
            if self.next >= self.end:
                return None
            self.next += 1
            return self.next - 1

    def _fail(self, i: int, error: BaseException) -> None:
        with self.changed:
            self.end = 0
            if self.failed is None or i < self.failed[0]:
                self.failed = (i, error)


class _Pool:
    """Threads that wait for jobs. They are started at the first use and again in a forked child."""

    def __init__(self) -> None:
        self.threads: int | None = None
        self.forget()

    def forget(self) -> None:
        """Start over without threads: a forked child has none of its parent's."""
        self.lock = threading.Lock()
        self.queue: SimpleQueue[tuple[_Job, contextvars.Context] | None] = SimpleQueue()
        self.started = 0

    def resize(self, n: int) -> None:
        with self.lock:
            for _ in range(self.started):
                self.queue.put(None)  # each thread that takes one ends
            self.queue, self.started, self.threads = SimpleQueue(), 0, n

    def _start(self, n: int) -> None:
        with suppress(RuntimeError):  # no more threads can be started: those that there are do all the work
            while self.started < n:
                name = f"kernels-{self.started + 1}"
                threading.Thread(target=_serve, args=(self.queue,), name=name, daemon=True).start()
                self.started += 1

    def run(self, function: Callable[[Any], Any], tiles: Sequence[Any], n: int) -> list[Any]:
        """The job on ``n`` threads, of which the caller is one, or as many as there are."""
        job = _Job(function, tiles)
        with self.lock:
            if self.started < n - 1:
                self._start(n - 1)
            for _ in range(min(n - 1, self.started)):
                self.queue.put((job, contextvars.copy_context()))
        try:
            job.work()
        finally:
            job.finish()
        failed, job.failed = job.failed, None
        if failed is not None:
            try:
                raise failed[1]
            finally:
                del failed, job  # the traceback holds this frame, and so would keep itself and the results alive
        return job.results


def _serve(queue: "SimpleQueue[tuple[_Job, contextvars.Context] | None]") -> None:
    _local.inside = True
    _blas.hold_for_thread()
    while (item := queue.get()) is not None:
        job, context = item
        context.run(job.help)
        del item, job, context  # or the last job's arrays would live until the next one comes


class _Blas:
    """Holds NumPy's BLAS at one thread while at least one caller is inside ``map_tiles``; then restores its number.

    OpenBLAS's own functions are called, not threadpoolctl's: those silently do nothing in any thread but the first that
    called one (3.8), and they take several times longer.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0
        self.before: list[int] = []
        self.libraries: list[tuple[Callable[[], int], Callable[[int], Any], bool]] | None = None

    def hold(self) -> None:
        with self.lock:
            libraries = self._libraries()
            self.depth += 1
            if self.depth == 1:
                self.before = [get() for get, _, _ in libraries]
                self._put([1] * len(self.before))

    def release(self) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                self._put(self.before)

    def _put(self, numbers: Sequence[int]) -> None:
        for (_, put, _), before, n in zip(self._libraries(), self.before, numbers):
            if before != 1:
                put(n)

    def hold_for_thread(self) -> None:
        """Libraries that count per thread (OpenMP): permanently one thread in each of our threads."""
        for _, put, per_thread in self._libraries():
            if per_thread:
                put(1)

    def _libraries(self) -> list[tuple[Callable[[], int], Callable[[int], Any], bool]]:
        if self.libraries is None:
            from threadpoolctl import ThreadpoolController

            found = ThreadpoolController().select(user_api="blas").lib_controllers
            self.libraries = [_functions(library) for library in found]
        return self.libraries


def _functions(library: Any) -> tuple[Callable[[], int], Callable[[int], Any], bool]:
    """The functions that read and set a BLAS library's number of threads, and whether it counts per thread."""
    openmp = getattr(library, "threading_layer", None) == "openmp"
    if library.internal_api == "openblas" and not openmp:
        for prefix in ("", "scipy_"):
            for suffix in ("", "64_", "_64"):
                get = getattr(library.dynlib, f"{prefix}openblas_get_num_threads{suffix}", None)
                put = getattr(library.dynlib, f"{prefix}openblas_set_num_threads{suffix}", None)
                if get is not None and put is not None:
                    return get, put, False
    return (lambda: library.get_num_threads() or 1), library.set_num_threads, openmp


_local = _Local()
_pool = _Pool()
_blas = _Blas()


def _after_fork() -> None:
    _local.inside, _local.limit = False, None
    _pool.forget()
    libraries, _blas.libraries = _blas.libraries, None
    _blas.__init__()  # type: ignore[misc]  # a lock that another thread held at the fork would never open again
    _blas.libraries = libraries


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array; within a tile the same memory at the next call with the same name and dtype.

    For the inside of a tile only: never return it, never keep it. It begins on a cache line.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    here = _local.scratch
    found = here.places.get((name, dtype))
    if found is None or found[0] < size:
        found = here.places[name, dtype] = here.new(size)
    return np.ndarray(shape, dtype, found[1], found[2])


def _aligned(size: int) -> np.ndarray:
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size]


def split(total: int, size: int, smallest: int = 1) -> list[slice]:
    """``[0, total)`` cut into slices of at most ``size``, as even as possible, the same for any number of threads.

    Work that would fit into fewer than ``PIECES`` slices is cut into up to ``PIECES``, but not below ``smallest`` each.
    """
    if total <= 0:
        return []
    pieces = max(-(-total // max(1, size)), min(PIECES, max(1, total // max(1, smallest))))
    edges = [total * i // pieces for i in range(pieces + 1)]
    return [slice(a, b) for a, b in zip(edges, edges[1:])]
