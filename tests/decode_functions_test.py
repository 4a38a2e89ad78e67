"""Models that differ only in their weights share a decoding loop."""

import gc
import shutil
import weakref

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import inference
from stacked_rnn.serving import decode_functions, scheduler
from tests.helpers.small_models import build_generator


def exported(directory, seed, **changes):
    generator = build_generator(seed=seed, **changes)
    return generator.save(directory / f"{seed}-{len(changes)}")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("saved_models")


@pytest.fixture(scope="module")
def paths(letters, directory):
    """Two models that differ in nothing but their weights."""
    return [letters, exported(directory, 1)]


@pytest.fixture(scope="module")
def models(paths):
    """Both, loaded."""
    return [inference.load(str(path)) for path in paths]


@pytest.fixture(scope="module")
def arguments():
    """The arguments of a loop over two rows: carry, options, given, count."""
    batch = 2
    return (
        {
            "token_ids": np.array([1, 2], np.int32),
            "states": {
                f"state_{layer}_h": np.zeros([batch, 6], np.float32)
                for layer in range(2)
            },
            "seen": np.zeros([batch, 11], bool),
            "positions": np.zeros(batch, np.int32),
            "finished": np.zeros(batch, bool),
            "seeds": np.array([3, 4], np.int64),
        },
        {
            "max_new_tokens": np.full(batch, 20, np.int32),
            "temperature": np.ones(batch, np.float32),
            "top_k": np.zeros(batch, np.int32),
            "top_p": np.ones(batch, np.float32),
            "repetition_penalty": np.ones(batch, np.float32),
        },
        np.full([batch, 16], -1, np.int32),
        np.array(12, np.int32),
    )


def loop(model, arguments, jit_compile=False, end_id=None):
    return decode_functions.decode_loop(
        model.functions.signatures["decode_step"],
        model.functions.weights,
        arguments[:3],
        length=16,
        jit_compile=jit_compile,
        banned_id=0,
        end_id=end_id,
    )


def fingerprint(decode_step):
    return decode_functions._fingerprint(
        decode_functions._graph_of(decode_step)
    )


def run(function, arguments):
    return tf.nest.map_structure(
        np.asarray, function(*tf.nest.map_structure(tf.constant, arguments))
    )


def alone(model, arguments):
    """Draws with the SavedModel's own function."""
    carry, options, _, count = arguments
    states = carry["states"]
    nested = tuple((states[name],) for name in sorted(states))
    return model.functions.decode_chunk(
        carry | {"states": nested}, options, tf.constant(count)
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_each_model_draws_with_its_own_weights(models, arguments, jit_compile):
    functions = [loop(model, arguments, jit_compile) for model in models]
    assert functions[0].func is functions[1].func
    drawn = []
    for model, function in zip(models, functions):
        result, expected = run(function, arguments), alone(model, arguments)
        length = expected["token_ids"].shape[1]
        drawn.append(result["token_ids"][:, :length])
        np.testing.assert_array_equal(drawn[-1], expected["token_ids"])
        np.testing.assert_allclose(
            result["log_probs"][:, :length], expected["log_probs"], atol=1e-5
        )
    assert (drawn[0] != drawn[1]).any()


def test_another_architecture_has_another_loop(saved_models, models, arguments):
    model, _ = models
    other = inference.load(saved_models / "others")
    steps = (one.functions.signatures["decode_step"] for one in (model, other))
    assert len({*map(fingerprint, steps)}) == 2
    first = loop(model, arguments)
    assert loop(model, arguments, end_id=5).func is not first.func


def test_models_of_other_widths_do_not_mix(directory, arguments):
    """Their graphs may be equal, as only the weights know the widths."""
    model = inference.load(str(exported(directory, 3, embedding_dim=4)))
    carry, *others = arguments
    states = {
        f"state_{layer}_h": np.zeros([2, 6], np.float32) for layer in range(2)
    }
    given = (carry | {"states": states}, *others)
    expected = alone(model, given)["token_ids"]
    drawn = run(loop(model, given), given)["token_ids"]
    np.testing.assert_array_equal(drawn[:, : expected.shape[1]], expected)


def test_equal_steps_may_make_different_loops(models, arguments):
    """Their end tokens differ."""
    first, second = models
    one = loop(first, arguments, end_id=7)
    other = loop(second, arguments, end_id=8)
    assert one.func is not other.func
    assert 7 not in run(one, arguments)["token_ids"]
    run(other, arguments)


def test_a_deleted_model_frees_its_weights(paths, models, arguments):
    first, (_, second) = inference.load(str(paths[0])), models
    function = loop(second, arguments)
    loop(first, arguments)
    trace = weakref.ref(first.functions.weights[0])
    del first
    gc.collect()
    assert trace() is None
    run(function, arguments)


def test_a_second_scheduler_of_the_same_kind_needs_no_compilation(
    models, monkeypatch
):
    """Only the first model is compiled by XLA."""
    monkeypatch.setattr(scheduler, "BATCH_SIZES", (1,))
    functions = []
    for model in models:
        one = scheduler.Scheduler(model, lambda updates: None)
        one.compile()
        assert one.is_compiled.is_set()
        functions.append(one._loops[False, True])
        one.close()
    assert functions[0].func is functions[1].func
    assert functions[0].func.function_type  # one trace, concrete


def test_fingerprints_ignore_numbered_names(paths, models, tmp_path):
    """TensorFlow numbers functions and the labels of traced graphs."""
    shutil.copytree(paths[0], tmp_path / "copy" / "1")
    prints = {
        fingerprint(model.functions.signatures["decode_step"])
        for model in (*models, inference.load(str(tmp_path / "copy")))
    }
    assert len(prints) == 1
