"""What a run does on the devices that there are, decided before it begins."""

import dataclasses

from stacked_rnn import rnn_ops
from stacked_rnn.utils import devices


@dataclasses.dataclass(frozen=True)
class ExecutionPlan:
    """How a step is computed.

    Attributes:
        gpus: of this process, see `devices`.
        dtype_policy: Keras' policy for the layers.
        use_cudnn: whether cuDNN runs the recurrent layers; else the scans do.
        xla: what XLA compiles: a shard's whole pass ("shards"), the "loops"
            over time, or "nothing" of either.
        compiles_update: whether XLA compiles the clipping and the optimizer.
        shards: parts that the rows of a replica are cut into, one a core.
        steps_per_call: most steps of one call of a compiled function: between
            two calls a GPU waits for Python. Several GPUs, which have not been
            tried, take a step each.
    """

    gpus: tuple[devices.Gpu, ...]
    dtype_policy: str
    use_cudnn: bool
    xla: str
    compiles_update: bool
    shards: int
    steps_per_call: int

    def __str__(self):
        precision = {
            "float32": "float32",
            "mixed_bfloat16": "products in bfloat16",
            "mixed_float16": "products in float16",
        }[self.dtype_policy]
        if self.use_cudnn:
            by = "cuDNN"
        else:
            by = "without XLA" if self.xla == "nothing" else "compiled by XLA"
        return f"{_describe(self.gpus)}, {precision}, {by}"


def _describe(gpus) -> str:
    """The GPUs in words, or why there are none."""
    if gpus:
        return ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
    missing = ", ".join(devices.missing_libraries())
    if missing:
        missing = f"; TensorFlow found a card but not {missing}"
    return f"the CPU (no GPU{missing})"


def make_plan(
    model_config, train_config, rows, replicas, local_replicas, gpus
) -> ExecutionPlan:
    """Decides.

    Args:
        model_config, train_config: the settings.
        rows: those of a replica that are computed at once.
        replicas: of all processes.
        local_replicas: of this process.
        gpus: of this process, see `devices`.
    """
    compiles = train_config.jit_compile
    dtype_policy = "float32"
    if train_config.mixed_precision:
        dtype_policy = "mixed_bfloat16"
        # The first with bfloat16 is 8.0, Ampere. Without XLA only cuDNN is
        # fast on a GPU, and that takes float16.
        is_old = gpus and min(g.compute_capability for g in gpus) < (8, 0)
        if gpus and (is_old or not compiles):
            dtype_policy = "mixed_float16"
    use_cudnn = bool(gpus) and _can_use_cudnn(model_config, dtype_policy)
    cores = max(1, devices.cores() // local_replicas)
    # The products of wide layers fill the cores by themselves.
    is_whole = gpus or model_config.units >= 512
    shards = 1 if is_whole else max(1, min(cores, rows // 8))
    if not compiles or use_cudnn:
        xla = "nothing"
    elif gpus:
        xla = "shards"
    else:
        xla = _what_xla_compiles(model_config, train_config)
    is_one_gpu = bool(gpus) and replicas == 1
    return ExecutionPlan(
        gpus,
        dtype_policy,
        use_cudnn,
        xla,
        is_one_gpu and compiles,
        shards,
        steps_per_call=10 if is_one_gpu else 1,
    )


def _can_use_cudnn(model_config, dtype_policy) -> bool:
    """Whether cuDNN computes the layers of a model, for any batch of them.

    It knows no dropout of the state and no text that begins within a row, and
    in bfloat16 it is not to be relied on, see `rnn_ops.cudnn`. Padding it
    knows, as that of `datasets` is on the right.
    """
    return (
        model_config.cell in rnn_ops.cudnn.CELLS
        and not model_config.recurrent_dropout
        and not model_config.end_of_text
        and dtype_policy != "mixed_bfloat16"
    )


def _what_xla_compiles(model_config, train_config) -> str:
    """On a CPU: benchmarks/README.md has the measurements.

    Narrow layers gain from one program; the large products of wide ones are
    faster in TensorFlow's own library, those in bfloat16 even inside the loops.
    Dropout writes its seeds, and programs that write would wait for each other.
    """
    mixed = train_config.mixed_precision
    if model_config.units >= 512 and mixed:
        return "nothing"
    random = (
        model_config.dropout
        or model_config.recurrent_dropout
        or model_config.embedding_dropout
    )
    return "loops" if model_config.units > 256 or mixed or random else "shards"


def estimated_bytes(
    model_config, num_parameters, tokens, has_logits_at_each_token=True
) -> int:
    """About what training adds to a process.

    Weights, gradients and two moments; what a step keeps of each token for the
    way back, and one layer's gradients on it. Within a third of what
    benchmarks/results/training_speed.md measured.

    Args:
        model_config: the architecture.
        num_parameters: its weights.
        tokens: those whose gradients are computed at once.
        has_logits_at_each_token: or a few for a whole text.
    """
    gates = {"simple_rnn": 1, "gru": 3, "lstm": 4}[model_config.cell]
    saved = {"simple_rnn": 1, "gru": 5, "lstm": 6}[model_config.cell]
    directions = 1 + model_config.bidirectional
    a_token = (
        directions
        * model_config.units
        * (model_config.num_layers * (gates + saved) + 2 * gates)
    )
    if has_logits_at_each_token:
        a_token += 3 * model_config.vocabulary_size
    return 16 * num_parameters + 4 * tokens * a_token
