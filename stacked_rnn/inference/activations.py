"""States and gates of a language model while it reads a text.

The states are those that the exported step returns. The gates follow from them
by the equations of `reference`: each needs only what a layer read and the state
before, so that all tokens are one product of matrices.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from stacked_rnn import reference
from stacked_rnn.utils import terminal

_CHUNK = 2000  # tokens between two signs of progress


@dataclasses.dataclass(frozen=True)
class Activations:
    """What a model computes for each token of a text.

    Attributes:
        values: float32 [tokens, layers, units], between -1 and 1: the state h
            after each token, of an LSTM tanh(c).
        gates: gates[layer][name], float32 [tokens, units]: i, f and o of an
            LSTM, z and r of a GRU, none of a simple RNN.
    """

    values: np.ndarray
    gates: list[dict[str, np.ndarray]]


def read_activations(model, weights, token_ids) -> Activations:
    """Reads a text with a language model, a token at a time.

    Shows a progress bar on a terminal.

    Args:
        model: an `inference.SavedLanguageModel`.
        weights: arrays by the path of the weight in the Keras model, such as
            `embedding/embeddings`.
        token_ids: int32 [tokens].
    """
    config = model.model_config
    states = states_of_text(model, token_ids)
    is_lstm = config.cell == "lstm"
    values = [
        np.tanh(states[layer, "c"]) if is_lstm else states[layer, "h"]
        for layer in range(config.num_layers)
    ]
    gates = [
        _gates(config.cell, inputs, before, layer_weights)
        for inputs, before, layer_weights in layer_inputs(
            model, weights, token_ids, states
        )
    ]
    return Activations(np.stack(values, axis=1), gates)


def states_of_text(model, token_ids) -> dict:
    """Runs the signature `decode_step` over a text.

    Returns:
        The states after each token, float32 [tokens, units], by (layer, part),
        such as (0, "h").
    """
    decode_step = model.functions.signatures["decode_step"]
    states, after = model.initial_states(1), []

    def step(states, token_id):
        new = decode_step(token_ids=token_id[None], **states)
        return {name: new[name] for name in states}

    @tf.function(reduce_retracing=True)
    def read(token_ids, states):  # a call per token would take far longer
        return tf.scan(step, token_ids, states)

    with terminal.progress_bar(len(token_ids), "token") as progress:
        for start in range(0, len(token_ids), _CHUNK):
            chunk = tf.constant(token_ids[start : start + _CHUNK])
            after.append(read(chunk, states))
            states = {name: rows[-1] for name, rows in after[-1].items()}
            progress(start + len(chunk))
    joined = {}
    for name in states:
        _, layer, part = name.split("_")
        joined[int(layer), part] = np.concatenate(
            [tf.cast(rows[name][:, 0], tf.float32) for rows in after]
        )
    return joined


def layer_inputs(model, weights, token_ids, states):
    """Yields what each layer computes with, from the bottom to the top.

    Args:
        model, weights, token_ids: see `read_activations`.
        states: see `states_of_text`.

    Yields:
        The inputs [tokens, inputs], the states before each token, a tuple of
        [tokens, units], and the arguments of the cell in `reference` that
        follow these two.
    """
    config, end_id = model.model_config, model.tokenizer.end_id
    before_text = model.initial_states(1)
    embedded = x = weights["embedding/embeddings"][token_ids]
    for layer in range(config.num_layers):
        below = x
        if layer and config.embedding_to_all_layers:
            x = np.concatenate([x, embedded], axis=-1)
        before = []
        for part in ("h", "c")[: reference.NUM_STATES[config.cell]]:
            state = states[layer, part]
            first = before_text[f"state_{layer}_{part}"]
            state = np.concatenate([first, state[:-1]])
            if end_id is not None:
                state[token_ids == end_id] = 0.0
            before.append(state)
        layer_weights = [
            weights[f"rnn_{layer}/cell_{layer}/{name}"]
            for name in ("kernel", "recurrent_kernel", "bias")
        ]
        if config.cell == "lstm":
            layer_weights.append(config.cap_input_gate)
        yield x, tuple(before), layer_weights
        x = states[layer, "h"]
        if config.residual:
            if layer == 0 and "residual_projection/kernel" in weights:
                below = below @ weights["residual_projection/kernel"]
            x = x + below


def _gates(cell, inputs, before, layer_weights) -> dict:
    if cell == "lstm":
        i, f, _, o = reference.lstm_gates(inputs, before[0], *layer_weights)
        return {"i": i, "f": f, "o": o}
    if cell == "gru":
        z, r, _ = reference.gru_gates(inputs, before[0], *layer_weights)
        return {"z": z, "r": r}
    return {}
