import copy
import pickle

import numpy as np
import pytest

import autograd as ag
from minigen.nn import BatchNorm, Linear, Module, Sequential


class Tied(Module):
    def __init__(self, rng):
        self.first = Linear(3, 3, rng=rng)
        self.blocks = [Linear(3, 2, rng=rng), Sequential(Linear(2, 3, rng=rng), BatchNorm(3))]
        self.second = Linear(3, 3, rng=rng)
        self.second.w = self.first.w

    def forward(self, x):
        return self.second(self.blocks[1](self.blocks[0](self.first(x))))


NAMES = ["first.w", "first.b", "blocks.0.w", "blocks.0.b", "blocks.1.layers.0.w", "blocks.1.layers.0.b"]
NAMES += ["blocks.1.layers.1.gamma", "blocks.1.layers.1.beta", "second.b"]


def test_names_follow_the_attributes_and_shared_parameters_appear_once(rng):
    assert list(Tied(rng).named_parameters()) == NAMES


def test_flat_buffers_are_the_parameters(rng):
    module = Tied(rng)
    before = {k: v.copy() for k, v in module.arrays().items()}
    module.flatten()
    assert module.count() == module.flat.size == 9 + 3 + 6 + 2 + 6 + 3 + 3 + 3 + 3
    for name, array in module.arrays().items():
        np.testing.assert_array_equal(array, before[name])
    for p in module.parameters():
        assert np.shares_memory(p.data, module.flat) and np.shares_memory(p.grad, module.flat_grad)
    ag.sum(module(rng.standard_normal((4, 3)).astype(np.float32)) ** 2).backward()
    assert np.any(module.flat_grad)
    module.flat -= 0.1 * module.flat_grad  # the tape let go of the parameters
    module.zero_grad()
    assert not np.any(module.flat_grad) and module.first.w.grad is not None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_of_a_flat_module_is_flat_in_buffers_of_its_own(copied, rng):
    module = Tied(rng).flatten()
    module.flat_grad[...] = np.arange(module.count())
    twin = copied(module)
    np.testing.assert_array_equal(twin.flat, module.flat)
    np.testing.assert_array_equal(twin.flat_grad, module.flat_grad)
    assert twin.second.w is twin.first.w
    before = module.flat.copy()
    twin.flat += 1
    twin.zero_grad()
    for p, own in zip(twin.parameters(), module.parameters()):
        np.testing.assert_array_equal(p.data, own.data + 1)
        assert not p.grad.any()
    np.testing.assert_array_equal(module.flat, before)
    part = copied(module.blocks[0])
    assert part.flat is None and not np.shares_memory(part.w.data, module.flat)


def test_stepping_while_a_tape_needs_the_parameters_raises(rng):
    module = Tied(rng).flatten()
    loss = ag.sum(module(np.ones((4, 3), np.float32)))
    with pytest.raises(ValueError, match="read-only"):
        module.flat -= 1
    del loss
    module.flat -= 1


def test_loading_checks_everything_before_it_changes_anything(rng):
    module = Tied(rng).flatten()
    before = module.flat.copy()
    arrays = {k: np.zeros_like(v) for k, v in module.arrays().items()}
    for wrong, message in [
        ({**arrays, "extra": np.zeros(1)}, "'extra'"),
        ({k: v for k, v in arrays.items() if k != "second.b"}, "lacks 'second.b'"),
        ({**arrays, "second.b": np.zeros(4)}, r"'second.b' is \(4,\), not \(3,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            module.load_arrays(wrong)
        np.testing.assert_array_equal(module.flat, before)
    module.load_arrays({k: v + 2 for k, v in arrays.items()})
    assert (module.flat == 2).all() and (module.blocks[1].layers[1].running_mean == 2).all()


def test_converting_after_flattening_is_refused(rng):
    with pytest.raises(RuntimeError, match="before it is flattened"):
        Tied(rng).flatten().astype(np.float64)
    module = Tied(rng).astype(np.float64)
    assert all(a.dtype == np.float64 for a in module.arrays().values())
    layer = Linear(2, 2, rng=rng)
    ag.sum(layer(np.ones((1, 2), np.float32))).backward()
    layer.astype(np.float64)
    ag.sum(layer(np.full((1, 2), 1 / 3))).backward()
    np.testing.assert_array_equal(layer.w.grad, np.full((2, 2), 1 + 1 / 3))
    with pytest.raises(ValueError, match="no parameters"):
        Module().flatten()


def test_train_and_eval_reach_every_module(rng):
    module = Tied(rng).eval()
    assert not any(m.training for _, m in module.named_modules())
    assert module.train().blocks[1].layers[1].training


def test_a_part_of_a_flat_module_stays_a_part(rng):
    module = Tied(rng).flatten()
    part = module.blocks[0]
    x = np.ones((2, 3), np.float32)
    ag.sum(part(x)).backward()
    part.zero_grad()
    assert not module.flat_grad.any()
    ag.sum(part(x)).backward()
    assert np.shares_memory(part.w.grad, module.flat_grad) and module.flat_grad.any()
    with pytest.raises(ValueError, match="Linear has parameters in the buffer of a module that encloses it"):
        part.flatten()
    assert module.flatten().flat is not None


def test_a_part_that_was_flat_hands_its_parameters_over(rng):
    module = Tied(rng)
    part = module.blocks[0].flatten()
    with pytest.raises(RuntimeError, match="before it is flattened"):
        module.astype(np.float64)
    module.flatten()
    assert part.flat is None and np.shares_memory(part.w.data, module.flat)
    ag.sum(part(np.ones((2, 3), np.float32))).backward()
    module.zero_grad()
    assert not part.w.grad.any()


@pytest.mark.parametrize(
    ("kept", "where"),
    [
        (lambda layer: {"a": layer}, "a dict"),
        (lambda layer: [[layer]], "a list"),
        (lambda layer: (layer, {"deep": [layer]}), "a tuple"),
        (lambda layer: [layer.w], "a list"),
    ],
)
def test_layers_that_would_never_be_trained_are_refused(kept, where, rng):
    module = Tied(rng)
    module.blocks[0].more = kept(Linear(2, 2, rng=rng))
    said = f"Linear keeps layers or parameters in 'blocks.0.more', {where}, where they are not found: "
    with pytest.raises(ValueError, match=said):
        module.flatten()
    module.blocks[0].more = [Linear(2, 2, rng=rng), None, (3, {"a": np.zeros(3), "b": ag.Tensor(np.zeros(2))})]
    assert "blocks.0.more.0.w" in module.flatten().named_parameters()
