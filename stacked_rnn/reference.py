"""The equations, spelled out in NumPy: a page to read, and the tests' oracle.

Notation of "Dive into Deep Learning" (D2L), chapters 9 and 10, with the gate
order of Keras. Shapes: token_ids [batch, time]; activations [batch, time,
units]; states[layer][part], each [batch, units]. Imports NumPy only, and
nothing here is fast.
"""

import numpy as np


def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow for large negative x."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


# One time step of each cell -------------------------------------------------
#
# x [batch, inputs], states a tuple of [batch, units]; returns the new states,
# of which the first, h, is also the output.


def simple_rnn_cell(x, states, kernel, recurrent_kernel, bias):
    """h' = tanh(x W + h U + b): D2L equation 9.4.5 with tanh."""
    (h,) = states
    return (np.tanh(x @ kernel + h @ recurrent_kernel + bias),)


def gru_cell(x, states, kernel, recurrent_kernel, bias):
    """Gated recurrent unit, D2L section 10.2, reset after the matmul.

    Args:
        kernel: [inputs, 3 * units], the blocks for z, r and the candidate.
        recurrent_kernel: [units, 3 * units].
        bias: [2, 3 * units], for the input and for the recurrent product.
    """
    (h,) = states
    xz, xr, xc = np.split(x @ kernel + bias[0], 3, axis=-1)
    hz, hr, hc = np.split(h @ recurrent_kernel + bias[1], 3, axis=-1)
    z = sigmoid(xz + hz)  # update gate: how much of h survives
    r = sigmoid(xr + hr)  # reset gate: how much the candidate sees
    c = np.tanh(xc + r * hc)  # candidate state
    return (z * h + (1 - z) * c,)


def lstm_cell(x, states, kernel, recurrent_kernel, bias):
    """Long short-term memory, D2L section 10.1.

    Args:
        kernel: [inputs, 4 * units], the blocks for i, f, the candidate and o.
        recurrent_kernel: [units, 4 * units].
        bias: [4 * units].
    """
    h, c = states
    gates = x @ kernel + h @ recurrent_kernel + bias
    xi, xf, xc, xo = np.split(gates, 4, axis=-1)
    i = sigmoid(xi)  # input gate: how much of the candidate enters
    f = sigmoid(xf)  # forget gate: how much of c survives
    o = sigmoid(xo)  # output gate: how much of c shows
    c = f * c + i * np.tanh(xc)
    return o * np.tanh(c), c


CELLS = {"simple_rnn": simple_rnn_cell, "gru": gru_cell, "lstm": lstm_cell}
NUM_STATES = {"simple_rnn": 1, "gru": 1, "lstm": 2}


# A layer, the stack, the language model -------------------------------------


def initial_states(cell, units, num_layers, batch_size):
    """States of zeros for a stack: states[layer][part], [batch, units]."""
    zeros = np.zeros((batch_size, units))
    return ((zeros,) * NUM_STATES[cell],) * num_layers


def recurrent_layer(cell, inputs, states, weights, mask=None):
    """One layer over time.

    Args:
        cell: "simple_rnn", "gru" or "lstm".
        inputs: [batch, time, inputs].
        states: tuple of [batch, units], the states before the first step.
        weights: kernel, recurrent_kernel, bias, as its cell takes them.
        mask: [batch, time] bool; where False the states stay as they are.

    Returns:
        The outputs, [batch, time, units], and the final states.
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
    """The stack of D2L equation 10.3.1.

    Layer l at time t sees layer l at t - 1 and layer l - 1 at t; the output of
    the top layer is the output of the stack.

    Args:
        inputs: [batch, time, inputs].
        states: states[layer][part], each [batch, units].
        weights: one triple of weights a layer.
        projections: None, or residual connections: one entry a layer, None to
            add the layer's input to its output as it is, or a matrix [inputs,
            units] to bring it to the layer's width first.

    Returns:
        The outputs, [batch, time, units], and the final states.
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
    """log(exp(logits) / sum(exp(logits))) over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def nats(logits, targets):
    """-log p(target), in nats: logits [..., vocabulary] and targets [...]."""
    log_probs = log_softmax(logits)
    return -np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]


def perplexity(nats_per_token):
    """exp of the mean nats: as unsure as among so many equal choices."""
    return np.exp(nats_per_token)


# Sampling -------------------------------------------------------------------
#
# Each filter takes the logits of one position, [vocabulary].


def penalize_repetition(logits, seen, penalty):
    """CTRL (Keskar et al. 2019, section 4.1): makes seen ids less likely."""
    penalized = np.where(logits > 0, logits / penalty, logits * penalty)
    return np.where(seen, penalized, logits)


def keep_top_k(logits, k):
    """Minus infinity for all but the k largest logits (0: keeps all)."""
    if not 0 < k < len(logits):
        return logits
    return np.where(logits >= np.sort(logits)[-k], logits, -np.inf)


def keep_top_p(logits, p):
    """Nucleus (Holtzman et al. 2020): the smallest head that sums to >= p."""
    if p >= 1:  # rounding must not cut a tail off
        return logits
    order = np.argsort(-logits, kind="stable")
    probabilities = np.exp(log_softmax(logits))[order]
    before = np.cumsum(probabilities) - probabilities
    count = max(1, int((before < p).sum()))
    return np.where(logits >= logits[order[count - 1]], logits, -np.inf)


def sample(logits, uniform, temperature, top_k=0, top_p=1.0):
    """Draws one id by inverting the cumulative distribution.

    Args:
        logits: [vocabulary].
        uniform: a number in [0, 1).
        temperature: 0 takes the largest logit.
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
    """The texts that follow one prompt and score best, D2L section 10.8.

    The score is log p / length ** length_penalty, the end of a text counted in
    both.

    Args:
        decode_step: (token_id, states) -> (logits [vocabulary], states).
        token_id: the last token of the prompt, not yet read.
        states: whatever `decode_step` takes.
        end_ids: the ids that end a text, themselves left out.
        banned_id: an id that no text holds.

    Returns:
        Tuples (score, token_ids, log_probs), `num_beams` at most: the texts
        that have an end, the best first, then those that were cut off.
    """
    live = [(0.0, [], [], states)]  # log p, token ids, log p of each, states
    finished = []
    for length in range(1, max_new_tokens + 1):
        candidates = []
        for total, token_ids, log_probs, states in live:
            last = token_ids[-1] if token_ids else token_id
            logits, states = decode_step(last, states)
            end = -np.inf  # log p that the text ends, by any of the ids
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
        # Of equal ones, sorting leaves the one before that was before.
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
    finished.sort(key=lambda text: -text[0])
    cut_off = [
        (total / max_new_tokens**length_penalty, token_ids, log_probs)
        for total, token_ids, log_probs, _ in live
    ]
    return (finished[:num_beams] + cut_off)[:num_beams]
