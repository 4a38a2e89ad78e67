"""The loop that batches grow by, one for all models of the same step.

XLA takes half a minute to compile it and some 100 MB, which it keeps when the
model is gone. So the weights are an argument of the loop: the versions of a
model, and other models of its architecture, share one.
"""

import functools
import hashlib
import itertools
import threading

import tensorflow as tf

from stacked_rnn.decoding import generation

_loops = {}  # by all that they were traced from; XLA frees none either
_tracing = threading.Lock()
_numbers = itertools.count()  # of functions


def decode_loop(
    decode_step, weights, arguments, *, size, jit_compile, never, end_id
):
    """(carry, options, given, count) -> what `generation.generate` gives.

    Args:
        decode_step: the signature of that name of a loaded SavedModel.
        weights: its variables.
        arguments: carry, options and given of a batch of any size, arrays.
        size: most tokens of a call.
        jit_compile: whether XLA compiles, once for each size of batch.
        never, end_id: see `generation.generate`.

    Returns:
        A `functools.partial` of the loop that models share.
    """
    graph_def, captured = _graph_of(decode_step), decode_step.captured_inputs
    specs = tf.nest.map_structure(
        lambda array: tf.TensorSpec([None, *array.shape[1:]], array.dtype),
        arguments,
    )
    shapes = [(weight.shape, weight.dtype) for weight in weights]
    key = (
        _fingerprint(graph_def), repr(specs), repr(shapes), size, jit_compile,
        never, end_id,
    )  # fmt: skip
    with _tracing:
        if key not in _loops:
            step = _step(decode_step, graph_def)

            def loop(captured, carry, options, given, count):
                return generation.generate(
                    functools.partial(step, captured),
                    carry,
                    options=options,
                    max_steps=count,
                    padded_length=size if jit_compile else None,
                    forced_ids=given,
                    banned_id=never,
                    end_id=end_id,
                )

            # A concrete one: a call of another costs half a millisecond more.
            _loops[key] = tf.function(
                loop, jit_compile=jit_compile, autograph=False
            ).get_concrete_function(
                _specs(captured), *specs, tf.TensorSpec([], tf.int32)
            )
    return functools.partial(_loops[key], list(captured))


def _specs(tensors) -> list:
    return [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]


def _step(decode_step, graph_def):
    """(captured, token_ids, states) -> logits, states.

    It holds nothing of the model but its graph, the functions that it calls
    under names of their own: those of the model go with it.

    Args:
        decode_step: a signature.
        graph_def: what `_graph_of` gave for it.
    """
    names = {}
    for function in graph_def.library.function:
        new = f"decode_step_{next(_numbers)}"
        names[function.signature.name] = function.signature.name = new
    for node in _nodes(graph_def):
        for value in node.attr.values():
            if value.func.name in names:
                value.func.name = names[value.func.name]
    inputs = [tensor.name for tensor in decode_step.inputs]
    outputs = [tensor.name for tensor in decode_step.outputs]
    arguments = sorted(decode_step.structured_input_signature[1])
    results = decode_step.structured_outputs

    def imported(*tensors):
        return tf.graph_util.import_graph_def(
            graph_def, dict(zip(inputs, tensors)), outputs
        )

    # This, unlike `tf.function`, makes the functions of the graph known to
    # TensorFlow's runtime.
    wrapped = tf.compat.v1.wrap_function(imported, _specs(decode_step.inputs))

    def step(captured, token_ids, states):
        given = {"token_ids": token_ids, **states}
        new = wrapped(*(given[name] for name in arguments), *captured)
        for tensor, spec in zip(new, tf.nest.flatten(results)):
            tensor.set_shape(spec.shape)  # of what is captured none is known
        new = tf.nest.pack_sequence_as(results, new)
        return new.pop("logits"), new

    return step


def _graph_of(signature):
    """Its GraphDef without the arguments: an import puts others there."""
    graph_def = signature.graph.as_graph_def()
    nodes = [node for node in graph_def.node if node.op != "Placeholder"]
    del graph_def.node[:]
    graph_def.node.extend(nodes)
    return graph_def


def _nodes(graph_def):
    """Yields those of the graph and of its functions."""
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def _fingerprint(graph_def) -> str:
    """Equal for graphs that differ in names alone, hex.

    Keras and TensorFlow count them up from model to model.
    """
    copy = type(graph_def).FromString(graph_def.SerializeToString())
    for node in _nodes(copy):
        for name in list(node.attr):  # of labels, and of the process
            if name.startswith("_") or name == "config_proto":
                del node.attr[name]
        node.ClearField("experimental_debug_info")
    for function in copy.library.function:
        _number_nodes(function)
        function.arg_attr.clear()
    text = str(copy)
    for number, function in enumerate(copy.library.function):
        text = text.replace(f'"{function.signature.name}"', f'"{number}"')
    return hashlib.sha256(text.encode()).hexdigest()


def _number_nodes(function) -> None:
    """Names the nodes and the arguments of a FunctionDef by their order."""
    signature = function.signature
    names = {}
    for one in (*signature.input_arg, *function.node_def):
        names[one.name] = one.name = f"node_{len(names)}"

    def renamed(reference):  # node:output:0, ^node, argument
        mark = "^" * reference.startswith("^")
        name, *rest = reference.removeprefix("^").split(":")
        return mark + ":".join([names.get(name, name), *rest])

    for node in function.node_def:
        node.input[:] = map(renamed, node.input)
    for references in (function.ret, function.control_ret):
        for name in list(references):
            references[name] = renamed(references[name])
    returned = sorted(function.control_ret.values())
    function.control_ret.clear()
    signature.control_output[:] = returned
