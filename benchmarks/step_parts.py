"""Where the time of a training step goes: its parts, each alone on one core.

  python benchmarks/step_parts.py --cell=lstm --units=512 --batch_size=32

The shape is that of one layer and of one shard of the batch. Prints a Markdown
table: milliseconds (the best of several turns), the share of the sum, and
GFLOP/s where the part is made of matrix products.
"""

import dataclasses
import time

import tensorflow as tf

from stacked_rnn import configs, metrics, rnn_ops
from stacked_rnn.cli import flags
from stacked_rnn.configs import setting


@dataclasses.dataclass(frozen=True)
class PartsConfig(configs.Config):
    """The shape to measure."""

    cell: str = setting("gru", "Cell of the layer.", choices=("gru", "lstm"))
    units: int = setting(512, "Width of the layer and its inputs.", minimum=1)
    batch_size: int = setting(32, "Rows of the shard.", minimum=1)
    time: int = setting(100, "Time steps.", minimum=1)
    vocabulary_size: int = setting(65, "Classes of the loss.", minimum=2)
    repetitions: int = setting(20, "Turns; the best counts.", minimum=1)


def parts(config):
    """Yields (name, function, its arguments, its FLOPs in products)."""
    units, rows = config.units, config.time * config.batch_size
    gates = {"gru": 3, "lstm": 4}[config.cell]
    scan = {"gru": rnn_ops.gru, "lstm": rnn_ops.lstm}[config.cell]
    flops = 2 * rows * units * gates * units

    x = tf.random.normal((config.time, config.batch_size, units))
    flat = tf.reshape(x, (rows, units))
    projected = tf.random.normal(
        (config.time, config.batch_size, gates * units)
    )
    d_flat = tf.reshape(projected, (rows, gates * units))
    kernel = tf.random.normal((units, gates * units), stddev=units**-0.5)
    state = tf.zeros((config.batch_size, units))
    states = (state,) * {"gru": 1, "lstm": 2}[config.cell]

    @tf.function(autograph=False)
    def forward(projected, kernel):
        return scan(projected, states, kernel, jit_compile=True)

    @tf.function(autograph=False)
    def forward_backward(projected, kernel):
        with tf.GradientTape() as tape:
            tape.watch([projected, kernel])
            outputs, _ = scan(projected, states, kernel, jit_compile=True)
        return tape.gradient(outputs, [projected, kernel], x)

    yield "loop forward", forward, (projected, kernel), flops
    yield (
        "both loops, gradient of U",
        forward_backward,
        (projected, kernel),
        3 * flops,
    )
    yield (
        "inputs projected",
        tf.function(lambda a, b: a @ b),
        (flat, kernel),
        flops,
    )
    yield (
        "gradient of the inputs",
        tf.function(lambda d, b: tf.matmul(d, b, transpose_b=True)),
        (d_flat, kernel),
        flops,
    )
    yield (
        "gradient of W",
        tf.function(lambda a, d: tf.matmul(a, d, transpose_a=True)),
        (flat, d_flat),
        flops,
    )
    yield (
        "two transposes",
        tf.function(lambda a: (tf.transpose(a, (1, 0, 2)) + 0,) * 2),
        (x,),
        0,
    )

    token_ids = tf.random.uniform(
        (rows,), maxval=config.vocabulary_size, dtype=tf.int32
    )
    readout = tf.random.normal((units, config.vocabulary_size))
    embeddings = tf.transpose(readout)

    @tf.function(autograph=False)
    def loss(flat, readout):
        with tf.GradientTape() as tape:
            tape.watch([flat, readout])
            nats = tf.reduce_sum(metrics.token_nats(flat @ readout, token_ids))
        return tape.gradient(nats, [flat, readout])

    @tf.function(autograph=False)
    def embed(embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            embedded = tf.gather(embeddings, token_ids)
        gradient = tape.gradient(embedded, embeddings, flat)
        return tf.convert_to_tensor(gradient)

    variables = [tf.Variable(tf.zeros_like(kernel)) for _ in range(4)]

    @tf.function(autograph=False)
    def update(gradient):
        (gradient, _), _ = tf.clip_by_global_norm([gradient, gradient], 1.0)
        weight, m, v, _ = variables
        m.assign_add(0.1 * (gradient - m))
        v.assign_add(0.001 * (gradient * gradient - v))
        return weight.assign_sub(0.001 * m / (tf.sqrt(v) + 1e-7))

    yield (
        "readout, loss, their gradients",
        loss,
        (flat, readout),
        6 * rows * units * config.vocabulary_size,
    )
    yield "embedding and its gradient", embed, (embeddings,), 0
    yield "clipping, Adam (one kernel)", update, (kernel,), 0


def main(config):
    """Measures the parts and prints the table."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    print("| part | ms | GFLOP/s |\n|---|---|---|")
    for name, function, arguments, flops in parts(config):
        best = min(
            _seconds(function, arguments) for _ in range(config.repetitions)
        )
        speed = f"{flops / best / 1e9:.0f}" if flops else ""
        print(f"| {name} | {1e3 * best:.1f} | {speed} |", flush=True)


def _seconds(function, arguments):
    started = time.perf_counter()
    results = function(*arguments)
    tf.nest.flatten(results)[0].numpy()
    return time.perf_counter() - started


if __name__ == "__main__":
    flags.run(main, PartsConfig)
