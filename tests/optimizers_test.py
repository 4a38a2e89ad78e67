"""The optimizers, against their definitions in NumPy."""

import keras
import numpy as np
import pytest

from stacked_rnn import configs, models
from stacked_rnn.training import optimizers
from tests.helpers.small_models import mirrored, small_config
from tests.helpers.small_tasks import CtrlC, make_trainer

LEARNING_RATE = 0.01
TALL, WIDE = (7, 4), (3, 4)  # inputs and units


def orthogonalized(matrix, steps=3):
    """The iteration of Muon, written out (Jordan et al. 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / np.linalg.norm(matrix)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + b * square @ x + c * square @ square @ x
    return x


@pytest.mark.parametrize("shape", [TALL, WIDE])
@pytest.mark.parametrize("gates", [1, 3])
def test_muon_moves_each_gate_by_its_orthogonal_momentum(shape, gates):
    """With Nesterov's momentum, and the root mean square of its updates."""
    inputs, units = shape
    rng = np.random.default_rng(gates)
    start, *gradients = rng.normal(size=(3, inputs, gates * units))
    variable = keras.Variable(start, name="kernel")
    optimizer = optimizers.Muon(LEARNING_RATE, units=units, gates=gates)
    momentum, expected = np.zeros_like(start), start.copy()
    for gradient in gradients:
        optimizer.apply([keras.ops.cast(gradient, "float32")], [variable])
        momentum = 0.95 * momentum + gradient
        update = gradient + 0.95 * momentum
        for part in np.split(np.arange(gates * units), gates):
            direction = orthogonalized(update[:, part])
            direction *= 0.4 * np.sqrt(max(shape))
            expected[:, part] -= LEARNING_RATE * direction
    np.testing.assert_allclose(variable, expected, atol=1e-5)
    # Three steps bring all singular values near one.
    strengths = np.linalg.svd(direction, compute_uv=False)
    strengths /= 0.4 * np.sqrt(max(shape))
    assert 0.2 < strengths.min() and strengths.max() < 1.3


@pytest.mark.parametrize("cell", ["simple_rnn", "gru", "lstm"])
def test_muon_leaves_embedding_readout_and_biases_to_adam(cell):
    model = models.build_language_model(
        small_config(cell=cell, vocabulary_size=9)
    )
    variables = model.trainable_variables
    rng = np.random.default_rng(0)
    gradients = [
        keras.ops.cast(rng.normal(size=variable.shape), "float32")
        for variable in variables
    ]
    config = configs.TrainConfig(optimizer="muon", weight_decay=0.1)
    optimizer = optimizers.make_optimizer(config, LEARNING_RATE, model)
    before = [variable.numpy() for variable in variables]
    optimizer.apply(gradients, variables)
    kinds = set()
    for variable, old, gradient in zip(variables, before, gradients):
        if len(variable.shape) > 1:
            old = old * (1 - LEARNING_RATE * 0.1)
        # Adam's first step has the size of the learning rate.
        by_adam = np.allclose(
            variable, old - LEARNING_RATE * np.sign(gradient), atol=1e-4
        )
        kinds.add((variable.path.rpartition("/")[2], by_adam))
    assert kinds == {
        ("embeddings", True),
        ("kernel", False),
        ("kernel", True),  # of the readout
        ("recurrent_kernel", False),
        ("bias", True),
    }


def test_weight_decay_spares_the_biases_of_a_gru():
    """Without gradients, nothing but the weight decay moves a weight."""
    model = models.build_language_model(
        small_config(cell="gru", vocabulary_size=9)
    )
    config = configs.TrainConfig(optimizer="adamw", weight_decay=0.1)
    optimizer = optimizers.make_optimizer(config, LEARNING_RATE, model)
    variables = model.trainable_variables
    for variable in variables:
        variable.assign(keras.ops.ones_like(variable))
    optimizer.apply([keras.ops.zeros_like(v) for v in variables], variables)
    for variable in variables:
        expected = 1 if variable.name == "bias" else 1 - LEARNING_RATE * 0.1
        np.testing.assert_allclose(variable, expected, atol=1e-6)


def weights_after(trainer, callbacks=()):
    trainer.fit(callbacks, verbose=0)
    return trainer.model.get_weights()


def test_muon_trains_on_two_replicas_and_resumes(tmp_path):
    task = "language_model"
    options = {"optimizer": "muon", "jit_compile": False}
    expected = weights_after(make_trainer(task, tmp_path, **options))
    trainer = make_trainer(task, tmp_path, strategy=mirrored(), **options)
    for value, other in zip(weights_after(trainer), expected, strict=True):
        np.testing.assert_allclose(value, other, atol=1e-4)
    run = tmp_path / "run"
    stopped = make_trainer(task, tmp_path, run, **options)
    weights_after(stopped, [CtrlC(stopped, 1)])
    assert stopped.interrupted
    resumed = make_trainer(task, tmp_path, run, **options)
    for value, other in zip(weights_after(resumed), expected, strict=True):
        np.testing.assert_array_equal(value, other)


def test_muon_in_bfloat16_moves_the_weights_as_in_float32(tmp_path):
    """But for the rounding of three products, which are bounded by one."""
    before, *after = (
        make_trainer("language_model", tmp_path).model.get_weights(),
        *(
            weights_after(
                make_trainer(
                    "language_model", tmp_path, optimizer="muon",
                    mixed_precision=mixed, jit_compile=False,
                )
            )
            for mixed in (False, True)
        ),
    )  # fmt: skip
    for start, plain, mixed in zip(before, *after, strict=True):
        moved = np.abs(plain - start).mean()
        assert np.abs(mixed - plain).mean() < 0.2 * moved
