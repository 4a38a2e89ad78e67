"""Where the time of a training step goes: each part alone, on one core.

  python benchmarks/step_parts.py --cell=lstm --units=512 --batch_size=32

The shape is that of one layer and of one shard of the batch. Prints a Markdown
table: milliseconds (the best of several turns), and GFLOP/s where the part is
made of matrix products.
"""

import dataclasses

from common import timed

from stacked_rnn import configs
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
    """A list of (name of a part, function, its arguments, FLOPs)."""
    import tensorflow as tf

    from stacked_rnn import metrics, rnn_ops

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
    token_ids = tf.random.uniform(
        (rows,), maxval=config.vocabulary_size, dtype=tf.int32
    )
    readout = tf.random.normal((units, config.vocabulary_size))
    variables = [tf.Variable(tf.zeros_like(kernel)) for _ in range(3)]

    def forward(projected, kernel):
        return scan(projected, states, kernel, jit_compile=True)

    def forward_backward(projected, kernel):
        with tf.GradientTape() as tape:
            tape.watch([projected, kernel])
            outputs, _ = forward(projected, kernel)
        return tape.gradient(outputs, [projected, kernel], x)

    def loss(flat, readout):
        with tf.GradientTape() as tape:
            tape.watch([flat, readout])
            nats = metrics.token_nats(flat @ readout, token_ids)
        return tape.gradient(nats, [flat, readout])

    def embed(embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            embedded = tf.gather(embeddings, token_ids)
        gradient = tape.gradient(embedded, embeddings, flat)
        return tf.convert_to_tensor(gradient)

    def update(gradient):
        (gradient, _), _ = tf.clip_by_global_norm([gradient, gradient], 1.0)
        weight, m, v = variables
        m.assign_add(0.1 * (gradient - m))
        v.assign_add(0.001 * (gradient * gradient - v))
        return weight.assign_sub(0.001 * m / (tf.sqrt(v) + 1e-7))

    return [
        ("loop forward", forward, (projected, kernel), flops),
        (
            "both loops, gradient of U",
            forward_backward,
            (projected, kernel),
            3 * flops,
        ),
        ("inputs projected", tf.matmul, (flat, kernel), flops),
        (
            "gradient of the inputs",
            lambda d, kernel: tf.matmul(d, kernel, transpose_b=True),
            (d_flat, kernel),
            flops,
        ),
        (
            "gradient of W",
            lambda x, d: tf.matmul(x, d, transpose_a=True),
            (flat, d_flat),
            flops,
        ),
        (
            "two transposes",
            lambda x: (tf.transpose(x, (1, 0, 2)) + 0,) * 2,
            (x,),
            0,
        ),
        (
            "readout, loss, their gradients",
            loss,
            (flat, readout),
            6 * rows * units * config.vocabulary_size,
        ),
        ("embedding and its gradient", embed, (tf.transpose(readout),), 0),
        ("clipping, Adam (one kernel)", update, (kernel,), 0),
    ]


def main(config):
    """Measures the parts and prints the table."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    print("| part | ms | GFLOP/s |\n|---|---|---|")
    for name, function, arguments, flops in parts(config):
        compiled = tf.function(function, autograph=False)

        def run(steps, compiled=compiled, arguments=arguments):
            for _ in range(steps):
                results = compiled(*arguments)
            tf.nest.flatten(results)[0].numpy()

        run(1)  # traces it
        best = min(timed(run, 1) for _ in range(config.repetitions))
        rate = f"{flops / best / 1e9:.0f}" if flops else ""
        print(f"| {name} | {1e3 * best:.1f} | {rate} |", flush=True)


if __name__ == "__main__":
    flags.run(main, PartsConfig)
