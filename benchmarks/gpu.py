"""Training and generation on a GPU, beside PyTorch and the `fit` of Keras.

  python benchmarks/gpu.py
  python benchmarks/gpu.py --sizes=2x512 --dtypes=float32 --nogeneration

A step is forward, backward, clipping by the global norm and Adam, on random
tokens, vocabulary 65. Each contender is a process of its own; they take turns,
and sleep while another runs: this project by `Trainer.fit`, as train.py calls
it; stock Keras by `Model.fit`, with the layers of that name (cuDNN); PyTorch by
`nn.GRU` and `nn.LSTM` (cuDNN), fused Adam, autocast. TensorFloat-32 is as each
framework has it: TensorFlow takes it for all products, PyTorch for cuDNN's
alone. Without PyTorch the others are measured.

Takes some five minutes on an H100. Writes gpu.md, .json and .png to
--output_dir as it goes.
"""

import contextlib
import dataclasses
import importlib.util
import pathlib
import statistics
import sys
import tempfile

from contenders import Contender, answer, has_pytorch
from measuring import machine, matmul, thousands, write_report

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import UserError, setting

VOCABULARY, TIME = 65, 100
OURS, KERAS, PYTORCH = "stacked_rnn", "Keras fit", "PyTorch"
SIZES = {
    "2x512": (2, 512, 64),
    "2x1024": (2, 1024, 128),
    "3x1150": (3, 1150, 128),
}
GENERATED = {"cell": "lstm", "units": 512, "num_layers": 2}
TOKENS = 256  # that each text gets
MATMUL_SIZE = 8192


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
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
    output_dir: str = setting(
        "benchmarks/results", "Directory of the report and the plot."
    )


# Contenders, each in a process: a size -> a function that runs some steps -----


def this_project(cell, dtype, num_layers, units, batch_size):
    """`Trainer.fit` as train.py calls it."""
    import tensorflow as tf

    from stacked_rnn import datasets, training

    tokens = tf.random.uniform(
        [40 * batch_size * TIME + 1], maxval=VOCABULARY, dtype=tf.int32
    )
    trainer = training.Trainer(
        configs.ModelConfig(
            cell=cell,
            units=units,
            num_layers=num_layers,
            embedding_dim=units,
            vocabulary_size=VOCABULARY,
        ),
        configs.TrainConfig(
            batch_size=batch_size,
            epochs=10**6,
            mixed_precision=dtype == "bfloat16",
        ),
        datasets.LanguageData(
            None,
            datasets.RandomWindows(tokens.numpy(), TIME, batch_size),
            None,
        ),
    )
    print(f"{trainer.plan}", file=sys.stderr)

    def run(steps):
        trainer.total_steps = trainer.step + steps
        trainer.fit(verbose=0)

    return run


def keras_fit(cell, dtype, num_layers, units, batch_size):
    """The stock layers, compiled and fitted as the guides of Keras do."""
    import keras
    import tensorflow as tf

    keras.config.set_dtype_policy(
        "mixed_bfloat16" if dtype == "bfloat16" else dtype
    )
    layer = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[cell]
    model = keras.Sequential(
        [
            keras.Input((TIME,), batch_size, dtype="int32"),
            keras.layers.Embedding(VOCABULARY, units),
            *(layer(units, return_sequences=True) for _ in range(num_layers)),
            keras.layers.Dense(VOCABULARY, dtype="float32"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-3, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    tokens = tf.random.uniform(
        (batch_size, TIME + 1), maxval=VOCABULARY, dtype=tf.int32
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = (
        tf.data.Dataset.from_tensors((tokens[:, :-1], tokens[:, 1:]))
        .repeat()
        .prefetch(2)
        .with_options(options)
    )
    return lambda steps: model.fit(dataset, steps_per_epoch=steps, verbose=0)


def pytorch(cell, dtype, num_layers, units, batch_size):
    """`nn.GRU` or `nn.LSTM` between an embedding and a linear layer."""
    import torch

    recurrent = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell]
    modules = torch.nn.ModuleList(
        [
            torch.nn.Embedding(VOCABULARY, units),
            recurrent(units, units, num_layers, batch_first=True),
            torch.nn.Linear(units, VOCABULARY),
        ]
    ).cuda()
    embedding, recurrent, readout = modules
    weights = list(modules.parameters())
    optimizer = torch.optim.Adam(weights, 1e-3, fused=True)
    tokens = torch.randint(VOCABULARY, (batch_size, TIME + 1)).cuda()

    def run(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(
                "cuda", torch.bfloat16, enabled=dtype == "bfloat16"
            ):
                logits = readout(recurrent(embedding(tokens[:, :-1]))[0])
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), tokens[:, 1:].flatten()
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
        loss.item()

    return run


def cudnn_alone(cell, dtype, num_layers, units, batch_size):
    """What `rnn_ops.cudnn` takes of a step, forward and backward."""
    import tensorflow as tf

    from stacked_rnn import rnn_ops

    gates = {"gru": 3, "lstm": 4}[cell]
    bias = (2, gates * units) if cell == "gru" else (gates * units,)
    shapes = ((units, gates * units),) * 2 + (bias,)
    weights = [
        [tf.random.normal(shape, stddev=0.03) for shape in shapes]
        for _ in range(num_layers)
    ]
    x = tf.random.normal((batch_size, TIME, units))
    zeros = tf.zeros((batch_size, units))
    states = [(zeros,) * (1 + (cell == "lstm"))] * num_layers

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            outputs, _ = rnn_ops.cudnn.stack(cell, x, states, weights)
        gradients = tape.gradient(outputs, [x, weights])
        return tf.add_n(
            [tf.reshape(g, [-1])[0] for g in tf.nest.flatten(gradients)]
        )

    def run(steps):
        for _ in range(steps):
            result = step()
        float(result)

    return run


def this_project_generates(batch_size, compiles, directory):
    """`SavedModel.generate`, as generate.py calls it."""
    from stacked_rnn import export, inference, models, tokenizers

    path = pathlib.Path(directory, "1")
    if not path.exists():
        tokenizer = tokenizers.CharTokenizer(
            ["\ufffd", *map(chr, range(33, 32 + VOCABULARY))]
        )
        config = configs.ModelConfig(**GENERATED, vocabulary_size=VOCABULARY)
        model = models.build_language_model(config)
        export.TextGenerator(model, tokenizer).save(directory)
    model = inference.load(str(path))

    def run(steps):
        inference.language_model.WORTH_COMPILING = 0 if compiles else 10**9
        sampling = configs.SamplingConfig(
            max_new_tokens=TOKENS * steps, temperature=1.0
        )
        texts = list(model.generate(["A"], sampling, num_samples=batch_size))
        assert len(texts) == batch_size

    return run


def pytorch_generates(batch_size):
    """A step at a time of `nn.LSTM`."""
    import torch

    embedding = torch.nn.Embedding(VOCABULARY, 64).cuda()
    recurrent = torch.nn.LSTM(
        64, GENERATED["units"], GENERATED["num_layers"], batch_first=True
    ).cuda()
    readout = torch.nn.Linear(GENERATED["units"], VOCABULARY).cuda()

    def run(steps):
        with torch.inference_mode():
            token_ids = torch.zeros(batch_size, dtype=torch.long, device="cuda")
            states = None
            for _ in range(TOKENS * steps):
                outputs, states = recurrent(
                    embedding(token_ids)[:, None], states
                )
                probabilities = torch.softmax(readout(outputs[:, 0]), -1)
                token_ids = torch.multinomial(probabilities, 1)[:, 0]
            token_ids.sum().item()

    return run


def start(name):
    """The process of a contender."""
    if name == PYTORCH:  # brings libraries of its own
        return Contender("torch", {"LD_LIBRARY_PATH": None})
    return Contender("tensorflow", {"TF_FORCE_GPU_ALLOW_GROWTH": "true"})


def in_turn(contenders, makers, arguments, steps, repetitions):
    """Median seconds a step of each contender, built at the same time.

    One that fails is named on standard error and left out.

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


# The report -------------------------------------------------------------------


def training(contenders, config, results):
    """Yields after each size, cell and dtype, its figures in `results`."""
    for size in filter(None, config.sizes.split(",")):
        num_layers, units, batch_size = SIZES[size]
        for cell in config.cells.split(","):
            for dtype in config.dtypes.split(","):
                shape = {
                    "cell": cell, "dtype": dtype, "num_layers": num_layers,
                    "units": units, "batch_size": batch_size,
                }  # fmt: skip
                makers = {
                    OURS: this_project, KERAS: keras_fit, PYTORCH: pytorch
                }  # fmt: skip
                seconds = in_turn(
                    contenders,
                    {name: makers[name] for name in contenders},
                    shape,
                    config.steps,
                    config.repetitions,
                )
                decided = contenders[OURS].last_words()
                row = {
                    "tokens_per_second": {
                        name: batch_size * TIME / value
                        for name, value in seconds.items()
                    },
                    "decided": decided,
                }
                if OURS in seconds and decided.endswith("cuDNN"):
                    alone = in_turn(
                        contenders, {OURS: cudnn_alone}, shape, config.steps, 1
                    )
                    if OURS in alone:
                        row["outside_cudnn"] = 1 - alone[OURS] / seconds[OURS]
                results[f"{cell.upper()} {size}, {dtype}"] = row
                yield


def generation(contenders, directory, results):
    """Yields after each batch size, its figures in `results`."""
    for batch_size in (1, 64, 1024):
        plans = {
            (OURS, "without XLA"): (this_project_generates, 1),
            (OURS, "with XLA"): (this_project_generates, 4),
        }
        if PYTORCH in contenders:
            plans[PYTORCH, PYTORCH] = (pytorch_generates, 2)
        speeds = {}
        for (contender, name), (maker, steps) in plans.items():
            arguments = {"batch_size": batch_size}
            if contender == OURS:
                arguments |= {
                    "compiles": name == "with XLA", "directory": directory
                }  # fmt: skip
            seconds = in_turn(
                contenders, {contender: maker}, arguments, steps, 1
            )
            for value in seconds.values():
                speeds[name] = batch_size * TOKENS / value
        results[batch_size] = speeds
        yield


def ratio(speeds, ours, other):
    """How many times the speed of the other, in words."""
    if ours not in speeds or other not in speeds:
        return ""
    return f"{speeds[ours] / speeds[other]:.2f}"


def report(gpu, peaks, trained, generated):
    """The lines of the report."""
    lines = [
        f"# On a GPU\n\n{gpu}; {machine()}.\n",
        f"Product of two matrices of {MATMUL_SIZE}: "
        + ", ".join(f"{d} {t:.0f} TFLOP/s" for d, t in peaks.items())
        + ".\n",
        "## Training\n\nTokens per second of a full step (forward, backward, "
        "clipping, Adam), windows of 100, in turn. TensorFloat-32 as each "
        "framework has it by default: TensorFlow takes it for all products in "
        "float32, PyTorch for cuDNN's alone.\n",
        "| model | stacked_rnn | Keras fit | PyTorch | to Keras | to PyTorch | "
        "how | outside cuDNN |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in trained.items():
        speeds = row["tokens_per_second"]
        share = row.get("outside_cudnn")
        lines.append(
            f"| {name} | "
            + " | ".join(
                thousands(speeds[key]) if key in speeds else "not there"
                for key in (OURS, KERAS, PYTORCH)
            )
            + f" | {ratio(speeds, OURS, KERAS)} | "
            f"{ratio(speeds, OURS, PYTORCH)} | "
            f"{'XLA' if share is None else 'cuDNN'} | "
            + ("" if share is None else f"{share:.0%}")
            + " |"
        )
    lines.append(
        "\nWhat may flatter whom: PyTorch has its fused Adam and autocast, but "
        "neither `torch.compile` nor CUDA graphs, which were not tried; in "
        "generation it takes a step at a time from Python, where stacked_rnn "
        "has its loop in the graph. stacked_rnn and Keras run by their `fit`; "
        "PyTorch takes bare steps on one batch that it keeps. "
        "Compiling is not counted."
    )
    if generated:
        lines += [
            f"\n## Generation\n\nTokens per second, LSTM 2x512, {TOKENS} "
            "and more tokens for each text, temperature 1, from the "
            "SavedModel; compiling not counted.\n",
            "| texts at a time | with XLA | without XLA | PyTorch | XLA to "
            "PyTorch |",
            "|---|---|---|---|---|",
        ]
    for batch_size, speeds in generated.items():
        lines.append(
            f"| {batch_size} | "
            + " | ".join(
                thousands(speeds[key]) if key in speeds else "not there"
                for key in ("with XLA", "without XLA", PYTORCH)
            )
            + f" | {ratio(speeds, 'with XLA', PYTORCH)} |"
        )
    if len(trained) > 1:
        lines.append("\n![speed](gpu.png)")
    return lines


def draw(trained, path):
    """Speeds in training relative to PyTorch's, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 4.5))
    names = [
        n for n, row in trained.items() if PYTORCH in row["tokens_per_second"]
    ]
    for place, contender in enumerate((PYTORCH, KERAS, OURS)):
        axes.bar(
            [i + 0.27 * (place - 1) for i in range(len(names))],
            [
                trained[name]["tokens_per_second"].get(contender, 0.0)
                / trained[name]["tokens_per_second"][PYTORCH]
                for name in names
            ],
            width=0.25,
            label=contender,
        )
    axes.set_xticks(
        range(len(names)), names, rotation=30, ha="right", fontsize="small"
    )
    axes.set_ylabel("tokens per second, PyTorch = 1")
    axes.set_title("A training step on a GPU")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(config):
    """Measures, prints and writes the report."""
    import tensorflow as tf

    for flag, known in (
        ("sizes", SIZES), ("cells", ("lstm", "gru")),
        ("dtypes", ("float32", "bfloat16")),
    ):  # fmt: skip
        unknown = set(getattr(config, flag).split(",")) - {"", *known}
        if unknown:
            raise UserError(
                f"--{flag}: no {', '.join(sorted(unknown))} among "
                + ", ".join(known)
            )
    cards = tf.config.list_physical_devices("GPU")
    if not cards:
        raise UserError(
            "there is no GPU: training_speed.py and generation_speed.py are "
            "for CPUs"
        )
    details = tf.config.experimental.get_device_details(cards[0])
    output = pathlib.Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    names = [OURS, KERAS]
    if has_pytorch():
        names.append(PYTORCH)
    peaks, trained, generated = {}, {}, {}

    def write():
        lines = report(details["device_name"], peaks, trained, generated)
        with contextlib.redirect_stdout(sys.stderr):
            write_report(
                output,
                "gpu",
                lines,
                {
                    "gpu": details["device_name"],
                    "matmul_tflops": peaks,
                    "training": trained,
                    "generation": generated,
                },
            )

    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as on:
        contenders = {name: start(name) for name in names}
        for contender in contenders.values():
            on.callback(contender.close)
        for contender in contenders.values():
            contender.wait_until_loaded()
        for dtype in config.dtypes.split(","):
            product = {"dtype": dtype, "size": MATMUL_SIZE}
            seconds = in_turn(contenders, {OURS: matmul}, product, 50, 1)
            for value in seconds.values():
                peaks[dtype] = 2 * MATMUL_SIZE**3 / value / 1e12
        for _ in training(contenders, config, trained):
            write()
        if config.generation:
            for _ in generation(contenders, scratch, generated):
                write()
    if importlib.util.find_spec("matplotlib") and PYTORCH in contenders:
        draw(trained, output / "gpu.png")
    print("\n".join(report(details["device_name"], peaks, trained, generated)))


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
