"""Finds the parts of a PyTorch module among its weights, whatever their names.

Most character RNNs have three parts: an embedding, or one-hot vectors, a stack
of recurrent layers, and a linear layer. Programs name them differently:
`encoder`, `embed` or `emb`; `rnn`, `lstm` or `gru`; `decoder`, `fc` or `out`;
some with `module.` or `model.` before all of them. The layers of a stack have
the same names in all, and shapes tell the rest.
"""

import re

import numpy as np

from stacked_rnn.configs import UserError
from stacked_rnn.utils import terminal

_PART = re.compile(r"(weight|bias)_(ih|hh)_l\d+\Z")  # of a stack of layers


def standard_names(tensors) -> dict[str, np.ndarray]:
    """Renames the weights of a module as `torch_weights` names them.

    The head may have a bias or none, and so may the layers: a missing bias is
    zeros. One-hot vectors are an embedding, the identity. A single matrix with
    a bias is the embedding and the head, which are tied.

    Args:
        tensors: arrays by name.

    Returns:
        The same, float32, as `embedding`, `rnn` (of layers one by one `rnn.0`,
        `rnn.1`, ...) and `head`.

    Raises:
        UserError: the names and the shapes do not tell which part is which.
    """
    stacks: dict[str, dict[str, np.ndarray]] = {}
    others = {}
    for name, tensor in tensors.items():
        tensor = np.asarray(tensor, np.float32)
        if part := _PART.search(name):
            stacks.setdefault(name[: part.start()], {})[part[0]] = tensor
        else:
            others[name] = tensor
    renamed = _layers(stacks)
    first = "rnn." if len(stacks) == 1 else "rnn.0."
    try:
        _, width = renamed[f"{first}weight_ih_l0"].shape
        _, units = renamed[f"{first}weight_hh_l0"].shape
    except (KeyError, ValueError) as error:
        raise UserError(
            "it has no single nn.GRU, nn.LSTM or nn.RNN, whose weights end in "
            f"weight_ih_l0, weight_hh_l0 and so on: {_listed(tensors)}"
        ) from error
    embedding, head, biases = _embedding_and_head(
        others, width, (units, units * len(stacks))
    )
    size = len(others[head])
    bias = others[biases.pop()] if biases else np.zeros(size, np.float32)
    return renamed | {
        "embedding.weight": (
            others[embedding] if embedding else np.eye(size, dtype=np.float32)
        ),
        "head.weight": others[head],
        "head.bias": bias,
    }


def _layers(stacks) -> dict[str, np.ndarray]:
    """Renames the weights of the layers.

    Args:
        stacks: weights by the beginning of their names and by the rest of them.

    Returns:
        The weights by name; none if nothing tells how the layers are connected.
    """
    prefixes = ["rnn."]
    if len(stacks) > 1:
        numbers = [re.search(r"(?:^|\.)(\d+)\.$", name) for name in stacks]
        prefixes = [f"rnn.{number[1]}." for number in numbers if number]
    if len(set(prefixes)) < len(stacks):
        return {}
    renamed: dict[str, np.ndarray] = {}
    for prefix, weights in zip(prefixes, stacks.values()):
        for part, tensor in weights.items():
            renamed[prefix + part] = tensor
            bias = part.replace("weight", "bias")
            if bias not in weights:
                zeros = np.zeros(tensor.shape[:1], np.float32)
                renamed[prefix + bias] = zeros
    return renamed


def _embedding_and_head(others, width, readout_widths):
    """Finds the embedding and the head by their shapes.

    Args:
        others: arrays by name, all but those of the recurrent layers.
        width: of what the first layer reads.
        readout_widths: of what the head may read.

    Returns:
        The name of the embedding, None for one-hot vectors; the name of the
        head, and the set of the name of its bias, which may be empty.

    Raises:
        UserError: there is no such pair, or more than one.
    """
    shapes = {name: x.shape for name, x in others.items() if x.ndim == 2}
    biases = others.keys() - shapes
    owners = {
        re.sub("bias$", "weight", name) for name in biases
    } & shapes.keys()
    found = [
        (embedding, head)
        for head in owners or shapes
        for embedding in (*shapes, None)
        if {embedding, head} - {None} == shapes.keys()
        and shapes[head][1] in readout_widths
        and shapes.get(embedding, (width, width)) == (shapes[head][0], width)
        and [others[name].shape for name in biases]
        in ([], [(shapes[head][0],)])
        and (embedding != head or biases)
    ]
    if len(found) != 1:
        raise UserError(
            f"the shapes do not tell the embedding, [vocabulary, {width}], and "
            f"the head, [vocabulary, {readout_widths[0]}], one of each with at "
            f"most one bias: {_listed(others)}"
        )
    return *found[0], biases


def _listed(tensors) -> str:
    if not tensors:
        return "nothing else is in it"
    return "it has " + terminal.first_of(
        [
            f"{name} {[*tensor.shape]}"
            for name, tensor in sorted(tensors.items())
        ]
    )
