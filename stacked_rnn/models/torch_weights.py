"""Weights of a language model for PyTorch, and back.

The names are those of a module with three parts, whose layers compute the same
as those of this project:

    embedding  nn.Embedding
    rnn        nn.GRU, nn.LSTM or nn.RNN, of all layers
    head       nn.Linear, from the units of the top layer to the logits

Where the embedding enters every layer, or the readout has all of them, PyTorch
has no such stack: `rnn` is then an nn.ModuleList of layers, `rnn.0`, `rnn.1`.
PyTorch has the transposed matrices and, for a GRU, the gates r and z the other
way round. Its LSTM and RNN have two biases, which are added: here the second is
zero. A file is in the format safetensors, and its header has two JSON objects:
`config`, the architecture, and `vocabulary`, see `export.runtimes`.
"""

import dataclasses
import json
import re

import numpy as np

from stacked_rnn import tokenizers
from stacked_rnn.configs import ModelConfig, UserError
from stacked_rnn.models import torch_names

SUFFIX = ".safetensors"
# The blocks of each cell in the order of PyTorch, and from there back.
_ORDERS = {"simple_rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 1, 2, 3)}
_UNLIKELY = 10.0  # nats that the bias of an unknown token is below the others


def check_layers(config) -> None:
    """Raises a `UserError` for layers that PyTorch does not have."""
    flags = {
        "--noresidual": config.residual,
        "--nocap_input_gate": config.cap_input_gate,
    }
    if needed := [flag for flag, is_needed in flags.items() if is_needed]:
        raise UserError(
            "--format=pytorch: PyTorch's layers do not compute what those of "
            f"this model do: train one with {' '.join(needed)}"
        )


def _name(config, part, layer) -> str:
    """The name of a weight of a layer."""
    if config.embedding_to_all_layers or config.readout_layers != "top":
        return f"rnn.{layer}.{part}_l0"
    return f"rnn.{part}_l{layer}"


def state_dict(model) -> dict[str, np.ndarray]:
    """Returns the weights of a model by their names in PyTorch.

    Tied embeddings become a head of its own, which computes the same.

    Args:
        model: a `LanguageModel`.

    Raises:
        UserError: PyTorch does not have such layers.
    """
    config = model.config
    check_layers(config)
    weights = {w.path: np.asarray(w, np.float32) for w in model.weights}
    embeddings = weights["embedding/embeddings"]
    tensors = {"embedding.weight": embeddings}
    for layer in range(config.num_layers):
        kernel, recurrent_kernel, bias = (
            weights[f"rnn_{layer}/cell_{layer}/{name}"]
            for name in ("kernel", "recurrent_kernel", "bias")
        )
        if config.cell != "gru":
            bias = np.stack([bias, np.zeros_like(bias)])
        for part, blocks in (
            ("weight_ih", kernel.T),
            ("weight_hh", recurrent_kernel.T),
            ("bias_ih", bias[0]),
            ("bias_hh", bias[1]),
        ):
            name = _name(config, part, layer)
            tensors[name] = _reordered(config.cell, blocks)
    if config.tie_embeddings:
        head = embeddings
        if "readout_projection/kernel" in weights:
            head = head @ weights["readout_projection/kernel"].T
        bias = np.zeros(len(embeddings), np.float32)
    else:
        head, bias = weights["readout/kernel"].T, weights["readout/bias"]
    return tensors | {"head.weight": head, "head.bias": bias}


def load_state_dict(model, tensors) -> None:
    """Sets the weights of a model to those of a PyTorch module.

    Args:
        model: a `LanguageModel` without tied embeddings.
        tensors: arrays by name, as `state_dict` returns them.

    Raises:
        UserError: a tensor is missing, not of this module or has another shape.
    """
    config = model.config
    expected = state_dict(model)
    if unlike := sorted(expected.keys() ^ tensors.keys()):
        state = "missing" if unlike[0] in expected else "not of such a model"
        raise UserError(f"{unlike[0]} is {state}")
    for name, value in expected.items():
        if tensors[name].shape != value.shape:
            raise UserError(
                f"{name} has the shape {tensors[name].shape}, not {value.shape}"
            )
    weights = {weight.path: weight for weight in model.weights}
    weights["embedding/embeddings"].assign(tensors["embedding.weight"])
    weights["readout/kernel"].assign(tensors["head.weight"].T)
    weights["readout/bias"].assign(tensors["head.bias"])
    for layer in range(config.num_layers):
        kernel, recurrent_kernel, *biases = (
            _reordered(config.cell, tensors[_name(config, part, layer)])
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        bias = np.stack(biases) if config.cell == "gru" else sum(biases)
        for name, value in (
            ("kernel", kernel.T),
            ("recurrent_kernel", recurrent_kernel.T),
            ("bias", bias),
        ):
            weights[f"rnn_{layer}/cell_{layer}/{name}"].assign(value)


def _reordered(cell, blocks):
    """Puts the gates, blocks of the first axis, into the other order."""
    parts = np.split(blocks, len(_ORDERS[cell]))
    return np.concatenate([parts[index] for index in _ORDERS[cell]])


# Files ------------------------------------------------------------------------


def to_bytes(model, tokenizer) -> bytes:
    """Returns the file of a model for PyTorch.

    Args:
        model: a `LanguageModel`.
        tokenizer: its `tokenizers.Tokenizer`.

    Raises:
        UserError: PyTorch does not have such layers.
    """
    import safetensors.numpy

    config = dataclasses.replace(model.config, tie_embeddings=False)
    return safetensors.numpy.save(
        {
            name: np.ascontiguousarray(value)  # it would write the others wrong
            for name, value in state_dict(model).items()
        },
        {
            "format": "pt",
            "config": json.dumps(config.to_dict()),
            "vocabulary": json.dumps(
                tokenizer.to_vocabulary(), ensure_ascii=False
            ),
        },
    )


def read(path):
    """Reads a file of weights, of `to_bytes` or of a program with PyTorch.

    The architecture follows from the shapes, but for the wiring of layers that
    are one by one, which `config` in the header has. Of `vocabulary` there,
    only the entry `tokenizer` is needed.

    Args:
        path: the file.

    Returns:
        The `ModelConfig`; the tokenizer, None if the header has no vocabulary;
        and the tensors by name, see `torch_names.standard_names`.

    Raises:
        UserError: the file is damaged, or not of such a model.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, "np") as file:
            header = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except OSError as error:
        raise UserError(f"cannot be read: {error}") from error
    except (TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"not weights that NumPy can read: {error}") from error
    tensors = torch_names.standard_names(tensors)
    tokenizer = None
    if "vocabulary" in header:
        try:
            vocabulary = json.loads(header["vocabulary"])
            tokenizer = tokenizers.from_dict(vocabulary["tokenizer"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                "the vocabulary in its header has no tokenizer, see "
                f"docs/runtimes.md ({type(error).__name__}: {error})"
            ) from error
    config = _config_of(tensors, tokenizer)
    if "rnn.0.weight_hh_l0" in tensors:
        config = dataclasses.replace(config, **_wiring(header))
    return config, tokenizer, tensors


def _wiring(header) -> dict:
    """What the header says of how layers are connected."""
    try:
        config = json.loads(header["config"])
        return {
            name: config[name]
            for name in ("embedding_to_all_layers", "readout_layers")
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "its header has no config, which says how the layers rnn.0, rnn.1 "
            f"are connected ({type(error).__name__}: {error})"
        ) from error


def _config_of(tensors, tokenizer) -> ModelConfig:
    """The architecture that the shapes of tensors tell."""
    layers = [name for name in tensors if re.search(r"weight_hh_l\d+$", name)]
    vocabulary_size, embedding_dim = tensors["embedding.weight"].shape
    rows, units = tensors[layers[0]].shape
    cells = {len(order): cell for cell, order in _ORDERS.items()}
    if rows % units or rows // units not in cells:
        raise UserError(
            f"{layers[0]} has the shape ({rows}, {units}), which no "
            "nn.GRU, nn.LSTM or nn.RNN has"
        )
    if tokenizer and vocabulary_size != tokenizer.vocabulary_size():
        raise UserError(
            f"embedding.weight has {vocabulary_size} rows, the vocabulary "
            f"{tokenizer.vocabulary_size()} tokens"
        )
    return ModelConfig(
        cell=cells[rows // units],
        num_layers=len(layers),
        units=units,
        embedding_dim=embedding_dim,
        vocabulary_size=vocabulary_size,
        end_of_text=bool(tokenizer) and tokenizer.end_id is not None,
    )


def with_unknown_token(config, tensors):
    """Adds a token before the others, for characters that are not in them.

    It has the mean of the embeddings, and a small probability. The logits of
    the others stay what they were.

    Args:
        config, tensors: as `read` returns them.

    Returns:
        The `ModelConfig` and the tensors with one more token.
    """
    embedding, head, bias = (
        tensors[name]
        for name in ("embedding.weight", "head.weight", "head.bias")
    )
    return dataclasses.replace(
        config, vocabulary_size=config.vocabulary_size + 1
    ), tensors | {
        "embedding.weight": np.vstack([embedding.mean(axis=0), embedding]),
        "head.weight": np.vstack([np.zeros_like(head[0]), head]),
        "head.bias": np.append(bias.min() - _UNLIKELY, bias),
    }
