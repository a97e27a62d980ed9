"""The thread pool: order, exceptions, nesting, BLAS's number of threads, and what a tile may rely on."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import threads
from kernels.threads import get_threads, map_tiles, scratch, set_threads, split, threads_at

COUNTS = [1, 2, 3, 7]


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    before = get_threads()
    yield
    set_threads(before)


def blas_threads():
    return [get() for get, _, _ in threads._blas._libraries()]


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("tiles", [0, 1, 2, 5, 100])
def test_results_come_in_the_order_of_the_tiles(n, tiles):
    set_threads(n)
    assert map_tiles(lambda i: i * i, range(tiles)) == [i * i for i in range(tiles)]
    assert get_threads() == n


def test_a_limit_holds_for_the_calling_thread_alone_and_for_as_long_as_it_lasts():
    set_threads(3)
    seen = []
    with threads_at(2):
        assert get_threads() == 2
        other = threading.Thread(target=lambda: seen.append(get_threads()))
        other.start(), other.join()
        with threads_at(5):  # no more than there are
            assert get_threads() == 2
        with pytest.raises(threading.BrokenBarrierError):  # of three tiles two run, and wait for the third
            meeting = threading.Barrier(3, timeout=0.2)
            map_tiles(lambda _: meeting.wait(), range(3))
    assert seen == [3] and get_threads() == 3
    meeting = threading.Barrier(3, timeout=20)
    map_tiles(lambda _: meeting.wait(), range(3))


def test_tiles_run_at_the_same_time():
    set_threads(3)
    meeting = threading.Barrier(3, timeout=20)
    map_tiles(lambda _: meeting.wait(), range(3))  # would time out in fewer than three threads


def test_without_threads_to_be_had_the_caller_does_it_all_and_asks_again(monkeypatch):
    def refused(thread):
        raise RuntimeError("can't start new thread")

    set_threads(3)
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refused)
        assert map_tiles(lambda i: i * i, range(8)) == [i * i for i in range(8)]
        assert threads._pool.queue.empty()  # where nobody takes a job, its results would live for ever
    meeting = threading.Barrier(3, timeout=20)
    map_tiles(lambda _: meeting.wait(), range(3))


@pytest.mark.parametrize("n", COUNTS)
def test_the_first_failing_tile_is_raised_and_nothing_runs_on(n):
    set_threads(n)
    running, finished = set(), []

    def tile(i):
        running.add(i)
        try:
            time.sleep(0.002 * (i == 3))
            if i in (3, 4, 5):
                raise KeyError(i)
            finished.append(i)
        finally:
            running.discard(i)

    for _ in range(5):
        with pytest.raises(KeyError, match="3"):
            map_tiles(tile, range(1000))
        assert not running and len(finished) < 1000
        finished.clear()
    assert map_tiles(lambda i: i, range(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_interrupts_come_out_too(error):
    set_threads(2)

    def tile(i):
        if i == 2:
            raise error

    with pytest.raises(error):
        map_tiles(tile, range(9))


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_while_waiting_leaves_no_tile_running():
    import signal

    set_threads(2)
    main, release, running = threading.current_thread(), threading.Event(), []

    def tile(i):
        if threading.current_thread() is not main:
            running.append(i)
            signal.raise_signal(signal.SIGINT)  # handled in the main thread, which waits for this tile
            release.wait(0.05)
            running.remove(i)
        else:
            while not running:
                time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        map_tiles(tile, range(2))
    assert not running


@pytest.mark.parametrize("n", COUNTS)
def test_a_call_from_inside_a_tile_stays_in_its_thread(n):
    set_threads(n)

    def tile(i):
        me = threading.get_ident()
        inner = map_tiles(lambda j: (threading.get_ident(), 10 * i + j), range(3))
        assert [thread for thread, _ in inner] == [me] * 3
        return [value for _, value in inner]

    assert map_tiles(tile, range(4)) == [[10 * i + j for j in range(3)] for i in range(4)]


def test_a_call_from_inside_a_tile_is_not_helped_by_a_thread_that_has_nothing_to_do():
    set_threads(3)
    main, meeting, busy = threading.get_ident(), threading.Barrier(3, timeout=20), []

    def tile(_):
        meeting.wait()  # every thread gets one
        if threading.get_ident() == main or busy:
            return True
        busy.append(1)
        inner = map_tiles(lambda _: (time.sleep(0.005), threading.get_ident())[1], range(10))
        return inner == [threading.get_ident()] * 10

    assert all(map_tiles(tile, range(3)))


def test_an_error_in_a_nested_call_does_not_end_the_nesting():
    set_threads(2)

    def tile(i):
        with pytest.raises(ZeroDivisionError):
            map_tiles(lambda j: 1 // j, range(2))
        return map_tiles(lambda _: threading.get_ident(), range(2)) == [threading.get_ident()] * 2

    assert all(map_tiles(tile, range(8)))


@pytest.mark.parametrize("n", [1, 2])
def test_blas_has_one_thread_inside_and_its_own_number_outside(n):
    set_threads(n)
    before = blas_threads()
    if not before:
        pytest.skip("no BLAS library was found")
    for _, put, _ in threads._blas._libraries():
        put(2)
    try:
        assert set(map_tiles(lambda _: tuple(blas_threads()), range(4))) == {(1,) * len(before)}
        assert blas_threads() == [2] * len(before)
        with pytest.raises(ZeroDivisionError):
            map_tiles(lambda i: 1 // i, range(4))
        assert blas_threads() == [2] * len(before)
    finally:
        for (_, put, _), number in zip(threads._blas._libraries(), before):
            put(number)


def test_a_program_may_hold_blas_at_one_thread_all_along():
    before = blas_threads()
    for _, put, _ in threads._blas._libraries():
        put(2)
    try:
        with threads.blas_at_one_thread():
            assert blas_threads() == [1] * len(before)
            map_tiles(lambda _: None, range(2))
            assert blas_threads() == [1] * len(before)
        assert blas_threads() == [2] * len(before)
    finally:
        for (_, put, _), number in zip(threads._blas._libraries(), before):
            put(number)


def test_callers_in_several_threads_share_the_pool_and_the_hold_on_blas():
    set_threads(2)
    before, results = blas_threads(), {}
    first_in, second_out = threading.Event(), threading.Event()

    def one():
        def tile(i):
            first_in.set()
            second_out.wait(20)  # the other call begins and ends meanwhile
            return blas_threads()

        results["one"] = map_tiles(tile, range(1))

    def two():
        first_in.wait(20)
        results["two"] = map_tiles(lambda i: blas_threads(), range(50))
        second_out.set()

    callers = [threading.Thread(target=call) for call in (one, two)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results["one"] == [[1] * len(before)]
    assert results["two"] == [[1] * len(before)] * 50
    assert blas_threads() == before


def test_many_callers_at_once():
    set_threads(3)
    got = {}

    def call(k):
        got[k] = [map_tiles(lambda i: (k, i), range(5)) for _ in range(20)]

    callers = [threading.Thread(target=call, args=(k,)) for k in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert got == {k: [[(k, i) for i in range(5)]] * 20 for k in range(6)}


@pytest.mark.parametrize("n", [1, 2])
def test_the_callers_error_state_holds_inside_the_tiles(n):
    set_threads(n)
    meeting = threading.Barrier(n, timeout=20)

    def tile(_):
        meeting.wait()  # every thread gets one
        return np.float32(np.inf) - np.float32(np.inf)

    with np.errstate(invalid="ignore"):
        map_tiles(tile, range(n))
    with np.errstate(invalid="raise"), pytest.raises(FloatingPointError):
        map_tiles(lambda i: np.float32(np.inf) - np.float32(np.inf), range(n))


def test_results_are_not_kept_alive():
    set_threads(2)
    [array] = map_tiles(lambda _: np.zeros(10), range(1))
    arrays = map_tiles(lambda _: np.zeros(10), range(6))
    kept = [weakref.ref(one) for one in [array, *arrays]]
    del array, arrays
    deadline = time.monotonic() + 10
    while any(ref() is not None for ref in kept) and time.monotonic() < deadline:
        time.sleep(0.001)  # a thread that came too late may still hold the finished job for a moment
    assert not any(ref() is not None for ref in kept)


def test_an_exception_keeps_no_results_alive():
    set_threads(2)
    kept = []

    def tile(i):
        if i == 20:
            raise KeyError
        array = np.zeros(10)
        kept.append(weakref.ref(array))
        return array

    with pytest.raises(KeyError):
        map_tiles(tile, range(30))
    gc.collect()
    deadline = time.monotonic() + 10
    while any(ref() is not None for ref in kept) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(kept) >= 20 and not any(ref() is not None for ref in kept)


def test_changing_the_number_of_threads_ends_the_old_ones():
    set_threads(6)
    meeting = threading.Barrier(6, timeout=20)
    map_tiles(lambda _: meeting.wait(), range(6))
    set_threads(2)
    deadline = time.monotonic() + 10
    while threads_of_ours() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threads_of_ours() == 0
    assert map_tiles(lambda i: i, range(3)) == [0, 1, 2]


def threads_of_ours():
    return sum(thread.name.startswith("kernels-") for thread in threading.enumerate())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_its_own_threads():
    program = """
import os, threading, warnings
from kernels.threads import get_threads, map_tiles, set_threads, threads_at
set_threads(3)
meet = lambda: map_tiles(lambda _, b=threading.Barrier(3, timeout=20): b.wait() >= 0, range(3))
assert meet() == [True] * 3
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    os._exit(0 if meet() == [True] * 3 else 1)
assert os.waitpid(child, 0)[1] == 0
assert meet() == [True] * 3
with threads_at(1):
    child = os.fork()
    if child == 0:
        os._exit(0 if get_threads() == 3 else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("n", [0, -1])
def test_at_least_one_thread(n):
    with pytest.raises(ValueError, match=f"the number of threads must be at least 1, got {n}"):
        set_threads(n)


@pytest.mark.parametrize(("value", "want"), [("3", 3), (" 2 ", 2)])
def test_the_environment_chooses(monkeypatch, value, want):
    monkeypatch.setenv("MINIGEN_THREADS", value)
    assert threads._default_threads() == want


@pytest.mark.parametrize("value", ["0", "-2", "many", "1.5"])
def test_the_environment_is_checked(monkeypatch, value):
    monkeypatch.setenv("MINIGEN_THREADS", value)
    with pytest.raises(ValueError, match=f"MINIGEN_THREADS must be a whole number of at least 1, got '{value}'"):
        threads._default_threads()


def test_without_a_choice_every_core_is_used(monkeypatch):
    monkeypatch.setenv("MINIGEN_THREADS", "")
    assert 1 <= threads._default_threads() <= (os.cpu_count() or 1)


# --- scratch ----------------------------------------------------------------------------------------------------------


@given(
    shapes=st.lists(st.lists(st.integers(0, 9), min_size=0, max_size=4), min_size=1, max_size=6),
    dtype=st.sampled_from([np.float32, np.float64, np.int32, np.dtype(bool)]),
)
def test_scratch_has_the_shape_asked_for(shapes, dtype):
    for shape in shapes:
        array = scratch("test", tuple(shape), dtype)
        assert array.shape == tuple(shape) and array.dtype == dtype and array.flags.c_contiguous
        assert array.ctypes.data % 64 == 0 or array.size == 0
        array[...] = 1


def test_scratch_is_used_again():
    first = scratch("again", (4, 5), np.float32)
    first[...] = 3
    assert np.shares_memory(first, scratch("again", (2, 3), np.float32))
    assert (scratch("again", (20,), np.float32) == 3).all()
    assert not np.shares_memory(first, scratch("other", (4, 5), np.float32))
    assert not np.shares_memory(first, scratch("again", (4, 5), np.float64))
    assert not np.shares_memory(first, scratch("again", (21,), np.float32))  # had to grow


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(0, 300), st.sampled_from([np.float32, np.float64, np.dtype(bool)])
        ),
        max_size=12,
    )
)
def test_scratch_arrays_of_a_tile_are_apart_and_keep_what_is_written(asked):
    def tile(_):
        found = {}
        for i, (name, size, dtype) in enumerate(asked):
            array = scratch(name, (size,), dtype)
            assert array.shape == (size,) and array.dtype == dtype and (array.ctypes.data % 64 == 0 or size == 0)
            array[...] = i % 2
            found[name, dtype] = array, i % 2
        return all((array == value).all() for array, value in found.values())

    assert all(map_tiles(tile, range(3)))  # the first while the memory grows, the others in it


def test_scratch_arrays_of_different_tiles_lie_in_the_same_memory():
    def work():
        found = map_tiles(lambda name: scratch(name, (1 << 16,), np.uint8), [f"an operation's {i}" for i in range(50)])
        results.append((found, len(threads._local.scratch.memory)))

    set_threads(1)
    results = []
    fresh = threading.Thread(target=work)
    fresh.start()
    fresh.join()
    ((found, size),) = results
    assert size == 1 << 16, "what one tile asks for, not what all do"
    assert all(np.shares_memory(found[1], other) for other in found[2:])


def test_a_tile_inside_a_tile_leaves_the_outer_scratch_alone():
    def inner(i):
        scratch("mine", (1000,), np.float64)[...] = -1
        return i

    def outer(i):
        mine = scratch("mine", (1000,), np.float64)
        mine[...] = i
        map_tiles(inner, range(3))
        again = scratch("mine", (1000,), np.float64)
        other = scratch("other", (1000,), np.float64)
        other[...] = -1
        return np.shares_memory(mine, again) and (mine == i).all()

    for n in (1, 2):
        set_threads(n)
        assert all(map_tiles(outer, range(4)))


def test_a_tile_that_fails_gives_its_scratch_back():
    def tile(i):
        scratch("lost", (1 << 12,), np.uint8)
        if i == 1:
            raise ValueError

    set_threads(1)
    with pytest.raises(ValueError):
        map_tiles(tile, range(3))
    assert (threads._local.scratch.top, threads._local.scratch.depth) == (0, 0)


def test_threads_do_not_share_scratch():
    set_threads(2)
    meeting = threading.Barrier(2, timeout=20)

    def tile(i):
        meeting.wait()
        mine = scratch("private", (1000,), np.float64)
        mine[...] = i
        meeting.wait()
        return (mine == i).all()

    assert all(map_tiles(tile, range(2)))


# --- split ------------------------------------------------------------------------------------------------------------


@given(total=st.integers(-3, 500), size=st.integers(0, 60), smallest=st.integers(0, 60))
def test_split_covers_everything_once_and_evenly(total, size, smallest):
    cut = split(total, size, smallest)
    assert [i for part in cut for i in range(part.start, part.stop)] == list(range(max(0, total)))
    lengths = [part.stop - part.start for part in cut]
    assert all(1 <= length <= max(1, size) for length in lengths)
    assert not lengths or max(lengths) - min(lengths) <= 1
    if total > 0:
        assert len(cut) >= min(threads.PIECES, total // max(1, smallest))
        assert len(cut) <= max(-(-total // max(1, size)), threads.PIECES)


@pytest.mark.parametrize(
    ("asked", "lengths"),
    [((100, 1000, 40), [50, 50]), ((100, 1000, 60), [100]), ((3, 10), [1, 1, 1]), ((8, 10), [2] * 4)],
)
def test_split_makes_no_small_pieces_of_what_would_fit_into_one(asked, lengths):
    assert [part.stop - part.start for part in split(*asked)] == lengths


def test_split_does_not_depend_on_the_number_of_threads():
    cuts = []
    for n in COUNTS:
        set_threads(n)
        cuts.append(split(1000, 300, 10))
    assert cuts == [cuts[0]] * len(COUNTS)
