"""The sampling options: the fields of `configs.SamplingConfig`, as tensors.

A batch has a value of each option per row. A new option is a field there, its
use in `samplers`, its equation in `reference`, and an argument of the exported
signature `generate`.
"""

import dataclasses

import tensorflow as tf

from stacked_rnn.configs import SamplingConfig

_FIELDS = {field.name: field for field in dataclasses.fields(SamplingConfig)}
DTYPES = {
    name: tf.int32 if field.type is int else tf.float32
    for name, field in _FIELDS.items()
} | {"seed": tf.int64}
PLAIN = ("max_new_tokens", "temperature")  # what cannot be left out
ALL = tuple(name for name in DTYPES if name != "seed")  # of one call


def specs(names=tuple(DTYPES)) -> dict[str, tf.TensorSpec]:
    """The `TensorSpec`s of some options, [batch] each, by name."""
    return {name: tf.TensorSpec([None], DTYPES[name], name) for name in names}


def tensors(samplings, names=ALL) -> dict[str, tf.Tensor]:
    """The options of a batch, [batch] each, by name.

    Args:
        samplings: the `SamplingConfig` of each row.
        names: which options.
    """
    return {
        name: tf.constant([getattr(one, name) for one in samplings], dtype)
        for name, dtype in DTYPES.items()
        if name in names
    }


def checks(options) -> list:
    """Assertions that options are in the ranges of `SamplingConfig`.

    A positive minimum there stands for any number above zero here.

    Args:
        options: tensors by name, whose minimum is not negative.
    """
    assertions = []
    for name, values in options.items():
        rules = _FIELDS[name].metadata
        high = min(rules["maximum"], rules["below"])
        is_right, text = values >= 0, f"{name}: expected 0 <= {name}"
        if rules["minimum"] > 0:
            is_right, text = values > 0, f"{name}: expected 0 < {name}"
        if high < values.dtype.max:
            is_right, text = is_right & (values <= high), f"{text} <= {high:g}"
        elif values.dtype.is_floating:  # which excludes NaN, too
            is_right &= values <= values.dtype.max
            text += " < inf"
        assertions.append(tf.debugging.Assert(tf.reduce_all(is_right), [text]))
    return assertions
