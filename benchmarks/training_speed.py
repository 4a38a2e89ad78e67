"""Speed of a training step beside other frameworks and a bare matmul.

  make bench        or, a part of it:
  python benchmarks/training_speed.py --works=small,medium --cells=gru

A step is forward, backward, clipping by the global norm and Adam, on random
tokens. This project runs as in train.py, by `Trainer.fit`. Its rivals run at
the fastest of their settings, found for each size by a short trial, each on one
thread or all: stock Keras with cells in an RNN layer or with the layer of that
name, with XLA or without; the layers of Keras on JAX, and Flax, both in one
jitted step; PyTorch with torch.compile or without, and MXNet, whose threads
spin or sleep while they wait. In bfloat16 PyTorch runs under autocast.
README.md says how the contenders take turns, and how to make the environment
of MXNet for --mxnet_python. A rival that is not installed is named and left
out.

Takes about 40 minutes on two cores. Writes training_speed.md, .json and .png to
--output_dir, and prints the tables. growth.py says how cost grows with each
size.
"""

import dataclasses
import functools
import pathlib
import types
from typing import NamedTuple

import common
import contenders
from common import ratio, speed, table
from contenders import Entry, median, settings

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import UserError, setting


class Work(NamedTuple):
    """The shape of a model and of its batch."""

    units: int
    num_layers: int
    batch_size: int
    time: int
    embedding_dim: int = 64
    vocabulary_size: int = 65

    @property
    def tokens(self):
        return self.batch_size * self.time

    def flops_per_token(self, cell):
        """Forward and backward: each weight multiplies and adds 3 times."""
        gates = {"gru": 3, "lstm": 4}[cell]
        inputs = [self.embedding_dim] + [self.units] * (self.num_layers - 1)
        layers = sum(gates * self.units * (n + self.units) for n in inputs)
        return 6 * (layers + self.units * self.vocabulary_size)


WORKS = {
    "d2l": Work(32, 2, 1024, 32, embedding_dim=28, vocabulary_size=28),
    "small": Work(128, 2, 50, 50),
    "medium": Work(256, 2, 64, 100),
    "large": Work(512, 2, 64, 100, embedding_dim=128),
    "deep": Work(256, 4, 64, 100),
}
OURS, OURS_BFLOAT16 = "stacked_rnn", "stacked_rnn bfloat16"
KERAS, KERAS_ON_JAX, PYTORCH = "stock Keras", "Keras on JAX", "PyTorch"
FLAX, MXNET = "JAX/Flax", "MXNet"
RIVALS = (KERAS, KERAS_ON_JAX, PYTORCH, FLAX, MXNET)
PYTORCH_BFLOAT16 = "PyTorch bfloat16"
MATMUL_SIZE = 2048
ROOT = str(pathlib.Path(__file__).parents[1])


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(common.ReportConfig):
    """What to measure."""

    works: str = setting(",".join(WORKS), "Sizes, separated by commas.")
    cells: str = setting("gru,lstm", "gru, lstm, or both.")
    repetitions: int = setting(
        5, "Turns of each contender; the median counts.", minimum=1
    )
    seconds: float = setting(0.6, "Approximate length of a turn.", minimum=0.0)
    memory: bool = setting(True, "Measure also the peak memory (Linux).")
    mxnet_python: str = setting(
        "", "An interpreter that has MXNet ('': MXNet is left out)."
    )


# Contenders, each in its own process: a size -> a function that runs steps ----


def build_trainer(work, cell, mixed_precision=False, sampled_words=0):
    """A `Trainer` on random tokens, as train.py makes it."""
    import numpy as np

    from stacked_rnn import datasets, tasks, training

    tokens = np.random.default_rng(0).integers(
        work.vocabulary_size, size=40 * work.tokens + 1, dtype=np.int32
    )
    return training.Trainer(
        configs.ModelConfig(
            cell=cell,
            units=work.units,
            num_layers=work.num_layers,
            embedding_dim=work.embedding_dim,
            vocabulary_size=work.vocabulary_size,
            sampled_words=sampled_words,
        ),
        configs.TrainConfig(
            batch_size=work.batch_size,
            epochs=10**6,
            mixed_precision=mixed_precision,
        ),
        tasks.LanguageModelTask(
            datasets.LanguageData(
                types.SimpleNamespace(
                    vocabulary_size=lambda: work.vocabulary_size
                ),
                datasets.RandomWindows(tokens, work.time, work.batch_size),
                None,
            )
        ),
    )


def this_project(work, cell, mixed_precision=False, sampled_words=0):
    """`Trainer.fit`, as train.py calls it."""
    return common.trainer_steps(
        build_trainer(Work(*work), cell, mixed_precision, sampled_words)
    )


def stock_model(work, layer):
    """A stock Keras model, and a batch of random tokens.

    Args:
        work: a `Work`.
        layer: a function that makes a recurrent layer.
    """
    import keras

    model = keras.Sequential(
        [
            keras.Input((work.time,), work.batch_size, dtype="int32"),
            keras.layers.Embedding(work.vocabulary_size, work.embedding_dim),
            *(layer() for _ in range(work.num_layers)),
            keras.layers.Dense(work.vocabulary_size, dtype="float32"),
        ]
    )
    shape = (work.batch_size, work.time + 1)
    tokens = keras.random.randint(shape, 0, work.vocabulary_size)
    return model, tokens[:, :-1], tokens[:, 1:]


def stock_keras(work, cell, kind, jit_compile):
    """A stock model of `GRU` or `LSTM` layers, or of their cells."""
    import keras
    import tensorflow as tf

    work, name = Work(*work), {"gru": "GRU", "lstm": "LSTM"}[cell]

    def layer():
        if kind == "cells":
            return keras.layers.RNN(
                getattr(keras.layers, f"{name}Cell")(work.units),
                return_sequences=True,
            )
        return getattr(keras.layers, name)(work.units, return_sequences=True)

    model, inputs, targets = stock_model(work, layer)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits
    return common.keras_steps(model, loss, inputs, targets, jit_compile)


def jax_steps(mean_loss, update, weights, moments, inputs, targets):
    """A function that trains a model in JAX and returns the last loss.

    A step is one function under `jax.jit`, to which it gives its state away.

    Args:
        mean_loss: (weights, inputs, targets) -> mean loss.
        update: (gradients, moments, weights) -> (weights, moments).
        weights, moments: before the first step.
        inputs, targets: the batch of every step.
    """
    import jax

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, inputs, targets):
        weights, moments = state
        mean, gradients = jax.value_and_grad(mean_loss)(
            weights, inputs, targets
        )
        return update(gradients, moments, weights), mean

    state = weights, moments

    def run(steps):
        nonlocal state
        for _ in range(steps):
            state, mean = step(state, inputs, targets)
        return float(mean)

    return run


def keras_on_jax(work, cell):
    """A stock model of `GRU` or `LSTM` layers, by its stateless functions."""
    import keras

    work = Work(*work)
    layer = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[cell]
    model, inputs, targets = stock_model(
        work, lambda: layer(work.units, return_sequences=True)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    weights, seeds, moments = (
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
        )
    )

    def mean_loss(weights, inputs, targets):
        logits, _ = model.stateless_call(weights, seeds, inputs, training=True)
        return loss(targets, logits)

    return jax_steps(
        mean_loss,
        lambda gradients, moments, weights: optimizer.stateless_apply(
            moments, gradients, weights
        ),
        weights, moments, inputs, targets,
    )  # fmt: skip


def flax_model(work, cell):
    """`nn.RNN` over a cell, between an embedding and a dense layer."""
    from flax import linen as nn

    recurrent = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}[cell]
    return nn.Sequential(
        [
            nn.Embed(work.vocabulary_size, work.embedding_dim),
            *(nn.RNN(recurrent(work.units)) for _ in range(work.num_layers)),
            nn.Dense(work.vocabulary_size),
        ]
    )


def flax(work, cell):
    """Flax on JAX, with Adam and clipping from Optax."""
    import jax
    import optax

    work = Work(*work)
    model = flax_model(work, cell)
    shape = (work.batch_size, work.time + 1)
    tokens = jax.random.randint(
        jax.random.key(0), shape, 0, work.vocabulary_size
    )
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    weights = model.init(jax.random.key(1), inputs)

    def mean_loss(weights, inputs, targets):
        return optax.softmax_cross_entropy_with_integer_labels(
            model.apply(weights, inputs), targets
        ).mean()

    def update(gradients, moments, weights):
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(weights, updates), moments

    return jax_steps(
        mean_loss, update, weights, optimizer.init(weights), inputs, targets
    )


def mxnet_model(work, cell):
    """A hybridized stack with `rnn.GRU` or `rnn.LSTM` of Gluon."""
    import mxnet
    from mxnet.gluon import nn, rnn

    recurrent = {"gru": rnn.GRU, "lstm": rnn.LSTM}[cell]
    model = nn.HybridSequential()
    model.add(
        nn.Embedding(work.vocabulary_size, work.embedding_dim),
        recurrent(
            work.units,
            work.num_layers,
            layout="NTC",
            input_size=work.embedding_dim,
        ),
        nn.Dense(work.vocabulary_size, flatten=False, in_units=work.units),
    )
    model.initialize(mxnet.init.Xavier())
    model.hybridize(static_alloc=True, static_shape=True)
    return model


def mxnet(work, cell):
    """MXNet's Gluon, in an environment of its own."""
    import mxnet
    from mxnet import autograd, gluon

    work = Work(*work)
    model = mxnet_model(work, cell)
    loss = gluon.loss.SoftmaxCrossEntropyLoss()
    loss.hybridize()
    weights = model.collect_params()
    trainer = gluon.Trainer(weights, "adam", {"learning_rate": 1e-3})
    gradients = [weight.grad() for weight in weights.values()]
    shape = (work.batch_size, work.time + 1)
    tokens = mxnet.nd.random.randint(0, work.vocabulary_size, shape)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def run(steps):
        for _ in range(steps):
            with autograd.record():
                mean = loss(model(inputs), targets).mean()
            mean.backward()
            # A check would wait for each step.
            gluon.utils.clip_global_norm(gradients, 1.0, check_isfinite=False)
            trainer.step(1)
        mxnet.nd.waitall()
        return float(mean.asscalar())

    return run


def pytorch_model(work, cell):
    """`nn.GRU` or `nn.LSTM` between an embedding and a linear layer."""
    import torch

    recurrent = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell]
    return torch.nn.ModuleList(
        [
            torch.nn.Embedding(work.vocabulary_size, work.embedding_dim),
            recurrent(
                work.embedding_dim,
                work.units,
                work.num_layers,
                batch_first=True,
            ),
            torch.nn.Linear(work.units, work.vocabulary_size),
        ]
    )


def pytorch(work, cell, device="cpu", bfloat16=False, compiles=False):
    """PyTorch with its fused Adam.

    `torch.compile` leaves the recurrent layer as it is, and compiles the rest.
    """
    import torch

    work = Work(*work)
    modules = pytorch_model(work, cell).to(device)
    embedding, recurrent, readout = modules
    weights = list(modules.parameters())
    optimizer = torch.optim.Adam(weights, 1e-3, fused=True)
    tokens = torch.randint(
        work.vocabulary_size, (work.batch_size, work.time + 1)
    ).to(device)

    def loss_of(tokens):
        logits = readout(recurrent(embedding(tokens[:, :-1]))[0])
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), tokens[:, 1:].flatten()
        )

    if compiles:
        loss_of = torch.compile(loss_of)

    def run(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                loss = loss_of(tokens)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
        return loss.item()

    return run


def keras_entries(work, cell):
    """The settings of stock Keras for a trial: name -> `Entry`."""
    return {
        f"{kind}{' + XLA' if jit else ''}, {name}": Entry(
            "tensorflow",
            stock_keras,
            {"work": work, "cell": cell, "kind": kind, "jit_compile": jit},
            setting,
        )
        for name, setting in settings("tensorflow").items()
        for kind in ("cells", "layer")
        for jit in (False, True)
    }


def keras_on_jax_entries(work, cell):
    """The settings of Keras on JAX for a trial: name -> `Entry`."""
    return {
        name: Entry(
            "jax.numpy",
            keras_on_jax,
            {"work": work, "cell": cell},
            setting | {"KERAS_BACKEND": "jax"},
        )
        for name, setting in settings("jax.numpy").items()
    }


def flax_entries(work, cell):
    """The settings of Flax for a trial: name -> `Entry`."""
    return {
        name: Entry("jax.numpy", flax, {"work": work, "cell": cell}, setting)
        for name, setting in settings("jax.numpy").items()
    }


def mxnet_entries(work, cell, python):
    """The settings of MXNet for a trial: name -> `Entry`.

    Args:
        work: a `Work`.
        cell: "gru" or "lstm".
        python: the interpreter that has MXNet.
    """
    return {
        name: Entry(
            "mxnet.ndarray",
            mxnet,
            {"work": work, "cell": cell},
            setting | {"PYTHONPATH": ROOT},
            python,
        )
        for name, setting in settings("mxnet.ndarray").items()
    }


def pytorch_entries(work, cell, bfloat16=False):
    """The settings of PyTorch for a trial: name -> `Entry`."""
    return {
        f"{'compiled, ' * compiles}{name}": Entry(
            "torch",
            pytorch,
            {
                "work": work, "cell": cell, "bfloat16": bfloat16,
                "compiles": compiles,
            },
            setting,
        )
        for name, setting in settings("torch").items()
        for compiles in (False, True)
    }  # fmt: skip


def pytorch_bfloat16_entries(work, cell):
    """The same in bfloat16."""
    return pytorch_entries(work, cell, bfloat16=True)


def installed_rivals(mxnet_python):
    """The rivals that are installed, name -> their entries; names the others.

    Args:
        mxnet_python: the interpreter that has MXNet, or "".

    Raises:
        UserError: it does not have it.
    """
    rivals = {KERAS: keras_entries}
    if contenders.has(KERAS_ON_JAX, "jax"):
        rivals[KERAS_ON_JAX] = keras_on_jax_entries
    if contenders.has(PYTORCH, "torch"):
        rivals[PYTORCH] = pytorch_entries
        rivals[PYTORCH_BFLOAT16] = pytorch_bfloat16_entries
    if contenders.has(FLAX, "jax", "flax", "optax"):
        rivals[FLAX] = flax_entries
    if not mxnet_python:
        contenders.leave_out(MXNET, "no --mxnet_python (benchmarks/README.md)")
        return rivals
    contenders.check_mxnet(mxnet_python)
    rivals[MXNET] = functools.partial(mxnet_entries, python=mxnet_python)
    return rivals


# Measuring --------------------------------------------------------------------


def compare(work, cell, config, rivals):
    """Measures one size.

    Args:
        work: a `Work`.
        cell: "gru" or "lstm".
        config: a `BenchmarkConfig`.
        rivals: name -> a function such as `keras_entries`.

    Returns:
        A dict for the tables and the JSON file.
    """
    arguments = {"work": work, "cell": cell}
    results, found = contenders.compare_at_best(
        {
            OURS: Entry("tensorflow", this_project, arguments),
            OURS_BFLOAT16: Entry(
                "tensorflow",
                this_project,
                arguments | {"mixed_precision": True},
            ),
            "matmul": Entry("tensorflow", common.matmul, {"size": MATMUL_SIZE}),
        },
        {name: entries(work, cell) for name, entries in rivals.items()},
        config,
    )
    peak = None
    if "matmul" in results:
        peak = 2 * MATMUL_SIZE**3 / median(results.pop("matmul")) / 1e9
    return found | {
        "tokens_per_second": {
            name: work.tokens / median(result)
            for name, result in results.items()
        },
        "memory_mib": {
            name: result["memory_mib"] for name, result in results.items()
        },
        "gflop_per_token": work.flops_per_token(cell) / 1e9,
        "matmul_gflops": peak,
    }


# The report -------------------------------------------------------------------


def speed_table(results):
    """The lines of the comparison."""
    rows = []
    for name, result in results.items():
        speeds = result["tokens_per_second"]
        peak, of_peak = result["matmul_gflops"], ""
        if peak and OURS in speeds:
            used = speeds[OURS] * result["gflop_per_token"]
            of_peak = f"{used / peak:.2f} of {peak:.0f} GFLOP/s"
        rows.append(
            [
                name,
                *(speed(speeds, contender) for contender in (OURS, *RIVALS)),
                *(ratio(speeds, OURS, rival) for rival in RIVALS),
                of_peak,
                ratio(speeds, OURS_BFLOAT16, OURS),
                ratio(speeds, OURS_BFLOAT16, PYTORCH_BFLOAT16),
            ]
        )
    return table(
        [
            "work", OURS, *RIVALS, *(f"ratio to {rival}" for rival in RIVALS),
            "of the matmul peak", "bfloat16 to float32",
            "bfloat16 to PyTorch's",
        ],
        rows,
    )  # fmt: skip


def main(config):
    """Measures, prints and writes the report."""
    works = common.choices("works", config.works, WORKS)
    cells = common.choices("cells", config.cells, ("gru", "lstm"))
    if config.memory and not pathlib.Path("/proc/self/status").exists():
        raise UserError("--memory: only Linux tells it; add --nomemory")
    rivals = installed_rivals(config.mxnet_python)
    report = common.Report(config, "training_speed", "Training speed")

    results = {}
    for name in works:
        for cell in cells:
            label = f"{cell.upper()} {name}"
            results[label] = compare(WORKS[name], cell, config, rivals)
            print(speed_table({label: results[label]})[-1], flush=True)
            report.save({"results": results})  # in case of an interruption
    names = (*RIVALS, PYTORCH_BFLOAT16, OURS, OURS_BFLOAT16)
    lines = [
        "Tokens per second of a full training step (forward, backward, "
        f"clipping, Adam) in float32; medians of {config.repetitions} turns of "
        f"about {config.seconds:g} s.\n",
        *speed_table(results),
        "\n## Settings\n\nThe fastest of a trial; spread: the slowest turn "
        "minus the fastest, in % of the median, of "
        f"{', '.join((OURS, *RIVALS))}.\n",
        *contenders.settings_table("work", results, OURS, RIVALS),
    ]
    lines += report.plot_speeds(
        results, names, PYTORCH, "A training step on the CPU"
    )
    if config.memory:
        memory = {label: row["memory_mib"] for label, row in results.items()}
        lines += [
            "\n## Peak memory\n\nMiB that the model and three steps add to the "
            "process.\n",
            *table(
                {"work": ""} | dict.fromkeys(names, ".0f"),
                [
                    [label, *map(row.get, names)]
                    for label, row in memory.items()
                ],
            ),
        ]
    report.write(lines, {"results": results})


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
