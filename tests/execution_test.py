"""Language models give the same numbers however TensorFlow runs them."""

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import models
from tests.helpers.small_models import randomized_model, small_config

RESIDUAL = {"residual": True, "tie_embeddings": True, "num_layers": 3}
models_of_each_kind = pytest.mark.parametrize(
    "config",
    [
        small_config(cell="simple_rnn"),
        small_config(cell="gru", **RESIDUAL),
        small_config(cell="lstm", **RESIDUAL),
    ],
    ids=lambda config: config.cell,
)


@pytest.fixture
def token_ids(rng):
    return tf.constant(rng.integers(0, 11, (4, 6)), tf.int32)


def loss_and_gradients(model, token_ids):
    with tf.GradientTape() as tape:
        logits = model(token_ids[:, :-1], training=True)
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(
                token_ids[:, 1:], logits
            )
        )
    gradients = tape.gradient(loss, [weight.value for weight in model.weights])
    return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]


@models_of_each_kind
def test_compiled_equals_eager(config, token_ids):
    model = randomized_model(config)
    expected_loss, expected = loss_and_gradients(model, token_ids)
    for jit_compile in (False, True):
        function = tf.function(loss_and_gradients, jit_compile=jit_compile)
        loss, gradients = function(model, token_ids)
        np.testing.assert_allclose(loss, expected_loss, atol=1e-5)
        for got, wanted in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5)


@models_of_each_kind
def test_a_saved_model_gives_the_same_logits(config, token_ids, tmp_path):
    model = randomized_model(config)
    model.export(str(tmp_path), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(
        loaded.serve(token_ids), model(token_ids), atol=1e-6
    )


@models_of_each_kind
def test_a_checkpoint_restores_the_same_logits(config, token_ids, tmp_path):
    model = randomized_model(config)
    path = tf.train.Checkpoint(model=model).save(tmp_path / "ckpt")
    restored = models.build_language_model(config)
    status = tf.train.Checkpoint(model=restored).restore(path)
    status.assert_existing_objects_matched()
    assert np.array_equal(restored(token_ids), model(token_ids))


@models_of_each_kind
def test_weights_files_restore_the_same_logits(config, token_ids, tmp_path):
    model = randomized_model(config)
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = models.build_language_model(config)
    loaded.load_weights(tmp_path / "model.weights.h5")
    assert np.array_equal(loaded(token_ids), model(token_ids))
