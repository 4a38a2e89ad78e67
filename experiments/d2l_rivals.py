"""The model of D2L section 10.3 in Flax and in MXNet, for d2l_deep_rnn.py.

It is the book's: one-hot vectors, two layers of 32, a dense layer; SGD with
clipping by the global norm, each framework with its own initial weights.

`python experiments/d2l_rivals.py flax|mxnet` reads one JSON object from
standard input (see `train` for its fields) and prints one. MXNet needs an
interpreter of its own, which has nothing of this project.
"""

import json
import math
import sys
import time

import numpy as np


def flax(cell, units, num_layers, vocabulary_size, config, seed):
    """The book's model in Flax.

    Returns:
        Two functions of (inputs, targets): one takes a step of training, the
        other returns the sum of nats.
    """
    import jax
    import optax
    from flax import linen as nn

    recurrent = {
        "simple_rnn": nn.SimpleCell,
        "gru": nn.GRUCell,
        "lstm": nn.OptimizedLSTMCell,
    }[cell]
    model = nn.Sequential(
        [
            *(nn.RNN(recurrent(units)) for _ in range(num_layers)),
            nn.Dense(vocabulary_size),
        ]
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(config["gradient_clip_norm"]),
        optax.sgd(config["learning_rate"]),
    )

    def losses(weights, inputs, targets):
        logits = model.apply(weights, jax.nn.one_hot(inputs, vocabulary_size))
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

    @jax.jit
    def step(weights, moments, inputs, targets):
        gradients = jax.grad(lambda *args: losses(*args).mean())(
            weights, inputs, targets
        )
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(weights, updates), moments

    weights = model.init(
        jax.random.key(seed), jax.numpy.zeros([1, 1, vocabulary_size])
    )
    state = [weights, optimizer.init(weights)]

    def train_on(inputs, targets):
        state[:] = step(*state, inputs, targets)

    total = jax.jit(lambda *args: losses(*args).sum())
    return train_on, lambda *batch: float(total(state[0], *batch))


def mxnet(cell, units, num_layers, vocabulary_size, config, seed):
    """The same in MXNet."""
    import mxnet
    from mxnet import autograd, gluon
    from mxnet.gluon import nn, rnn

    mxnet.random.seed(seed)
    recurrent = {"simple_rnn": rnn.RNN, "gru": rnn.GRU, "lstm": rnn.LSTM}[cell]
    extra = {"activation": "tanh"} if cell == "simple_rnn" else {}
    model = nn.HybridSequential()
    model.add(
        nn.HybridLambda(lambda f, ids: f.one_hot(ids, vocabulary_size)),
        recurrent(
            units, num_layers, layout="NTC", input_size=vocabulary_size, **extra
        ),
        nn.Dense(vocabulary_size, flatten=False, in_units=units),
    )
    model.initialize(mxnet.init.Xavier())
    model.hybridize()
    loss = gluon.loss.SoftmaxCrossEntropyLoss()
    weights = model.collect_params()
    trainer = gluon.Trainer(
        weights, "sgd", {"learning_rate": config["learning_rate"]}
    )
    gradients = [weight.grad() for weight in weights.values()]

    def losses(inputs, targets):
        return loss(model(mxnet.nd.array(inputs)), mxnet.nd.array(targets))

    def train_on(inputs, targets):
        with autograd.record():
            mean = losses(inputs, targets).mean()
        mean.backward()
        gluon.utils.clip_global_norm(gradients, config["gradient_clip_norm"])
        trainer.step(1)

    def total(inputs, targets):
        means_of_rows = losses(inputs, targets).asnumpy()
        return float(means_of_rows.sum()) * inputs.shape[1]

    return train_on, total


def train(make, training, validation, config, seed, **model):
    """Trains once; returns both perplexities, and seconds.

    Args:
        make: `flax` or `mxnet`.
        training, validation: token ids, of which all windows are taken.
        config: fields of a `TrainConfig`, by name.
        seed: of the initial weights and of the order.
        **model: other arguments of `make`.
    """
    started = time.perf_counter()
    train_on, total = make(config=config, seed=seed, **model)
    windows, held_out = (
        np.lib.stride_tricks.sliding_window_view(
            np.array(token_ids, np.int32), config["sequence_length"] + 1
        )
        for token_ids in (training, validation)
    )

    def batches(windows):
        for start in range(0, len(windows), config["batch_size"]):
            batch = windows[start : start + config["batch_size"]]
            yield batch[:, :-1], batch[:, 1:]

    rng = np.random.default_rng(seed)
    for _ in range(config["epochs"]):
        for batch in batches(rng.permutation(windows)):
            train_on(*batch)
    seconds = time.perf_counter() - started

    def perplexity(windows):
        nats = sum(total(*batch) for batch in batches(windows))
        return math.exp(nats / windows[:, 1:].size)

    return perplexity(windows), perplexity(held_out), seconds


if __name__ == "__main__":
    makers = {"flax": flax, "mxnet": mxnet}
    print(json.dumps(train(makers[sys.argv[1]], **json.load(sys.stdin))))
