"""The decode loop of the server, shared by models of the same architecture.

XLA takes half a minute to compile it and about 100 MB, which are not freed with
the model. So the weights are an argument of the loop: the versions of a model,
and other models of its architecture, share one compiled loop.
"""

import functools
import hashlib
import itertools
import threading

import tensorflow as tf

from stacked_rnn.decoding import generation

_loops = {}  # never emptied, because XLA does not free its part either
_tracing = threading.Lock()
_function_numbers = itertools.count()


def decode_loop(
    decode_step, weights, arguments, *, length, jit_compile, banned_id, end_id
):
    """Traces the loop of a model, or returns that of an equal architecture.

    Args:
        decode_step: the signature of that name of a loaded SavedModel.
        weights: the variables of the SavedModel.
        arguments: examples of the first three arguments of the loop, arrays
            with any batch size.
        length: most steps per call.
        jit_compile: whether XLA compiles it, once per batch size.
        banned_id, end_id: see `generation.generate`.

    Returns:
        (carry, options, forced ids, max steps) -> the results of
        `generation.generate`; a `functools.partial` of the shared loop.
    """
    graph_def, captured = _graph_of(decode_step), decode_step.captured_inputs
    specs = tf.nest.map_structure(
        lambda array: tf.TensorSpec([None, *array.shape[1:]], array.dtype),
        arguments,
    )
    shapes = [(weight.shape, weight.dtype) for weight in weights]
    key = (
        _fingerprint(graph_def), repr(specs), repr(shapes), length, jit_compile,
        banned_id, end_id,
    )  # fmt: skip
    with _tracing:
        if key not in _loops:
            step = _step(decode_step, graph_def)

            def loop(captured, carry, options, forced_ids, max_steps):
                return generation.generate(
                    functools.partial(step, captured),
                    carry,
                    options=options,
                    max_steps=max_steps,
                    padded_length=length if jit_compile else None,
                    forced_ids=forced_ids,
                    banned_id=banned_id,
                    end_id=end_id,
                )

            # Calling a `tf.function` itself takes half a millisecond longer.
            _loops[key] = tf.function(
                loop, jit_compile=jit_compile, autograph=False
            ).get_concrete_function(
                _specs(captured), *specs, tf.TensorSpec([], tf.int32)
            )
    return functools.partial(_loops[key], list(captured))


def _specs(tensors) -> list:
    return [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]


def _step(decode_step, graph_def):
    """Makes (captured, token_ids, states) -> (logits, states).

    The result keeps the graph alive, and nothing else of the model. The
    functions that the graph calls are copied under new names, because
    TensorFlow deletes the model's own ones with the model.

    Args:
        decode_step: a signature.
        graph_def: `_graph_of(decode_step)`; its functions are renamed in place.
    """
    names = {}
    for function in graph_def.library.function:
        new = f"decode_step_{next(_function_numbers)}"
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

    # Unlike `tf.function`, this registers the functions of the graph with
    # TensorFlow's runtime.
    wrapped = tf.compat.v1.wrap_function(imported, _specs(decode_step.inputs))

    def step(captured, token_ids, states):
        values = {"token_ids": token_ids, **states}
        new = wrapped(*(values[name] for name in arguments), *captured)
        for tensor, spec in zip(new, tf.nest.flatten(results)):
            tensor.set_shape(spec.shape)  # unknown, as those of `captured` are
        new = tf.nest.pack_sequence_as(results, new)
        return new.pop("logits"), new

    return step


def _graph_of(signature):
    """The GraphDef of a signature, without the nodes of its arguments.

    Importing it connects other tensors in their place.
    """
    graph_def = signature.graph.as_graph_def()
    nodes = [node for node in graph_def.node if node.op != "Placeholder"]
    del graph_def.node[:]
    graph_def.node.extend(nodes)
    return graph_def


def _nodes(graph_def):
    """Yields the nodes of a graph and of its functions."""
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def _fingerprint(graph_def) -> str:
    """A hex digest, equal for graphs that differ only in names.

    Keras and TensorFlow number names across all models of a process.
    """
    copy = type(graph_def).FromString(graph_def.SerializeToString())
    for node in _nodes(copy):
        for name in list(node.attr):  # labels, and settings of the process
            if name.startswith("_") or name == "config_proto":
                del node.attr[name]
        node.ClearField("experimental_debug_info")
    for function in copy.library.function:
        _number_nodes(function)
        function.arg_attr.clear()
    text = str(copy)
    for index, function in enumerate(copy.library.function):
        text = text.replace(f'"{function.signature.name}"', f'"{index}"')
    return hashlib.sha256(text.encode()).hexdigest()


def _number_nodes(function) -> None:
    """Renames the nodes and arguments of a FunctionDef by their order."""
    signature = function.signature
    names = {}
    for node in (*signature.input_arg, *function.node_def):
        names[node.name] = node.name = f"node_{len(names)}"

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
