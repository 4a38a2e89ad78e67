"""Execution plan: precision, XLA and sharding for the available devices."""

import dataclasses
import math

from stacked_rnn import rnn_ops
from stacked_rnn.utils import devices

# On a GPU, with this many steps or more, XLA saves more time beside cuDNN than
# it takes to compile, some 20 seconds; see benchmarks/results/gpu.md.
WORTH_COMPILING = 2_000


@dataclasses.dataclass(frozen=True)
class ExecutionPlan:
    """How to compute the training steps of a run.

    Attributes:
        gpus: GPUs of this process, see `devices`.
        dtype_policy: Keras' dtype policy for the layers.
        use_cudnn: whether cuDNN computes the recurrent layers, not `rnn_ops`.
        xla: what XLA compiles: the whole pass of a shard, forward and backward
            ("shards"), the loops over time ("loops"), or neither ("nothing").
        xla_for_gpu: whether XLA compiles the loops over time for a GPU, see
            `layers.recurrent`.
        use_xla_for_update: whether XLA compiles the clipping and the optimizer.
        use_xla_for_masks: whether XLA compiles the drawing of dropout masks.
        shards: number of parts into which the rows of a replica are cut, one
            per core.
        steps_per_call: maximum number of steps per call of a compiled
            function; between two calls a GPU waits for Python. Several GPUs,
            which have not been tried, take one step per call.
    """

    gpus: tuple[devices.Gpu, ...]
    dtype_policy: str
    use_cudnn: bool
    xla: str
    xla_for_gpu: bool
    use_xla_for_update: bool
    use_xla_for_masks: bool
    shards: int
    steps_per_call: int

    def __str__(self):
        precision = {
            "float32": "float32",
            "mixed_bfloat16": "matmuls in bfloat16",
            "mixed_float16": "matmuls in float16",
        }[self.dtype_policy]
        compiled = {"nothing": "without XLA"}.get(self.xla, "compiled by XLA")
        backend = "cuDNN" if self.use_cudnn else compiled
        return f"{_describe(self.gpus)}, {precision}, {backend}"


def _describe(gpus) -> str:
    """Names the GPUs, or says why the CPU is used."""
    if gpus:
        return ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
    missing = ", ".join(devices.missing_libraries())
    if missing:
        missing = f"; TensorFlow found a card but not {missing}"
    return f"the CPU (no GPU{missing})"


def make_plan(
    model_config,
    train_config,
    rows,
    replicas,
    local_replicas,
    gpus,
    steps=math.inf,
) -> ExecutionPlan:
    """Plans how to compute the training steps of a run.

    Args:
        model_config, train_config: the settings.
        rows: number of rows per replica that are computed at once.
        replicas: number of replicas in all processes.
        local_replicas: number of replicas in this process.
        gpus: GPUs of this process, see `devices`.
        steps: number of steps with batches of few shapes; XLA compiles for
            each shape.
    """
    use_xla = train_config.jit_compile
    dtype_policy = "float32"
    if train_config.mixed_precision:
        dtype_policy = "mixed_bfloat16"
        # bfloat16 needs compute capability 8.0 (Ampere). Without XLA, only
        # cuDNN is fast on a GPU, and it needs float16.
        is_old = gpus and min(g.compute_capability for g in gpus) < (8, 0)
        if gpus and (is_old or not use_xla):
            dtype_policy = "mixed_float16"
    # In float16, which old GPUs have, only cuDNN was tried.
    prefers_xla = (
        use_xla and steps >= WORTH_COMPILING and dtype_policy != "mixed_float16"
    )
    use_cudnn = (
        bool(gpus)
        and _can_use_cudnn(model_config, dtype_policy)
        and not prefers_xla
    )
    cores = max(1, devices.cores() // local_replicas)
    # The matmuls of wide layers occupy all cores without shards.
    needs_no_shards = gpus or model_config.units >= 512
    shards = 1 if needs_no_shards else max(1, min(cores, rows // 8))
    if not use_xla or use_cudnn:
        xla = "nothing"
    elif gpus:
        xla = "shards"
    else:
        xla = _xla_on_cpu(model_config, train_config)
    is_one_gpu = bool(gpus) and replicas == 1
    return ExecutionPlan(
        gpus,
        dtype_policy,
        use_cudnn,
        xla,
        xla_for_gpu=bool(gpus) and xla == "shards",
        use_xla_for_update=is_one_gpu and use_xla,
        use_xla_for_masks=use_xla and not use_cudnn,
        shards=shards,
        steps_per_call=10 if is_one_gpu else 1,
    )


def _can_use_cudnn(model_config, dtype_policy) -> bool:
    """Whether cuDNN can compute the layers of a model for every batch.

    It supports neither dropout of the state nor texts that begin within a row,
    and in bfloat16 it is unreliable, see `rnn_ops.cudnn`. It does support
    padding, which `datasets` puts on the right.
    """
    return (
        model_config.cell in rnn_ops.cudnn.CELLS
        and not model_config.recurrent_dropout
        and not model_config.cap_input_gate
        and not model_config.end_of_text
        and dtype_policy != "mixed_bfloat16"
    )


def _xla_on_cpu(model_config, train_config) -> str:
    """Chooses what XLA compiles on a CPU, as measured in benchmarks/README.md.

    Narrow layers are fastest as one program. The large matmuls of wide ones are
    faster in TensorFlow's own library, and in bfloat16 even within the loops.
    """
    units, is_mixed = model_config.units, train_config.mixed_precision
    if units >= 512 and is_mixed:
        return "nothing"
    return "loops" if units > 256 or is_mixed else "shards"


def estimated_bytes(
    model_config, num_parameters, tokens, has_logits_at_each_token=True
) -> int:
    """Estimates the bytes of memory that training adds to a process.

    They hold weights, gradients and two moments per parameter; per token, the
    activations that backpropagation needs and one layer's gradients. The
    estimate is within a third of benchmarks/results/training_speed.md.

    Args:
        model_config: the architecture.
        num_parameters: number of its weights.
        tokens: number of tokens whose gradients are computed at once.
        has_logits_at_each_token: whether the model computes logits at each
            token, instead of a few per text.
    """
    gates = {"simple_rnn": 1, "gru": 3, "lstm": 4}[model_config.cell]
    saved = {"simple_rnn": 1, "gru": 5, "lstm": 6}[model_config.cell]
    directions = 1 + model_config.bidirectional
    values_per_token = (
        directions
        * model_config.units
        * (model_config.num_layers * (gates + saved) + 2 * gates)
    )
    if has_logits_at_each_token:
        vocabulary_size = model_config.vocabulary_size
        candidates = model_config.sampled_words or vocabulary_size
        values_per_token += 3 * min(vocabulary_size, candidates)
    return 16 * num_parameters + 4 * tokens * values_per_token
