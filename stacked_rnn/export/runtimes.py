"""A language model as one file for another program: `FORMATS` lists them.

For ONNX Runtime (.onnx) and LiteRT (.tflite) the file is the decode step, whose
inputs and outputs are those of the signature `decode_step`, for any batch:

    token_ids             int32 [batch]
    state_LAYER_PART      float32 [batch, units] each; zeros before a text
    logits                float32 [batch, vocabulary], of the next token
    new_state_LAYER_PART  float32 [batch, units] each

Neither of them has the operations that tokenize a text, so a vocabulary is
written beside the file, a JSON object:

    tokens      the bytes of each token by its id, as lists of numbers
    start_id    read before an empty prompt; with an end_id, before any
    unknown_id  the unknown token, never to be generated; or null
    end_id      the token that ends a text; or null
    tokenizer   as in assets/tokenizer.json of the SavedModel

docs/runtimes.md has a generator for each of them, without TensorFlow. For a
browser (.html) the file is the generator, too: see `html_page`. For PyTorch
(.safetensors, see `torch_weights`) and Keras (.keras) it holds the weights.
"""

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from stacked_rnn import metrics, models
from stacked_rnn.configs import UserError
from stacked_rnn.export import html_page
from stacked_rnn.models import torch_weights
from stacked_rnn.utils import files, packages, terminal

# tf2onnx has long supported it, and runtimes have read it since 2022.
_OPSET = 17


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: of the file's name.
        packages: what must be installed, with the extra of the format's name.
        weights: the type of the weights that --weights=auto stands for.
        has_vocabulary: whether the vocabulary is a file of its own.
        next_step: what to do with the file, with {path} for its path.
        convert: (model, type of the weights) -> the bytes of the file.
        load: path -> a function ({token_ids, **states} -> {logits,
            **new_states}) that runs the file; None where another program does.
        check: raises a `UserError` for a `ModelConfig` that it cannot hold.
    """

    suffix: str
    packages: tuple[str, ...]
    weights: str
    has_vocabulary: bool
    next_step: str
    convert: Callable
    load: Callable | None = None
    check: Callable = lambda config: None


def require(format) -> None:
    """Checks that the packages of a format are installed.

    Raises:
        UserError: naming the one that is missing, and the extra that has it.
    """
    for package in FORMATS[format].packages:
        packages.require(package, f"--format={format}", format)


def check(path, description) -> None:
    """Checks that a model can be written as a file.

    Args:
        path: the file; its suffix tells the format.
        description: the model's `saved_models.Description`.

    Raises:
        UserError: a package is missing, the format cannot hold the model, no
            file can be written there, or the file of another model would lose
            its vocabulary.
    """
    name = suffixes()[path.suffix]
    require(name)
    FORMATS[name].check(description.model_config)
    terminal.writable_file("output", path)
    shared = vocabulary_path(path)
    if not FORMATS[name].has_vocabulary or not shared.is_file():
        return
    for other in FORMATS.values():
        owner = path.with_suffix(other.suffix)
        if (
            other.has_vocabulary
            and owner != path
            and owner.exists()
            and terminal.read_file("output", shared)
            != _vocabulary(description.tokenizer)
        ):
            raise UserError(
                f"--output={path}: {shared} belongs to {owner}, whose model "
                "has another vocabulary: choose another name, or delete "
                f"{owner.name}"
            )


def write(model, path, weights="auto") -> None:
    """Writes a model as a file and, if it needs one, its vocabulary beside it.

    Args:
        model: an `inference.SavedLanguageModel`.
        path: the file to write; its suffix tells the format.
        weights: the type of the weights in the file; "auto": the format's.
            "float16": the step still computes in float32. "int8": matrices are
            rounded; in ONNX and LiteRT the vectors that they multiply, too, to
            a range found in each step.

    Raises:
        UserError: as of `check`, or the file cannot be written.
    """
    check(path, model.description)
    format = FORMATS[suffixes()[path.suffix]]
    if weights == "auto":
        weights = format.weights
    contents = {path: format.convert(model, weights)}
    if format.has_vocabulary:
        contents[vocabulary_path(path)] = _vocabulary(model.tokenizer)
    # All files, or none.
    with terminal.writing("output", path), contextlib.ExitStack() as stack:
        for file, content in contents.items():
            whole = stack.enter_context(files.whole_file(file))
            whole.write(content)
            whole.flush()  # a full disk shows here, or never


def suffixes() -> dict[str, str]:
    """Returns the names of the formats, by the ending of a file's name."""
    return {format.suffix: name for name, format in FORMATS.items()}


def vocabulary_path(path) -> pathlib.Path:
    """The path of the vocabulary that belongs to a file."""
    return path.with_suffix(".vocabulary.json")


def _vocabulary(tokenizer) -> bytes:
    """The content of that file."""
    vocabulary = tokenizer.to_vocabulary()
    return json.dumps(vocabulary, ensure_ascii=False).encode()


def _decode_step(model):
    """The signature, with names of results that differ from the inputs'."""
    signature = model.functions.signatures["decode_step"]
    specs = signature.structured_input_signature[1].values()

    def decode_step(*tensors):
        new = signature(**{s.name: t for s, t in zip(specs, tensors)})
        logits = new.pop("logits")
        return {"logits": logits} | {f"new_{name}": new[name] for name in new}

    # Every new graph inherits the list of tables that tokenizers have made, and
    # TensorFlow warns that it cannot write it when the graph is converted.
    tf.compat.v1.get_default_graph().clear_collection(
        tf.compat.v1.GraphKeys.TABLE_INITIALIZERS
    )
    return tf.function(decode_step, input_signature=[*specs], autograph=False)


# Formats ----------------------------------------------------------------------


def _to_tflite(model, weights) -> bytes:
    step = _decode_step(model).get_concrete_function()
    # Not `model.functions`: the converter would take the tables of the
    # tokenizer along, and fail at those of subwords.
    holder = tf.Module()
    holder.weights = model.functions.signatures["decode_step"].variables
    converter = tf.lite.TFLiteConverter.from_concrete_functions([step], holder)
    if weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _to_onnx(model, weights) -> bytes:
    from tf2onnx import convert

    step = _decode_step(model)
    proto, _ = convert.from_function(
        step, input_signature=step.input_signature, opset=_OPSET
    )
    if weights == "float16":
        _halve(proto.graph)
    content = proto.SerializeToString()
    return _quantize(content) if weights == "int8" else content


def _halve(graph):
    """Keeps the weights of an ONNX graph in float16, and casts them back.

    A runtime does that once, when it loads the file.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and weight.dims:
            name = weight.name
            halved = numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(numpy_helper.from_array(halved, f"{name}_float16"))
            casts.append(
                helper.make_node(
                    "Cast", [weight.name], [name], to=TensorProto.FLOAT
                )
            )
    nodes = [*casts, *graph.node]  # in the order that they are computed
    del graph.node[:]
    graph.node.extend(nodes)


def _quantize(content) -> bytes:
    """Rounds the matrices of an ONNX file to 8 bits."""
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch, "step.onnx")
        path.write_bytes(content)
        # Infers shapes, for it would warn without; the rest is done already.
        shape_inference.quant_pre_process(
            path, path, skip_optimization=True, skip_symbolic_shape=True
        )
        quantization.quantize_dynamic(path, path, per_channel=True)
        return path.read_bytes()


def _to_pytorch(model, weights) -> bytes:
    keras_model = models.read_saved_model(model.description)
    return torch_weights.to_bytes(keras_model, model.tokenizer)


def _to_keras(model, weights) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch, "model.keras")
        models.read_saved_model(model.description).save(path)
        return path.read_bytes()


# Running what was written -----------------------------------------------------


def load(path):
    """A written file as a function.

    Returns:
        step(token_ids, states) -> (logits, states), arrays; the states by name.
    """
    run = FORMATS[suffixes()[path.suffix]].load(path)

    def step(token_ids, states):
        new = run({"token_ids": token_ids, **states})
        return new["logits"], {name: new[f"new_{name}"] for name in states}

    return step


def _onnx_runner(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a step is too small to be shared
    session = onnxruntime.InferenceSession(path, options)
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs)))


def _tflite_runner(path):
    from ai_edge_litert import interpreter

    runner = interpreter.Interpreter(str(path)).get_signature_runner()
    return lambda inputs: runner(**inputs)


_IN_STEPS = "docs/runtimes.md says how to generate without TensorFlow."
FORMATS = {
    "onnx": Format(
        suffix=".onnx",
        packages=("tf2onnx", "onnxruntime"),
        weights="float32",
        has_vocabulary=True,
        next_step=_IN_STEPS,
        convert=_to_onnx,
        load=_onnx_runner,
    ),
    "litert": Format(
        suffix=".tflite",
        packages=("ai_edge_litert",),
        weights="float32",
        has_vocabulary=True,
        next_step=_IN_STEPS,
        convert=_to_tflite,
        load=_tflite_runner,
    ),
    "html": Format(
        suffix=".html",
        packages=(),
        weights="int8",
        has_vocabulary=False,
        next_step="open {path} in a browser; it needs no network.",
        convert=html_page.convert,
        load=html_page.load,
    ),
    "pytorch": Format(
        suffix=torch_weights.SUFFIX,
        packages=("safetensors",),
        weights="float32",
        has_vocabulary=False,
        next_step="docs/runtimes.md says how to load it.",
        convert=_to_pytorch,
        check=torch_weights.check_layers,
    ),
    "keras": Format(
        suffix=".keras",
        packages=(),
        weights="float32",
        has_vocabulary=False,
        next_step="docs/python.md says how to load it.",
        convert=_to_keras,
    ),
}


def nats_per_token(model, path, text) -> float:
    """Computes the mean nats of each token of a text, by a written file.

    `SavedLanguageModel.evaluate` says the same of the model itself.

    Args:
        model: the `inference.SavedLanguageModel` that it was written from.
        path: of the file.
        text: byte string of two tokens at least.
    """
    step = load(path)

    def score_window(inputs, targets, states):
        logits = []
        for token_id in inputs.numpy()[0]:
            new, states = step(token_id[None], states)
            logits.append(new)
        return metrics.token_nats(np.stack(logits, axis=1), targets), states

    token_ids = model.tokenizer.tokenize([text]).flat_values.numpy()
    with terminal.progress_bar(len(token_ids) - 1, "token") as progress:
        nats = metrics.nats_of_text(
            score_window, token_ids, model.initial_states(1), progress
        )
    return float(nats.mean(dtype=np.float64))
