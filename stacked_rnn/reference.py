"""The equations of the models in plain NumPy, to read and to test against.

The notation is that of "Dive into Deep Learning" (D2L), chapters 9 and 10, with
the gate order of Keras. Shapes: token_ids [batch, time]; activations [batch,
time, units]; `states[layer][part]`, each [batch, units]. This module imports
nothing but NumPy, and is written for clarity, not speed.
"""

import numpy as np


def sigmoid(x):
    """Computes 1 / (1 + exp(-x)), without overflow for large negative x."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


# One time step of each cell -------------------------------------------------
#
# Each takes x [batch, inputs] and a tuple of states [batch, units], and returns
# the new states, the first of which, h, is also the output.


def simple_rnn_cell(x, states, kernel, recurrent_kernel, bias):
    """Vanilla RNN, h' = tanh(x W + h U + b): D2L equation 9.4.5 with tanh.

    Args:
        x: [batch, inputs].
        states: (h,), [batch, units].
        kernel: W, [inputs, units].
        recurrent_kernel: U, [units, units].
        bias: b, [units].
    """
    (h,) = states
    return (np.tanh(x @ kernel + h @ recurrent_kernel + bias),)


def gru_cell(x, states, kernel, recurrent_kernel, bias):
    """Gated recurrent unit, D2L section 10.2, with reset after the matmul.

    Args:
        x: [batch, inputs].
        states: (h,), [batch, units].
        kernel: [inputs, 3 * units], the blocks of z, r and the candidate.
        recurrent_kernel: [units, 3 * units], in the same order.
        bias: [2, 3 * units], added to the matmul of x and to that of h.
    """
    (h,) = states
    z, _, c = gru_gates(x, h, kernel, recurrent_kernel, bias)
    return (z * h + (1 - z) * c,)


def gru_gates(x, h, kernel, recurrent_kernel, bias):
    """Returns z, r and the candidate of a `gru_cell`, each [batch, units]."""
    xz, xr, xc = np.split(x @ kernel + bias[0], 3, axis=-1)
    hz, hr, hc = np.split(h @ recurrent_kernel + bias[1], 3, axis=-1)
    z = sigmoid(xz + hz)  # update gate: how much of h survives
    r = sigmoid(xr + hr)  # reset gate: how much the candidate sees
    return z, r, np.tanh(xc + r * hc)


def lstm_cell(x, states, kernel, recurrent_kernel, bias, cap_input_gate=False):
    """Long short-term memory, D2L section 10.1.

    Args:
        x: [batch, inputs].
        states: (h, c), each [batch, units].
        kernel: [inputs, 4 * units], the blocks of i, f, the candidate and o.
        recurrent_kernel: [units, 4 * units], in the same order.
        bias: [4 * units].
        cap_input_gate: whether i is at most 1 - f.
    """
    h, c = states
    i, f, candidate, o = lstm_gates(
        x, h, kernel, recurrent_kernel, bias, cap_input_gate
    )
    c = f * c + i * candidate
    return o * np.tanh(c), c


def lstm_gates(x, h, kernel, recurrent_kernel, bias, cap_input_gate=False):
    """Returns i, f, the candidate and o of an `lstm_cell`."""
    gates = x @ kernel + h @ recurrent_kernel + bias
    xi, xf, xc, xo = np.split(gates, 4, axis=-1)
    i = sigmoid(xi)  # input gate: how much of the candidate enters
    f = sigmoid(xf)  # forget gate: how much of c survives
    o = sigmoid(xo)  # output gate: how much of c shows
    if cap_input_gate:
        i = np.minimum(i, 1 - f)
    return i, f, np.tanh(xc), o


CELLS = {"simple_rnn": simple_rnn_cell, "gru": gru_cell, "lstm": lstm_cell}
NUM_STATES = {"simple_rnn": 1, "gru": 1, "lstm": 2}


# A layer, the stack, the language model -------------------------------------


def initial_states(cell, units, num_layers, batch_size):
    """Returns zeros, `states[layer][part]`, each [batch, units]."""
    zeros = np.zeros((batch_size, units))
    return ((zeros,) * NUM_STATES[cell],) * num_layers


def recurrent_layer(cell, inputs, states, weights, mask=None):
    """Runs one layer over time.

    Args:
        cell: "simple_rnn", "gru" or "lstm".
        inputs: [batch, time, inputs].
        states: tuple of [batch, units], the states before the first step.
        weights: (kernel, recurrent_kernel, bias), as the cell takes them.
        mask: None, or bool [batch, time], False where a step does not change
            the states.

    Returns:
        The outputs [batch, time, units] and the final states.
    """
    outputs = []
    for t in range(inputs.shape[1]):
        new = CELLS[cell](inputs[:, t], states, *weights)
        if mask is not None:
            keep = mask[:, t, None]
            new = tuple(np.where(keep, n, s) for n, s in zip(new, states))
        states = new
        outputs.append(states[0])
    return np.stack(outputs, axis=1), states


def deep_rnn(cell, inputs, states, weights, mask=None, projections=None):
    """Runs a stack of layers: D2L equation 10.3.1.

    Layer l at time t sees layer l at t - 1 and layer l - 1 at t; the output of
    the top layer is the output of the stack.

    Args:
        cell: "simple_rnn", "gru" or "lstm".
        inputs: [batch, time, inputs].
        states: `states[layer][part]`, each [batch, units].
        weights: a triple (kernel, recurrent_kernel, bias) per layer.
        mask: see `recurrent_layer`.
        projections: None, or for residual connections an entry per layer: a
            matrix [inputs, units] that projects the layer's input before it is
            added to its output, or None to add the input unchanged.

    Returns:
        The outputs [batch, time, units] and the final states.
    """
    x, final_states = inputs, []
    for layer, (layer_states, layer_weights) in enumerate(zip(states, weights)):
        below = x
        x, new = recurrent_layer(cell, x, layer_states, layer_weights, mask)
        final_states.append(new)
        if projections is not None:
            projection = projections[layer]
            x = x + (below if projection is None else below @ projection)
    return x, tuple(final_states)


def log_softmax(logits):
    """Computes log(exp(logits) / sum(exp(logits))) over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def nats(logits, targets):
    """Computes -log p(target) for logits [..., vocabulary], targets [...]."""
    log_probs = log_softmax(logits)
    return -np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]


def perplexity(nats_per_token):
    """Computes exp(nats_per_token).

    A model of perplexity n is as uncertain as one that chooses uniformly among
    n tokens.
    """
    return np.exp(nats_per_token)


# Sampling -------------------------------------------------------------------
#
# Each filter takes the logits of one position, [vocabulary].


def penalize_repetition(logits, seen, penalty):
    """Makes seen ids less likely, as in CTRL (Keskar et al. 2019, section 4.1).

    Args:
        logits: [vocabulary].
        seen: bool [vocabulary], True for ids in the text so far.
        penalty: 1 changes nothing; the larger, the less likely.
    """
    penalized = np.where(logits > 0, logits / penalty, logits * penalty)
    return np.where(seen, penalized, logits)


def keep_top_k(logits, k):
    """Sets all but the k largest logits to -inf (k = 0: keeps all)."""
    if not 0 < k < len(logits):
        return logits
    return np.where(logits >= np.sort(logits)[-k], logits, -np.inf)


def keep_top_p(logits, p):
    """Sets all but the most likely logits, of total probability p, to -inf.

    Nucleus sampling (Holtzman et al. 2020): keeps the smallest set of the most
    likely ids whose probabilities sum to at least p.
    """
    if p >= 1:  # rounding must not cut off the tail
        return logits
    order = np.argsort(-logits, kind="stable")
    probabilities = np.exp(log_softmax(logits))[order]
    sum_before = np.cumsum(probabilities) - probabilities
    count = max(1, int((sum_before < p).sum()))
    return np.where(logits >= logits[order[count - 1]], logits, -np.inf)


def sample(logits, uniform, temperature, top_k=0, top_p=1.0):
    """Draws one id by inverting the cumulative distribution.

    Args:
        logits: [vocabulary].
        uniform: a random number in [0, 1).
        temperature: divides the logits; 0: takes the largest logit.
        top_k, top_p: see `keep_top_k` and `keep_top_p`.
    """
    if temperature == 0:
        return int(np.argmax(logits))
    filtered = keep_top_p(keep_top_k(logits / temperature, top_k), top_p)
    cumulative = np.cumsum(np.exp(log_softmax(filtered)))
    return int((cumulative <= uniform * cumulative[-1]).sum())


# Beam search ----------------------------------------------------------------


def beam_search(
    decode_step,
    token_id,
    states,
    *,
    num_beams,
    max_new_tokens,
    length_penalty,
    end_ids=(),
    banned_id=None,
):
    """Finds the best continuations of one prompt, D2L section 10.8.

    The score of a continuation is log p / length ** length_penalty; if it
    ended, both log p and length include its end token.

    Args:
        decode_step: (token_id, states) -> (logits [vocabulary], states).
        token_id: the last token of the prompt, which the states do not include.
        states: the states before that token, as `decode_step` takes them.
        num_beams: number of unfinished continuations to keep at each length.
        max_new_tokens: length at which unfinished continuations are cut off.
        length_penalty: exponent of the length in the score.
        end_ids: the ids that end a continuation; not part of its token ids.
        banned_id: an id that must not occur, or None.

    Returns:
        A list of at most `num_beams` tuples (score, token_ids, log_probs): the
        continuations that ended, best first, then those that were cut off.
    """
    live = [(0.0, [], [], states)]  # log p, token ids, log p of each, states
    finished = []
    for length in range(1, max_new_tokens + 1):
        candidates = []
        for total, token_ids, log_probs, states in live:
            last = token_ids[-1] if token_ids else token_id
            logits, states = decode_step(last, states)
            end = -np.inf  # log p of ending here, with any of the end ids
            for new, log_prob in enumerate(log_softmax(logits)):
                if new == banned_id:
                    continue
                if new in end_ids:
                    end = np.logaddexp(end, log_prob)
                else:
                    longer = [*token_ids, new], [*log_probs, log_prob]
                    candidates.append((total + log_prob, *longer, states))
            if end > -np.inf:
                candidates.append((total + end, token_ids, log_probs, None))
        # The sort is stable: equal candidates keep their order.
        candidates.sort(key=lambda candidate: -candidate[0])
        live = []
        for rank, (total, token_ids, log_probs, states) in enumerate(
            candidates
        ):
            if len(token_ids) == length:
                live.append((total, token_ids, log_probs, states))
            elif rank < num_beams:
                score = total / length**length_penalty
                finished.append((score, token_ids, log_probs))
        live = live[:num_beams]
    finished.sort(key=lambda found: -found[0])
    cut_off = [
        (total / max_new_tokens**length_penalty, token_ids, log_probs)
        for total, token_ids, log_probs, _ in live
    ]
    return (finished[:num_beams] + cut_off)[:num_beams]
