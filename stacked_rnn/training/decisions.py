"""What a run does on the devices that there are, decided before it begins."""

import dataclasses
import os

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Decisions:
    """How a step is computed.

    Attributes:
        gpus: the compute capability of each GPU of this process.
        dtype_policy: Keras' policy for the layers.
        xla: what XLA compiles: a shard's whole pass ("shards"), the "loops"
            over time, or "nothing".
        shards: parts that the rows of a replica are cut into, one a core.
    """

    gpus: tuple[tuple[int, int], ...]
    dtype_policy: str
    xla: str
    shards: int

    def __str__(self):
        precision = {
            "float32": "float32",
            "mixed_bfloat16": "products in bfloat16",
            "mixed_float16": "products in float16, the loss scaled",
        }[self.dtype_policy]
        if self.gpus:
            return f"{precision}, the layers of Keras (cuDNN)"
        return (
            f"no GPU, {precision}, the scans of rnn_ops, XLA compiles "
            f"{self.xla}, {self.shards} shard(s) at a time"
        )


def visible_gpus() -> tuple[tuple[int, int], ...]:
    """The compute capability of each GPU that TensorFlow uses."""
    if not tf.config.list_logical_devices("GPU"):
        return ()
    details = map(
        tf.config.experimental.get_device_details,
        tf.config.list_physical_devices("GPU"),
    )
    return tuple(d.get("compute_capability", (0, 0)) for d in details)


def decide(model_config, train_config, rows, local_replicas, gpus) -> Decisions:
    """Decides.

    Args:
        model_config, train_config: the settings.
        rows: those of a replica that are computed at once.
        local_replicas: of this process.
        gpus: see `visible_gpus`.
    """
    dtype_policy = "float32"
    if train_config.mixed_precision:
        # The first with bfloat16 is 8.0, Ampere.
        no_bfloat16 = gpus and min(gpus) < (8, 0)
        dtype_policy = "mixed_float16" if no_bfloat16 else "mixed_bfloat16"
    cores = max(1, (os.cpu_count() or 1) // local_replicas)
    # The products of wide layers fill the cores by themselves.
    wide = gpus or model_config.units >= 512
    shards = 1 if wide else max(1, min(cores, rows // 8))
    xla = _what_xla_compiles(model_config, train_config, gpus)
    return Decisions(gpus, dtype_policy, xla, shards)


def _what_xla_compiles(model_config, train_config, gpus) -> str:
    """benchmarks/README.md has the measurements.

    Narrow layers gain from one program; the large products of wide ones are
    faster in TensorFlow's own library, those in bfloat16 even inside the loops.
    Dropout writes its seeds, and programs that write would wait for each other.
    On a GPU, XLA would hide cuDNN.
    """
    wide = model_config.units >= 512
    mixed = train_config.mixed_precision
    if gpus or not train_config.jit_compile or (wide and mixed):
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
