"""The tape: what it records, frees and protects."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import autograd as ag
from autograd import tensor as engine


def leaf(*shape, dtype=np.float64):
    return ag.Tensor(np.random.default_rng(0).standard_normal(shape).astype(dtype), requires_grad=True)


def test_gradients_add_up_over_uses_and_calls():
    x = leaf(3)
    (ag.sum(x * x) + ag.sum(x)).backward()
    np.testing.assert_allclose(x.grad, 2 * x.data + 1)
    ag.sum(x).backward()
    np.testing.assert_allclose(x.grad, 2 * x.data + 2)


def test_a_shared_gradient_is_not_shared_between_leaves():
    a, b = leaf(3), leaf(3)
    ag.sum(a + b).backward()  # the product of an addition hands the same array to both
    assert not np.shares_memory(a.grad, b.grad)
    ag.sum(a).backward()
    np.testing.assert_array_equal(b.grad, np.ones(3))


def test_constants_record_nothing():
    y = ag.exp(ag.Tensor(np.ones(3)))
    assert y.node is None
    with pytest.raises(RuntimeError, match="no leaf"):
        y.backward(np.ones(3))


def test_no_grad_records_nothing_and_is_undone_by_an_exception():
    x = leaf(3)
    with pytest.raises(ZeroDivisionError), ag.no_grad():
        assert (x * x).node is None
        raise ZeroDivisionError
    assert (x * x).node is not None


def test_enable_grad_records_inside_no_grad_and_is_undone_by_an_exception():
    x = ag.Tensor(np.ones(2), requires_grad=True)
    with ag.no_grad():
        with pytest.raises(ZeroDivisionError), ag.enable_grad():
            ag.sum(x * x).backward()
            raise ZeroDivisionError
        assert (x * x).node is None
    np.testing.assert_array_equal(x.grad, 2.0)


def test_no_grad_holds_in_the_thread_that_enters_it():
    x = leaf(2)
    entered, left = threading.Event(), threading.Event()
    recorded = []

    def draw():
        with ag.no_grad():
            entered.set()
            left.wait(10)
            recorded.append((x * x).node)

    other = threading.Thread(target=draw)
    with ag.no_grad():
        other.start()
        entered.wait(10)
    assert (x * x).node is not None
    left.set()
    other.join()
    assert recorded == [None]
    assert (x * x).node is not None


def test_backward_frees_the_tape_as_it_walks():
    x = leaf(4)
    middle = ag.exp(x)
    watched = weakref.ref(middle.node)
    y = ag.sum(middle * middle)
    del middle
    y.backward()
    y = None
    assert watched() is None


def test_a_freed_tape_says_so():
    x = leaf(3)
    y = ag.sum(ag.exp(x))
    y.backward()
    with pytest.raises(RuntimeError, match="freed"):
        y.backward()


def test_no_reference_cycles():
    gc.collect()
    gc.disable()
    try:
        x = leaf(3)
        y = ag.sum(ag.softmax(ag.exp(x)))
        watched = weakref.ref(y.node)
        del y
        assert watched() is None, "a graph that is dropped goes at once, without the collector"
    finally:
        gc.enable()


def test_a_long_chain_needs_no_recursion():
    x = leaf(1)
    y = x
    for _ in range(20_000):
        y = y + 1.0
    y.backward()
    assert x.grad == 1
    y = x
    for _ in range(20_000):
        y = y + 1.0
    del y  # dropped without a walk


def test_grad_leaves_grad_alone_and_gives_zeros_for_the_unused():
    x, z = leaf(3), leaf(2)
    gx, gz = ag.grad(ag.sum(x * x), [x, z])
    np.testing.assert_allclose(gx.data, 2 * x.data)
    np.testing.assert_array_equal(gz.data, [0, 0])
    assert x.grad is None


def test_grad_computes_what_leads_to_its_inputs_and_nothing_else():
    """Of a network's weights no gradient is taken when only the input's is asked for; the tape is freed all the same."""
    asked = []

    def product(name, factor):
        return lambda g, y, a, b: (asked.append(name), g * factor)[1]

    @ag.operation(product("a", 2.0), product("b", 3.0), keep="")
    def combine(a, b):
        return 2.0 * a + 3.0 * b

    x, w, v = (ag.Tensor(np.ones(2), requires_grad=True) for _ in range(3))
    inside = combine(v, v)
    y = ag.sum(combine(combine(x, w), inside))
    assert np.array_equal(ag.grad(y, x, create_graph=True).data, [4.0, 4.0]) and asked == ["a", "a"]
    asked.clear()
    assert [g.data.tolist() for g in ag.grad(y, [w, inside])] == [[6.0, 6.0], [3.0, 3.0]]
    assert sorted(asked) == ["a", "b", "b"]
    with pytest.raises(RuntimeError, match="the tape was freed"):
        ag.grad(inside, v, grad_outputs=np.ones(2))


def test_grad_with_respect_to_a_result_inside():
    x = leaf(3)
    h = ag.exp(x)
    np.testing.assert_allclose(ag.grad(ag.sum(h * h), h).data, 2 * h.data)


def test_third_derivative():
    x = leaf(4)
    g = x**4
    for k in (4, 12, 24):
        g = ag.grad(ag.sum(g), x, create_graph=True)
        np.testing.assert_allclose(g.data, k * x.data ** {4: 3, 12: 2, 24: 1}[k])


def test_gradient_penalty_of_a_linear_critic_is_known():
    w, x = leaf(5), leaf(7, 5)
    g = ag.grad(ag.sum(ag.matmul(x, w)), x, create_graph=True)  # every row is w
    norm = ag.sqrt(ag.sum(g * g, 1))
    ag.mean((norm - 1.0) ** 2).backward()
    length = np.linalg.norm(w.data)
    np.testing.assert_allclose(w.grad, 2 * (length - 1) * w.data / length)


def test_a_result_is_read_only_for_good():
    y = leaf(3) * 2.0
    with pytest.raises(ValueError, match="read-only"):
        y.data[0] = 1


@pytest.mark.parametrize("owner", [False, True])
def test_changing_what_the_tape_needs_raises_until_it_is_walked(owner):
    buffer = np.ones(6)
    x = ag.Tensor(buffer[2:5], requires_grad=True)
    y, z = ag.sum(x * x), ag.sum(ag.exp(x) * x)
    target = buffer if owner else x.data
    for result in (y, z):
        with pytest.raises(ValueError, match="read-only"):
            target += 1
        result.backward()
    target += 1  # both walks are done
    y = ag.sum(x * x)
    del y  # a dropped tape lets go, too
    target += 1
    assert not engine._locked


def test_a_tape_that_the_collector_finds_while_another_is_recorded(monkeypatch):
    """The first and the second hold the same arrays, and the collector may run at any call."""
    raised = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: raised.append(what.exc_value))
    x, y = leaf(3), np.ones(3)
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            broken_off = [x * y]
            broken_off.append(broken_off)
            del broken_off
            z = x * y
            with pytest.raises(ValueError, match="read-only"):
                y[0] = 5
            del z
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert not raised and not engine._locked
    x.data[0] = y[0] = 5


def test_a_constant_batch_is_protected_as_well():
    batch = np.ones(3)
    y = ag.sum(leaf(3) * batch)
    with pytest.raises(ValueError, match="read-only"):
        batch[0] = 5
    y.backward()
    batch[0] = 5


def test_memory_maps_and_strided_views_are_protected(tmp_path):
    mapped = np.memmap(tmp_path / "numbers", np.float64, "w+", shape=6)
    plain = np.ones(6)
    windows = np.lib.stride_tricks.as_strided(plain, (4, 3), (8, 8))  # its base is no array
    for owner, view in ((mapped, mapped[1:4]), (plain, windows)):
        x = leaf(3)
        y = ag.sum(x * view)
        with pytest.raises(ValueError, match="read-only"):
            owner[0] = 5
        y.backward()
        owner[0] = view[...] = 5
    assert not engine._locked


def test_memory_that_numpy_could_not_open_again_is_left_alone(recwarn):
    lent = np.from_dlpack(np.ones(3))
    foreign = np.asarray(Foreign(np.ones(3)))
    shared = np.frombuffer(bytearray(24))
    for array, protected in ((lent, False), (foreign, False), (shared, True)):
        y = ag.sum(leaf(3) * array)
        assert array.flags.writeable != protected
        y.backward()
        array[0] = 5
    assert not engine._locked


class Foreign:
    """What hands out its memory by an address."""

    def __init__(self, array):
        self.array = array
        self.__array_interface__ = array.__array_interface__


def test_the_callers_own_read_only_arrays_stay_so():
    batch = np.ones(3)
    batch.flags.writeable = False
    ag.sum(leaf(3) * batch).backward()
    assert not batch.flags.writeable


def test_a_numpy_scalar_does_not_widen_float32():
    x = leaf(3, dtype=np.float32)
    assert (x * np.sqrt(2.0)).dtype == np.float32
    assert (np.float64(2) / x).dtype == np.float32


def test_mixing_dtypes_raises():
    with pytest.raises(TypeError, match="float32"):
        leaf(3, dtype=np.float32) * np.ones(3)


def test_numpy_functions_do_not_silently_drop_gradients():
    with pytest.raises(TypeError):
        np.exp(leaf(3))
    with pytest.raises(TypeError, match="record"):
        np.asarray(leaf(3))


def test_operators_with_arrays_on_the_left():
    x = leaf(3)
    y = np.ones(3) - x
    assert isinstance(y, ag.Tensor)
    np.testing.assert_array_equal((2.0 / x).data, 2 / x.data)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: x.backward(), "must be given"),
        (lambda x: (x * x).backward(np.ones(2)), "has shape"),
        (lambda x: ag.top_k(x, 4), "k must be"),
        (lambda x: ag.pad(x, [(1, 1), (0, 0)]), "pairs"),
        (lambda x: ag.pad(x, [(1, -1)]), "pairs of non-negative integers"),
        (lambda x: ag.matmul(ag.sum(x), x), "matmul needs at least one axis on both sides"),
        (lambda x: ag.max_pool(ag.reshape(x, (1, 1, 3, 1)), 2), "must divide"),
        (lambda x: ag.max_pool(ag.reshape(x, (1, 1, 3, 1)), 0), "factor must be a whole number of at least 1, got 0"),
        (lambda x: ag.concat([]), "concat needs at least one array"),
        (lambda x: ag.stack([]), "stack needs at least one array"),
        (lambda x: ag.dropout(x, np.ones(3), 1.0), "p must be at least 0 and below 1, got 1.0"),
        (lambda x: ag.dropout(x, np.ones(3), -0.5), "p must be at least 0 and below 1, got -0.5"),
        (lambda x: ag.gumbel_softmax(x, np.full((2, 3), 0.5), 1.0), r"u must have the shape of the logits, \(3,\)"),
        (lambda x: ag.gumbel_softmax(x, np.full(3, 0.5), np.nan), "temperature must be positive, got nan"),
        (lambda x: ag.cumsum(ag.sum(x)), "axis must be from"),
        (lambda x: ag.mean(ag.sum(x), axis=-1), "axis must be from"),
        (lambda x: ag.max_pool(x), r"x must have 4 axes, got shape \(3,\)"),
        (lambda x: ag.gather(ag.reshape(x, (3, 1)), np.zeros(3, int), 1), r"as many axes as x, 2, got shape \(3,\)"),
        (lambda x: ag.grad([x * 1, x * 2], [x], [x.data]), "one gradient for each of 2 outputs, got 1"),
        (lambda x: ag.gradcheck(ag.exp, [x.data], order=3), "order must be 1 or 2, got 3"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(leaf(3))


def test_a_gradient_is_an_array():
    with pytest.raises(TypeError, match="a gradient must be an array, a Tensor or a number, got list"):
        ag.exp(leaf(2)).backward([1.0, 1.0])


def test_rows_can_be_gone_through_and_a_number_has_none():
    x = leaf(3, 2)
    for row, values in zip(x, x.data, strict=True):
        np.testing.assert_array_equal(row.data, values)
    a, _, c = x
    ag.sum(a * c).backward()
    np.testing.assert_array_equal(x.grad, [x.data[2], [0, 0], x.data[0]])
    with pytest.raises(TypeError, match="no elements to go through"):
        sum(ag.sum(x))


def test_comparisons_say_that_they_are_none_and_a_tensor_is_itself():
    x = leaf(3)
    for compare in (lambda: x == 1.0, lambda: x != x.data, lambda: ag.where(x == 0, x, x)):
        with pytest.raises(TypeError, match="comparisons have no gradient: compare arrays"):
            compare()
    assert x in {x} and {x: 1}[x] == 1 and leaf(3) not in {x}


def test_shapes_and_axes_may_be_lists_and_a_shape_a_number():
    x = leaf(2, 3)
    assert ag.reshape(x, -1).shape == x.reshape([6]).shape == (6,)
    assert ag.sum(x, axis=[0, 1]).shape == () and ag.max(x, axis=[1]).shape == (2,)


def test_second_derivatives_need_the_data_that_the_first_had():
    p = ag.Tensor([2.0], requires_grad=True)
    y = ag.sum(p**3)
    p.data = np.array([5.0])
    with pytest.raises(RuntimeError, match="the data of a Tensor was replaced"):
        ag.grad(y, p, create_graph=True)


def test_leaves_must_be_floats():
    with pytest.raises(TypeError, match="int64"):
        ag.Tensor(np.arange(3), requires_grad=True)
    with pytest.raises(TypeError, match="already"):
        ag.Tensor(leaf(2))
    with pytest.raises(TypeError, match=r"(?i)exponent|type"):
        leaf(2) ** leaf(2)


def test_shapes_of_size_zero_and_one():
    x = ag.Tensor(np.zeros((0, 3)), requires_grad=True)
    ag.sum(ag.exp(x) @ np.ones((3, 2))).backward()
    assert x.grad.shape == (0, 3)
    s = ag.Tensor(2.0, requires_grad=True)
    (s * s).backward()
    assert s.grad == 4 and isinstance(s.grad, np.ndarray)


CONNECTED = {
    "attention of one tensor": lambda x: ag.attention(x, x, x),
    "attention of functions of one another": lambda x: ag.attention(x, ag.sin(x), ag.cos(ag.sin(x))),
    "layer norm scaled by its input": lambda x: ag.layer_norm(x, x[0, 0, 0], x[0, 0, 1]),
    "group norm with one leaf twice": lambda x: ag.group_norm(x, x[0, 0, 0], x[0, 0, 0], 2),
}


@pytest.mark.parametrize("name", CONNECTED)
def test_fused_operations_count_connected_inputs_once(name):
    ag.gradcheck(CONNECTED[name], [np.random.default_rng(0).standard_normal((1, 2, 3, 4))], order=2)


def test_gradcheck_compares_the_recorded_gradient_with_the_plain_one():
    def product(g, y, x):
        return (
            g * 2.0 if not isinstance(g, ag.Tensor) else g * 6.0
        )  # right for arrays, three times too much when recorded

    wrong = ag.operation(product, keep="")(lambda x: 2.0 * x)
    with pytest.raises(AssertionError, match="create_graph"):
        ag.gradcheck(wrong, [np.ones(3)], order=2)


def test_an_operation_that_returns_its_argument_leaves_it_writable():
    """Gradient reversal, say: the result is read-only, the parameter must not be."""
    reverse = ag.operation(lambda g, y, x: -g, keep="")(lambda x: x)
    x = leaf(3)
    y = reverse(x)
    assert np.shares_memory(y.data, x.data) and not y.data.flags.writeable
    ag.sum(y).backward()
    np.testing.assert_array_equal(x.grad, -1.0)
    x.data += 1


def test_settings_are_protected_as_well():
    targets, condition, rows = np.array([0, 1]), np.array([True, False]), np.array([1, 0])
    losses = [
        ag.sum(ag.cross_entropy(leaf(2, 3), targets)),
        ag.sum(ag.where(condition, leaf(2), 0.0)),
        ag.sum(leaf(2, 3)[rows, rows]),
    ]
    for array in (targets, condition, rows):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    for loss in losses:
        loss.backward()
    targets[0] = condition[0] = rows[0] = 1
    assert not engine._locked


@pytest.mark.parametrize("index", [[0, 1], [True, True, False], []])
def test_a_list_of_indices_may_change_after_it_was_read(index):
    x, rows = leaf(3), list(index)
    y, z = ag.sum(x[rows]), ag.sum(ag.reshape(x, (3, 1))[rows, 0])
    rows[:] = [2]
    y.backward()
    z.backward()
    np.testing.assert_array_equal(x.grad, [2, 2, 0] if index else [0, 0, 0])


def test_dtypes_are_checked_in_both_orders_and_for_given_gradients():
    narrow, broad = leaf(3, dtype=np.float32), leaf(3)
    for a, b in ((narrow, broad), (broad, narrow)):
        with pytest.raises(TypeError, match="float32"):
            a * b
    with pytest.raises(TypeError, match="float64"):
        (narrow * narrow).backward(np.ones(3))
    x = leaf(3)
    (x * x).backward(2.0)
    np.testing.assert_allclose(x.grad, 4 * x.data)


def test_gradients_do_not_share_memory():
    a, b, u = leaf(3), leaf(3), np.ones(3)
    ga, gb = ag.grad(a + b, [a, b], u)
    assert not np.shares_memory(ga.data, gb.data) and not np.shares_memory(ga.data, u)


def test_small_integer_types_index_large_tables():
    x = leaf(300, 2)
    ag.sum(x[np.array([1, 2, 2], np.uint8)]).backward()
    np.testing.assert_array_equal(x.grad[:4, 0], [0, 1, 2, 0])


def test_products_with_arrays_on_the_left_and_with_nothing_inside():
    x = leaf(3, 2)
    np.testing.assert_allclose((np.ones((4, 3)) @ x).data, np.ones((4, 3)) @ x.data)
    y = ag.Tensor(np.zeros((2, 3, 0)), requires_grad=True) @ np.zeros((0, 5))
    assert y.shape == (2, 3, 5)


def test_numpy_scalars_are_settings_too():
    x = leaf(3, dtype=np.float32)
    assert (x ** np.float64(2)).dtype == ag.clip(x, np.float64(0), np.float64(1)).dtype == np.float32
    ag.sum(leaf(2, 3), np.int64(0)).backward(np.ones(3))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: ag.transpose(x, (0, 3)),
        lambda x: ag.concat([x, x], 2),
        lambda x: ag.stack([x], -4),
        lambda x: ag.softmax(x, 2),
        lambda x: ag.log_softmax(x, -3),
        lambda x: ag.logsumexp(x, 2),
        lambda x: ag.cumsum(x, 2),
    ],
)
def test_an_axis_that_is_not_there_is_named(call):
    with pytest.raises(ValueError, match="axis must be from"):
        call(leaf(2, 3))


def test_gumbel_softmax_at_the_ends_of_the_unit_interval():
    y = ag.gumbel_softmax(np.zeros((1, 2), np.float32), np.array([[1 - 1e-9, 0.0]]), 1.0)
    assert np.all(np.isfinite(y))


def test_a_gradient_of_0_that_is_given_is_not_one_that_is_left_out():
    x = ag.Tensor(np.array(2.0), requires_grad=True)
    for given in (np.array([0.0]), [0.0]):
        (g,) = ag.grad([x * x], [x], [np.asarray(v) for v in given])
        assert g.data == 0
    (g,) = ag.grad([x * x], [x], np.array([0.0]))
    assert g.data == 0


def test_grad_of_several_outputs_adds_what_each_asks_for():
    x = ag.Tensor(np.array([2.0, 3.0]), requires_grad=True)
    outputs = [ag.sum(x * x), 5.0 * ag.sum(x)]
    (g,) = ag.grad(outputs, [x])
    np.testing.assert_array_equal(g.data, [9, 11])
    (g,) = ag.grad([x * x, ag.sum(x)], [x], [np.array([1.0, -1.0]), np.array(10.0)])
    np.testing.assert_array_equal(g.data, [14, 4])
