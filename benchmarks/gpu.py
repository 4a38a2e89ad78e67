"""Training and generation on a GPU, beside PyTorch and the `fit` of Keras.

  python benchmarks/gpu.py
  python benchmarks/gpu.py --sizes=2x512 --dtypes=float32 --nogeneration

A step is forward, backward, clipping by the global norm and Adam, on random
tokens, vocabulary 65. This project runs as in train.py, by `Trainer.fit`; stock
Keras by `Model.fit`, with the layers of that name (cuDNN); PyTorch by `nn.GRU`
and `nn.LSTM` (cuDNN), fused Adam and autocast. TensorFloat-32 is on where each
framework turns it on by default: in TensorFlow for all products, in PyTorch for
cuDNN's alone. There is no trial of settings. README.md says how the contenders
take turns. Without PyTorch the others are measured.

Takes about seven minutes on an H200, most of them for XLA to compile. Writes
gpu.md, .json and .png to --output_dir as it goes, and prints the first.
"""

import contextlib
import dataclasses
import pathlib
import statistics
import sys
import tempfile

import common
import generation_speed
import training_speed
from common import ratio, speed, table
from contenders import Contender, answer, has
from training_speed import Work

from stacked_rnn.cli import flags
from stacked_rnn.configs import UserError, setting

TIME = 100
OURS, KERAS, PYTORCH = "stacked_rnn", "Keras fit", "PyTorch"
SIZES = {
    "2x512": Work(512, 2, 64, TIME, embedding_dim=512),
    "2x1024": Work(1024, 2, 128, TIME, embedding_dim=1024),
    "3x1150": Work(1150, 3, 128, TIME, embedding_dim=1150),
}
GENERATED = {"cell": "lstm", "units": 512, "embedding_dim": 64}
BATCHES = (1, 64, 1024)
WITHOUT_XLA, WITH_XLA = "without XLA", "with XLA"
MATMUL_SIZE = 8192


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(common.ReportConfig):
    """What to measure."""

    sizes: str = setting(
        ",".join(SIZES),
        "Layers x units, of these, separated by commas ('': no training).",
    )
    cells: str = setting("lstm,gru", "gru, lstm, or both.")
    dtypes: str = setting("float32,bfloat16", "float32, bfloat16, or both.")
    steps: int = setting(25, "Steps of a turn.", minimum=1)
    repetitions: int = setting(
        2, "Turns of each contender; the median counts.", minimum=1
    )
    generation: bool = setting(True, "Measure generation too.")


# Contenders, each in its own process: a size -> a function that runs steps ----


def this_project(work, cell, dtype):
    """`Trainer.fit`, as train.py calls it."""
    trainer = training_speed.build_trainer(
        Work(*work), cell, dtype == "bfloat16"
    )
    print(trainer.plan, file=sys.stderr)
    return common.trainer_steps(trainer)


def keras_fit(work, cell, dtype):
    """The stock layers, compiled and fitted as in the guides of Keras."""
    import keras
    import tensorflow as tf

    work = Work(*work)
    keras.config.set_dtype_policy(
        "mixed_bfloat16" if dtype == "bfloat16" else dtype
    )
    layer = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[cell]
    model, inputs, targets = training_speed.stock_model(
        work, lambda: layer(work.units, return_sequences=True)
    )
    model.compile(
        keras.optimizers.Adam(1e-3, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = (
        tf.data.Dataset.from_tensors((inputs, targets))
        .repeat()
        .prefetch(2)
        .with_options(options)
    )
    return lambda steps: model.fit(dataset, steps_per_epoch=steps, verbose=0)


def pytorch(work, cell, dtype):
    """The same in PyTorch."""
    return training_speed.pytorch(work, cell, "cuda", dtype == "bfloat16")


def this_project_generates(batch_size, compiles, directory):
    """`SavedModel.generate`, as generate.py calls it."""
    path = pathlib.Path(directory, "1")
    if not path.exists():
        generation_speed.export(directory=directory, **GENERATED)
    return generation_speed.this_project(str(path), batch_size, compiles)


def pytorch_generates(batch_size):
    """A loop over `nn.LSTM`, token by token."""
    return generation_speed.pytorch(
        batch_size=batch_size, kind="layer", device="cuda", **GENERATED
    )


# Measuring --------------------------------------------------------------------


def start(name):
    """Starts the process of a contender."""
    if name == PYTORCH:  # brings its own libraries
        return Contender("torch", {"LD_LIBRARY_PATH": None})
    return Contender("tensorflow", {"TF_FORCE_GPU_ALLOW_GROWTH": "true"})


def in_turn(contenders, makers, arguments, steps, repetitions=1):
    """Median seconds per step of each contender, built at the same time.

    Names one that fails on standard error, and leaves it out.

    Args:
        contenders: name -> `Contender`.
        makers: name -> what to build; it replaces what was there before.
        arguments: of all makers.
        steps: of a turn.
        repetitions: turns of each.
    """
    for name, maker in makers.items():
        contenders[name].build("", maker, arguments)
    times = {name: [] for name in makers if answer(name, contenders[name])}
    for _ in range(repetitions):
        for name in list(times):
            contenders[name].run("", steps)
            if ran := answer(name, contenders[name]):
                times[name].append(ran["seconds_a_step"])
            else:
                del times[name]
    return {name: statistics.median(t) for name, t in times.items()}


def train(contenders, work, cell, dtype, config):
    """Measures training in one size; a dict for the table and the JSON file."""
    makers = {OURS: this_project, KERAS: keras_fit, PYTORCH: pytorch}
    arguments = {"work": work, "cell": cell, "dtype": dtype}
    seconds = in_turn(
        contenders,
        {name: makers[name] for name in contenders},
        arguments,
        config.steps,
        config.repetitions,
    )
    return {
        "tokens_per_second": {
            name: work.tokens / value for name, value in seconds.items()
        },
        "decided": contenders[OURS].last_words(),
    }


def generate(contenders, batch_size, directory):
    """Tokens per second of each way to generate with one batch size."""
    size = {"batch_size": batch_size}
    speeds = {}
    for name, contender, maker, steps, arguments in (
        (WITHOUT_XLA, OURS, this_project_generates, 4, {"compiles": False}),
        (WITH_XLA, OURS, this_project_generates, 16, {"compiles": True}),
        (PYTORCH, PYTORCH, pytorch_generates, 8, {}),
    ):
        if contender not in contenders:
            continue
        if contender == OURS:
            arguments["directory"] = directory
        seconds = in_turn(
            contenders, {contender: maker}, size | arguments, steps
        )
        for value in seconds.values():
            speeds[name] = batch_size * generation_speed.TOKENS / value
    return speeds


# The report -------------------------------------------------------------------


def report_lines(gpu, peaks, trained, generated):
    """The lines of the report."""
    lines = [
        f"{gpu}. Product of two matrices of {MATMUL_SIZE}: "
        + ", ".join(f"{dtype} {peak:.0f}" for dtype, peak in peaks.items())
        + " TFLOP/s.\n"
    ]
    if trained:
        rows = []
        for name, result in trained.items():
            speeds = result["tokens_per_second"]
            rows.append(
                [
                    name,
                    *(speed(speeds, n) for n in (OURS, KERAS, PYTORCH)),
                    *(ratio(speeds, OURS, rival) for rival in (KERAS, PYTORCH)),
                ]
            )
        lines += [
            "## Training\n\nTokens per second of a full step (forward, "
            f"backward, clipping, Adam), windows of {TIME}.\n",
            *table(
                [
                    "model", OURS, KERAS, PYTORCH, "to Keras", "to PyTorch"
                ],
                rows,
            ),
        ]  # fmt: skip
    if generated:
        lines += [
            "\n## Generation\n\nTokens per second, LSTM 2x512, 256 and more "
            "tokens for each text, temperature 1, from the SavedModel.\n",
            *table(
                [
                    "texts at a time", WITH_XLA, WITHOUT_XLA, PYTORCH,
                    "XLA to PyTorch",
                ],
                [
                    [
                        batch_size,
                        *(
                            speed(speeds, name)
                            for name in (WITH_XLA, WITHOUT_XLA, PYTORCH)
                        ),
                        ratio(speeds, WITH_XLA, PYTORCH),
                    ]
                    for batch_size, speeds in generated.items()
                ],
            ),
        ]  # fmt: skip
    return lines


def main(config):
    """Measures, prints and writes the report."""
    import tensorflow as tf

    sizes = common.choices("sizes", config.sizes, SIZES)
    cells = common.choices("cells", config.cells, ("lstm", "gru"))
    dtypes = common.choices("dtypes", config.dtypes, ("float32", "bfloat16"))
    cards = tf.config.list_physical_devices("GPU")
    if not cards:
        raise UserError(
            "there is no GPU: training_speed.py and generation_speed.py are "
            "for CPUs"
        )
    details = tf.config.experimental.get_device_details(cards[0])
    report = common.Report(config, "gpu", "On a GPU", plots=False)
    names = [OURS, KERAS]
    if has(PYTORCH, "torch"):
        names.append(PYTORCH)
    figures = {
        "gpu": details["device_name"],
        "matmul_tflops": {},
        "training": {},
        "generation": {},
    }

    def write(quiet=True):
        lines = report_lines(*figures.values())
        lines += report.plot_speeds(
            figures["training"],
            (PYTORCH, KERAS, OURS),
            PYTORCH,
            "A training step on a GPU",
        )
        report.write(lines, figures, quiet)

    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as on:
        contenders = {name: start(name) for name in names}
        for contender in contenders.values():
            on.callback(contender.close)
        for contender in contenders.values():
            contender.wait_until_loaded()
        for dtype in dtypes:
            product = {"dtype": dtype, "size": MATMUL_SIZE}
            seconds = in_turn(contenders, {OURS: common.matmul}, product, 50)
            for value in seconds.values():
                flops = 2 * MATMUL_SIZE**3
                figures["matmul_tflops"][dtype] = flops / value / 1e12
        for size in sizes:
            for cell in cells:
                for dtype in dtypes:
                    figures["training"][f"{cell.upper()} {size}, {dtype}"] = (
                        train(contenders, SIZES[size], cell, dtype, config)
                    )
                    write()
        for batch_size in BATCHES if config.generation else ():
            figures["generation"][batch_size] = generate(
                contenders, batch_size, scratch
            )
            write()
    write(quiet=False)


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
