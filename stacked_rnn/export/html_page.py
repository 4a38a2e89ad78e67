"""A language model as one HTML page that generates in any browser, offline.

generator.html is the page without a model. It gets two blocks of data, which
browsers do not run as scripts:

    model    JSON: the architecture, the tokenizer as in assets/tokenizer.json
             of the SavedModel, the default options, and the list of arrays
    weights  base64: the arrays, each from a multiple of four bytes on

An array is a matrix or a vector of the model under its name in Keras. Vectors
are float32. Kernels are transposed, [outputs, inputs], so that the script reads
them from the first number to the last. With int8 each row of a matrix is
rounded to whole multiples of its own scale, -127 to 127 of them, and the
float32 scales of all rows precede the rows.
"""

import base64
import html
import importlib.resources
import json
import re
import sys

import numpy as np

from stacked_rnn import reference
from stacked_rnn.configs import UserError, unescaped
from stacked_rnn.utils import inline_sources

# What the script reads of the architecture; the rest is for training.
_SETTINGS = (
    "cell", "num_layers", "units", "embedding_dim", "vocabulary_size",
    "end_of_text", "residual", "tie_embeddings", "cap_input_gate",
    "readout_layers", "embedding_to_all_layers",
)  # fmt: skip
_OPTIONS = ("temperature", "top_k", "top_p", "max_new_tokens", "seed")
_LARGE = 20_000_000  # bytes, from which on the size of a page is said
_BLOCK = r'<script type="[^"]*" id="{id}">(.*?)</script>'


def convert(model, weights) -> bytes:
    """Makes the page of a model.

    Args:
        model: an `inference.SavedLanguageModel`.
        weights: the type of the weights of matrices: "float32", "float16" or
            "int8".

    Returns:
        The page, UTF-8.
    """
    arrays, content = _pack(_matrices(model), weights)
    config, tokenizer = model.model_config, model.tokenizer
    data = {
        "name": model.name,
        "about": model.description.sentences(),
        "config": {key: getattr(config, key) for key in _SETTINGS},
        "tokenizer": tokenizer.to_dict(),
        "separator": unescaped(tokenizer.document_separator),
        "start_id": tokenizer.start_id,
        "unknown_id": tokenizer.unknown_id,
        "end_id": tokenizer.end_id,
        "options": {key: getattr(model.defaults, key) for key in _OPTIONS},
        "arrays": arrays,
    }
    encoded = json.dumps(data, ensure_ascii=False)
    page = _filled(
        {
            "title": html.escape(model.name),
            # No tag and no comment can begin in it.
            "model": encoded.replace("<", r"\u003c"),
            "weights": base64.b64encode(content).decode(),
        }
    )
    if len(page) > _LARGE:
        hint = "" if weights == "int8" else "; --weights=int8 makes it smaller"
        print(
            f"note: the page has {len(page) / 1e6:,.1f} MB{hint}",
            file=sys.stderr,
        )
    return page


def load(path):
    """A written page as a function, computed by `reference`.

    Args:
        path: of the page.

    Returns:
        run({token_ids, **states}) -> {logits, **new_states}, arrays.
    """
    page = path.read_text(encoding="utf-8")
    (data,) = re.findall(_BLOCK.format(id="model"), page)
    (content,) = re.findall(_BLOCK.format(id="weights"), page)
    data = json.loads(data)
    weights = _unpack(data["arrays"], base64.b64decode(content))
    return lambda inputs: _step(data["config"], weights, **inputs)


# Weights ----------------------------------------------------------------------


def _matrices(model) -> dict:
    """The weights by name, float32, kernels transposed.

    Raises:
        UserError: they are not those of the architecture.
    """
    weights = {
        variable.name.partition(":")[0]: variable.numpy().astype(np.float32)
        for variable in model.functions.weights
    }
    names = _names(model.model_config)
    if weights.keys() != names:
        odd = ", ".join(sorted(weights.keys() ^ names))
        raise UserError(
            f"--saved_model={model.path}: its weights are not those of its "
            f"architecture ({odd}): export it again"
        )
    return {
        name: value.T if name.endswith("kernel") else value
        for name, value in weights.items()
    }


def _names(config) -> set[str]:
    """The names of the weights that `_step` and the script read."""
    names = {"embedding/embeddings"} | {
        f"rnn_{layer}/cell_{layer}/{part}"
        for layer in range(config.num_layers)
        for part in ("kernel", "recurrent_kernel", "bias")
    }
    if config.residual and config.embedding_dim != config.units:
        names.add("residual_projection/kernel")
    if not config.tie_embeddings:
        return names | {"readout/kernel", "readout/bias"}
    is_concat = config.readout_layers == "concat"
    width = config.units * (config.num_layers if is_concat else 1)
    if config.embedding_dim != width:
        names.add("readout_projection/kernel")
    return names


def _pack(matrices, weights):
    """Returns the list of arrays, JSON values, and their bytes."""
    arrays, content = [], bytearray()
    for name, matrix in matrices.items():
        type_name, parts = "float32", [matrix]
        if not name.endswith("bias"):
            type_name = weights
            if weights == "float16":
                parts = [matrix.astype(np.float16)]
            elif weights == "int8":
                parts = quantize(matrix)
        arrays.append(
            {
                "name": name,
                "type": type_name,
                "shape": list(matrix.shape),
                "offset": len(content),
            }
        )
        for part in parts:
            content += part.astype(part.dtype.newbyteorder("<")).tobytes()
        content += bytes(-len(content) % 4)
    return arrays, bytes(content)


def quantize(matrix):
    """Rounds a matrix to 8 bits.

    Args:
        matrix: float32 [rows, columns].

    Returns:
        The scale of each row, float32 [rows], and int8 [rows, columns], whose
        product is the rounded matrix.
    """
    scales = np.abs(matrix).max(axis=1) / np.float32(127)
    divisors = np.where(scales > 0, scales, np.float32(1))
    return scales, np.rint(matrix / divisors[:, None]).astype(np.int8)


def _unpack(arrays, content) -> dict:
    """The inverse of `_pack`, float32, but for the rounding."""
    weights = {}
    for array in arrays:
        shape, offset = array["shape"], array["offset"]

        def read(dtype, count, offset=offset):
            return np.frombuffer(content, dtype, count, offset)

        size = int(np.prod(shape))
        if array["type"] == "int8":
            rows = shape[0]
            values = read("i1", size, offset + 4 * rows).reshape(shape)
            values = values * read("<f4", rows)[:, None]
        else:
            dtype = {"float32": "<f4", "float16": "<f2"}[array["type"]]
            values = read(dtype, size).astype(np.float32).reshape(shape)
        weights[array["name"]] = values
    return weights


# The step ---------------------------------------------------------------------


def _step(config, weights, token_ids, **states):
    """What the script of the page computes, in NumPy, for a batch."""
    if config["end_of_text"]:
        goes_on = token_ids[:, None] != config["vocabulary_size"] - 1
        states = {name: state * goes_on for name, state in states.items()}
    new_states = {}
    embedded = x = weights["embedding/embeddings"][token_ids]
    outputs = []
    for layer in range(config["num_layers"]):
        below = x
        if layer and config["embedding_to_all_layers"]:
            x = np.concatenate([x, embedded], axis=-1)
        parts = "hc"[: reference.NUM_STATES[config["cell"]]]
        cell = f"rnn_{layer}/cell_{layer}"
        options = {"cap_input_gate": True} if config["cap_input_gate"] else {}
        new = reference.CELLS[config["cell"]](
            x,
            [states[f"state_{layer}_{part}"] for part in parts],
            weights[f"{cell}/kernel"].T,
            weights[f"{cell}/recurrent_kernel"].T,
            weights[f"{cell}/bias"],
            **options,
        )
        for part, values in zip(parts, new):
            new_states[f"new_state_{layer}_{part}"] = values
        x = new[0]
        if config["residual"]:
            if below.shape != x.shape:
                below = below @ weights["residual_projection/kernel"].T
            x = x + below
        outputs.append(x)
    if config["readout_layers"] == "sum":
        x = sum(outputs)
    elif config["readout_layers"] == "concat":
        x = np.concatenate(outputs, axis=-1)
    if "readout_projection/kernel" in weights:
        x = x @ weights["readout_projection/kernel"].T
    if config["tie_embeddings"]:
        logits = x @ weights["embedding/embeddings"].T
    else:
        logits = x @ weights["readout/kernel"].T + weights["readout/bias"]
    return {"logits": logits, **new_states}


# The page ---------------------------------------------------------------------


def _filled(values) -> bytes:
    """Fills the page, and its content security policy, which allows no request.

    Args:
        values: HTML by the name of the place, `{{name}}`.
    """
    files = importlib.resources.files(__package__)
    page = (files / "generator.html").read_text("utf-8")
    values["policy"] = inline_sources.policy(page)
    filled = re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], page)
    return filled.encode("utf-8", "replace")  # a name may be no UTF-8
