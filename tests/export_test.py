"""Exported language models: against NumPy, without this project, damaged."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import saved_model_pb2

from stacked_rnn import configs, inference, reference, tokenizers
from stacked_rnn import saved_models as artifact
from stacked_rnn.configs import UserError
from stacked_rnn.decoding.options import DTYPES
from tests.helpers import exports
from tests.helpers.sampler_inputs import uniforms
from tests.helpers.small_models import (
    CELLS,
    WORDS,
    build_generator,
    reference_logits,
)

PROMPTS = ["abc", "", "h", "a b\nc d e f", "xaz"]


def generate(functions, prompts, **options):
    """Calls the signature with the defaults of `SamplingConfig`, or others."""
    values = configs.SamplingConfig(temperature=1.0).to_dict() | options
    return functions.signatures["generate"](
        prompts=tf.constant(prompts, tf.string),
        **{
            name: tf.constant(np.atleast_1d(values[name]), dtype)
            for name, dtype in DTYPES.items()
        },
    )


def reference_text(generator, prompt, *, seed, max_new_tokens, temperature=1.0,
                   top_k=0, top_p=1.0, repetition_penalty=1.0):  # fmt: skip
    """Generates in NumPy, reading the whole text again for each token."""
    tokenizer, model = generator.tokenizer, generator.model
    token_ids = (
        tokenizer.tokenize(tf.constant([prompt])).values.numpy().tolist()
    )
    token_ids = token_ids or [tokenizer.start_id]
    key = seed ^ int(tf.strings.to_hash_bucket_fast(prompt, 2**63 - 1))
    numbers = uniforms([key], max_new_tokens)
    zeros = reference.initial_states(
        model.config.cell, model.config.units, model.config.num_layers, 1
    )
    drawn, log_probs = [], []
    for uniform in numbers.numpy()[:, 0]:
        logits, _ = reference_logits(
            model, np.array([token_ids + drawn]), zeros
        )
        logits = logits[0, -1]
        log_prob = reference.log_softmax(logits)
        seen = np.isin(np.arange(len(logits)), token_ids + drawn)
        logits = reference.penalize_repetition(logits, seen, repetition_penalty)
        logits[tokenizer.unknown_id] = -np.inf
        drawn.append(
            reference.sample(
                logits, uniform, np.float32(temperature), top_k, top_p
            )
        )
        log_probs.append(log_prob[drawn[-1]])
    return drawn, log_probs


OPTIONS = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_k": 4},
    {"top_p": 0.8},
    {"temperature": 1.2, "repetition_penalty": 1.5},
)


@pytest.mark.parametrize("cell", CELLS)
def test_generate_equals_a_generator_in_numpy(cell):
    """Mixed lengths, an empty prompt and unknown characters in one batch.

    Every prompt comes with all options; a row has its own seed.
    """
    generator = build_generator(cell, residual=True)
    rows = [(prompt, options) for options in OPTIONS for prompt in PROMPTS]
    neutral = {
        "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0,
    }  # fmt: skip
    settings = [neutral | options for _, options in rows]
    result = generator.generate(
        tf.constant([prompt for prompt, _ in rows]),
        max_new_tokens=tf.constant([12]),
        seed=tf.range(len(rows), dtype=tf.int64),
        **{
            name: tf.constant([values[name] for values in settings])
            for name in neutral
        },
    )
    for row, (prompt, options) in enumerate(rows):
        expected, log_probs = reference_text(
            generator, prompt, seed=row, max_new_tokens=12, **options
        )
        assert result["token_ids"][row].numpy().tolist() == expected
        np.testing.assert_allclose(
            result["log_probs"][row], log_probs, atol=1e-4
        )


def test_rows_have_their_own_options_and_do_not_affect_each_other(loaded):
    options = {
        "max_new_tokens": [5, 0, 9, 3, 7],
        "temperature": [1.0, 1.0, 0.0, 0.5, 2.0],
        "top_k": [0, 2, 0, 3, 0],
        "top_p": [1.0, 0.5, 1.0, 0.9, 1.0],
        "repetition_penalty": [1.0, 1.0, 1.2, 1.0, 1.5],
        "seed": [1, 2, 3, 4, 5],
    }
    together = generate(loaded.functions, PROMPTS, **options)
    assert together["lengths"].numpy().tolist() == options["max_new_tokens"]
    for row, prompt in enumerate(PROMPTS):
        alone = generate(
            loaded.functions, [prompt],
            **{name: values[row] for name, values in options.items()},
        )  # fmt: skip
        assert alone["texts"][0] == together["texts"][row]
        length = options["max_new_tokens"][row]
        np.testing.assert_allclose(
            alone["log_probs"][0],
            together["log_probs"][row][:length],
            atol=1e-5,
        )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.binary(max_size=12) | st.text(max_size=5).map(str.encode),
            st.integers(-3, 9),
            st.floats(0, 50, width=32),
            st.integers(0, 20),
            st.floats(0.001, 1.0),
            st.floats(0.01, 10.0),
            st.integers(0, 2**63 - 1),
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_any_options_and_prompts_give_tokens_of_the_vocabulary(
    generator, rows, compiled
):
    prompts, limits, *others, seeds = zip(*rows) if rows else [()] * 7
    names = ("temperature", "top_k", "top_p", "repetition_penalty")
    options = {
        name: tf.constant(values, tf.int32 if name == "top_k" else tf.float32)
        for name, values in zip(names, others)
    } | {"max_new_tokens": tf.constant(limits, tf.int32)}
    prompts = tf.constant(prompts, tf.string)
    seeds = tf.constant(seeds, tf.int64)
    if compiled and len(rows) == 3:  # one compilation is enough
        result = generator.compiled_chunk(
            generator.begin(prompts, seeds), options, tf.constant(9)
        )
    else:
        result = generator.generate(prompts, seed=seeds, **options)
        for text in result["texts"].numpy():
            text.decode("utf-8")
    assert result["lengths"].numpy().tolist() == [max(n, 0) for n in limits]
    for token_ids, log_probs, length in zip(
        result["token_ids"].numpy(), result["log_probs"].numpy(), limits
    ):
        drawn = token_ids[: max(length, 0)]
        assert ((0 < drawn) & (drawn < 11)).all()  # 0 is the unknown token
        assert not token_ids[max(length, 0) :].any()
        assert np.isfinite(log_probs).all()


def test_the_end_of_text_token_ends_a_row(loaded_lines):
    """What follows it in a prompt is read as a new text."""
    loaded, tokenizer = loaded_lines, loaded_lines.tokenizer
    result = generate(
        loaded.functions, [""] * 20, seed=range(20), max_new_tokens=40
    )
    lengths = result["lengths"].numpy()
    assert len(set(lengths)) > 2 and lengths.min() < 40
    for text, token_ids, length in zip(
        result["texts"].numpy(), result["token_ids"].numpy(), lengths
    ):
        assert len(text) == length
        assert not token_ids[length:].any()
        assert tokenizer.end_id not in token_ids[:length]
    samples = list(
        loaded.continuations(
            [""], configs.SamplingConfig(temperature=1.0, max_new_tokens=40),
            num_samples=20,
        )
    )  # fmt: skip
    assert [s.text.encode() for s in samples] == result[
        "texts"
    ].numpy().tolist()
    assert [s.finish_reason for s in samples] == [
        "stop" if length < 40 else "length" for length in lengths
    ]
    read = loaded.functions.signatures["prefill"](
        prompts=tf.constant(["abc\ned", "\ned"])
    )
    np.testing.assert_allclose(*read["logits"], atol=1e-6)


def test_texts_depend_on_seed_and_prompt(loaded):
    def texts(seeds, prompts):
        return generate(loaded.functions, prompts, seed=seeds)["texts"].numpy()

    same, again, other = texts([1, 1, 2], ["a"] * 3)
    assert same == again != other
    assert len(set(texts([1], ["a", "b", "c"]))) == 3  # the prompt counts too
    assert texts([2**63 - 1], ["a"]).shape == (1,)


def test_empty_batches_and_zero_tokens_are_accepted(loaded):
    assert generate(loaded.functions, [])["texts"].shape == (0,)
    assert loaded.functions.signatures["embed"](
        texts=tf.constant([], tf.string)
    )["embeddings"].shape == (0, 6)
    nothing = generate(loaded.functions, ["a", "b"], max_new_tokens=0)
    assert nothing["texts"].numpy().tolist() == [b"", b""]
    assert nothing["token_ids"].shape == (2, 0)


def test_the_unknown_token_is_never_generated(loaded):
    result = generate(
        loaded.functions, ["x"] * 20, seed=range(20), temperature=3.0
    )
    assert 0 not in result["token_ids"].numpy()
    assert all("\ufffd" not in t.decode() for t in result["texts"].numpy())


@pytest.mark.parametrize(
    ("kind", "letters_only"),
    [("byte", False), ("word", True), ("subword", False)],
)
def test_every_tokenizer_is_part_of_the_export(
    kind, letters_only, loaded_bytes, saved_words, tmp_path
):
    tokenizer = tokenizers.build(kind, WORDS.encode(), 260, letters_only)
    generator = build_generator(tokenizer=tokenizer)
    if kind == "byte":
        loaded = loaded_bytes
    elif kind == "word":
        loaded = inference.load(saved_words)
    else:
        loaded = inference.load(generator.save(tmp_path))
    assert loaded.tokenizer == tokenizer
    texts = tf.constant([WORDS, "", "unseen"])
    score = loaded.functions.signatures["score"](texts=texts)
    for name, expected in generator.score(texts).items():
        np.testing.assert_allclose(score[name], expected, rtol=1e-6)
    (sample,) = loaded.continuations([WORDS], configs.SamplingConfig())
    assert sample.text and "<unk>" not in sample.text


def test_texts_of_bytes_are_valid_utf8():
    generator = build_generator(tokenizer=tokenizers.ByteTokenizer())
    texts = generator.serving_default(["caf\u00e9", ""])["texts"].numpy()
    for text in texts:
        text.decode("utf-8")


def test_serving_default_is_generate_with_the_exported_defaults(loaded):
    default = loaded.functions.signatures["serving_default"](
        prompts=tf.constant(PROMPTS)
    )
    assert list(default) == ["texts"]
    expected = generate(
        loaded.functions, PROMPTS, temperature=0.8, max_new_tokens=7
    )
    assert np.array_equal(default["texts"], expected["texts"])


def test_score_equals_the_reference(generator, loaded):
    texts = ["abc", "", "h", "x", "hgfedcba " * 40]  # longer than one window
    score = loaded.functions.signatures["score"](texts=tf.constant(texts))
    assert score["characters"].numpy().tolist() == [3, 0, 1, 1, 360]
    assert score["tokens"].numpy().tolist() == [2, 0, 0, 0, 359]
    for text, nats in zip(texts, score["nats"].numpy()):
        ids = generator.tokenizer.tokenize(tf.constant([text])).values.numpy()
        expected = 0.0
        if len(ids) > 1:
            logits, _ = reference_logits(
                generator.model, ids[None, :-1],
                reference.initial_states("gru", 6, 2, 1),
            )  # fmt: skip
            expected = reference.nats(logits[0], ids[1:]).sum()
        assert nats == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_signatures_have_the_documented_names(loaded):
    def names(signature):
        function = loaded.functions.signatures[signature]
        taken = function.structured_input_signature[1]
        return set(taken), set(function.structured_outputs)

    assert set(loaded.functions.signatures) == {
        "serving_default",
        "generate",
        "score",
        "embed",
        "prefill",
        "decode_step",
    }
    options = {
        field.name for field in dataclasses.fields(configs.SamplingConfig)
    }
    assert names("serving_default") == ({"prompts"}, {"texts"})
    assert names("generate") == (
        {"prompts"} | options,
        {"texts", "token_ids", "log_probs", "lengths"},
    )
    assert names("score") == ({"texts"}, {"nats", "tokens", "characters"})
    states = {"state_0_h", "state_1_h"}
    assert names("embed") == ({"texts"}, {"embeddings"})
    assert names("prefill") == ({"prompts"}, {"logits"} | states)
    assert names("decode_step") == ({"token_ids"} | states, {"logits"} | states)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_prefill_and_decode_step_reproduce_generate(cell, loaded, saved_models):
    """Greedy decoding by hand, with prompts of many windows; also `embed`."""
    generator = build_generator(cell)
    if cell == "lstm":
        loaded = inference.load(saved_models / "others")
    signatures = loaded.functions.signatures
    prompts = tf.constant(["abc", "", "hgfedcba " * 40])
    prefilled = signatures["prefill"](prompts=prompts)
    embedded = signatures["embed"](texts=prompts)["embeddings"]
    assert np.array_equal(embedded, prefilled["state_1_h"])
    drawn = []
    new = dict(prefilled)
    for _ in range(6):
        logits = new.pop("logits").numpy()
        logits[:, generator.tokenizer.unknown_id] = -np.inf
        drawn.append(logits.argmax(axis=1).astype("int32"))
        new = signatures["decode_step"](token_ids=tf.constant(drawn[-1]), **new)
    expected = generator.generate(
        prompts, max_new_tokens=tf.constant([6]), temperature=tf.constant([0.0])
    )
    assert np.array_equal(np.stack(drawn, axis=1), expected["token_ids"])
    for row, prompt in enumerate(prompts.numpy()):
        ids = generator.tokenizer.tokenize([prompt]).values.numpy()
        if len(ids):
            logits, states = reference_logits(
                generator.model, ids[None],
                reference.initial_states(cell, 6, 2, 1),
            )  # fmt: skip
            np.testing.assert_allclose(
                prefilled["logits"][row], logits[0, -1], atol=1e-4
            )
            np.testing.assert_allclose(
                embedded[row], states[-1][0][0], atol=1e-5
            )


def test_missing_options_take_the_exported_defaults(generator, loaded):
    assert np.array_equal(
        loaded.functions.generate(tf.constant(["abc"]))["texts"],
        loaded.functions.serving_default(tf.constant(["abc"]))["texts"],
    )


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("temperature", -0.5, "temperature"),
        ("temperature", float("nan"), "temperature"),
        ("temperature", float("inf"), "temperature"),
        ("top_k", -1, "top_k"),
        ("top_p", 0.0, "top_p"),
        ("top_p", 1.5, "top_p"),
        ("repetition_penalty", 0.0, "repetition_penalty"),
        ("repetition_penalty", float("nan"), "repetition_penalty"),
    ],
)
def test_an_option_out_of_range_is_named(loaded, option, value, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        generate(loaded.functions, ["a", "b"], **{option: [1.0 if
            option != "top_k" else 1, value]})  # fmt: skip


@pytest.mark.parametrize("compiled", [False, True])
def test_decoding_in_chunks_gives_the_same_text(loaded, compiled):
    """With the functions that generate.py calls, with and without XLA."""
    functions = loaded.functions
    seeds = tf.range(5, dtype=tf.int64)
    expected = generate(
        functions, PROMPTS, seed=seeds, max_new_tokens=20, top_k=5, top_p=0.9
    )
    options = {
        "max_new_tokens": tf.fill([5], 20),
        "temperature": tf.ones(5),
        "top_k": tf.fill([5], 5),
        "top_p": tf.fill([5], 0.9),
        "repetition_penalty": tf.ones(5),
    }
    chunk = functions.compiled_chunk if compiled else functions.decode_chunk
    carry, pieces = functions.begin(tf.constant(PROMPTS), seeds), []
    for count in (3, 1, 9, 30):
        drawn = chunk(carry, options, tf.constant(count))
        carry = drawn["carry"]
        length = int(drawn["lengths"][0])
        pieces.append(drawn["token_ids"][:, :length])
    assert np.array_equal(np.concatenate(pieces, 1), expected["token_ids"])
    assert carry["finished"].numpy().all()


def test_plain_chunk_equals_the_full_one_with_neutral_options(loaded):
    functions = loaded.functions
    carry = functions.begin(tf.constant(PROMPTS), tf.range(5, dtype=tf.int64))
    options = {
        "max_new_tokens": tf.fill([5], 20),
        "temperature": tf.constant([0.0, 0.5, 1.0, 1.5, 1.0]),
    }
    neutral = {
        "top_k": tf.zeros(5, tf.int32),
        "top_p": tf.ones(5),
        "repetition_penalty": tf.ones(5),
    }
    plain = functions.compiled_plain_chunk(carry, options, tf.constant(20))
    full = functions.compiled_chunk(carry, options | neutral, tf.constant(20))
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(
            tf.cast(a, tf.float64), tf.cast(b, tf.float64), atol=1e-5
        ),
        plain,
        full,
    )


def test_a_prompt_read_in_two_parts_gives_the_same_state(loaded):
    functions = loaded.functions
    seeds = tf.zeros(2, tf.int64)
    whole = functions.begin(tf.constant(["abcdefg", "h a"]), seeds)
    parts = functions.begin(tf.constant(["abc", "h"]), seeds)
    parts = functions.extend(tf.constant(["defg", " a"]), parts)
    for name in ("token_ids", "states", "seen", "positions", "finished"):
        tf.nest.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            parts[name],
            whole[name],
        )


def test_the_graph_holds_core_operations_only(letters, loaded):
    graph = (
        saved_model_pb2.SavedModel.FromString(
            (letters / "saved_model.pb").read_bytes()
        )
        .meta_graphs[0]
        .graph_def
    )
    nodes = [
        *graph.node,
        *(n for f in graph.library.function for n in f.node_def),
    ]
    operations = {node.op for node in nodes}
    assert "MatMul" in operations
    assert not [n for n in nodes if "_gradient_op_type" in n.attr]
    for name in loaded.functions.signatures:
        definition = loaded.functions.signatures[name].function_def
        assert "_XlaMustCompile" not in definition.attr, name
    assert not {op for op in operations if "Cudnn" in op or "PyFunc" in op}
    assert not {node.device for node in nodes if "GPU" in node.device}


def test_export_runs_with_tensorflow_alone(letters, loaded):
    """In a process that can import neither this project nor its tests."""
    program = f"""
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("stacked_rnn", "train", "generate"):
            raise ImportError(name)

sys.meta_path.insert(0, Guard())
import tensorflow as tf
loaded = tf.saved_model.load({str(letters)!r})
texts = loaded.signatures["serving_default"](tf.constant(["abc"]))["texts"]
sys.stdout.buffer.write(texts.numpy()[0])
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False,
        cwd=letters,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr.decode()
    expected = loaded.functions.signatures["serving_default"](
        prompts=tf.constant(["abc"])
    )["texts"]
    assert ran.stdout == expected.numpy()[0]


# The directory


@exports.in_memory()
def test_versions_increase_and_the_highest_is_loaded(generator, tmp_path):
    assert generator.save(tmp_path / "m").name == "1"
    (tmp_path / "m" / "7").mkdir()
    (tmp_path / "m" / "notes").mkdir()
    assert generator.save(tmp_path / "m").name == "8"
    assert inference.load(tmp_path / "m").path == tmp_path / "m" / "8"
    assert inference.load(tmp_path / "m" / "1").path.name == "1"


def test_a_save_that_fails_leaves_nothing(generator, tmp_path, monkeypatch):
    def disk_full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("tensorflow.saved_model.save", disk_full)
    with pytest.raises(
        UserError, match="--export_dir.*No space left.*free some space"
    ):
        generator.save(tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


@exports.in_memory()
def test_two_exports_at_once_get_different_numbers(
    generator, tmp_path, monkeypatch
):
    """Each notices the other's version only when it takes its own number."""
    save, others = tf.saved_model.save, []

    def save_slowly(*arguments, **options):
        save(*arguments, **options)
        if not others:
            others.append(None)
            others[0] = generator.save(tmp_path / "m")

    with monkeypatch.context() as patch:
        patch.setattr("tensorflow.saved_model.save", save_slowly)
        second = generator.save(tmp_path / "m")
    assert {others[0].name, second.name} == {"1", "2"}
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"1", "2"}
    assert inference.load(second) and inference.load(others[0])


def test_a_version_taken_at_the_last_moment_is_skipped(tmp_path, monkeypatch):
    found = []

    def versions_before(directory):
        found.append(directory)
        return [] if len(found) == 1 else [1]

    (tmp_path / "m" / "1" / "assets").mkdir(parents=True)
    (tmp_path / "m" / "export.partial").mkdir()
    monkeypatch.setattr(artifact, "versions", versions_before)
    path = artifact.take_next_number(
        tmp_path / "m" / "export.partial", tmp_path / "m"
    )
    assert path.name == "2"


def test_the_program_on_the_card_runs(letters, monkeypatch, capsys):
    [program] = re.findall(
        r"```python\n(.*?)```", (letters / "README.md").read_text(), re.DOTALL
    )
    monkeypatch.chdir(letters)
    exec(program, {})
    assert "'texts'" in capsys.readouterr().out


def test_the_configuration_is_part_of_the_export(letters, loaded, generator):
    assert loaded.model_config == generator.model.config
    assert loaded.tokenizer == generator.tokenizer
    assert loaded.defaults == generator.defaults
    config = (letters / "assets.extra/config.json").read_text()
    assert json.loads(config)["model"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("saved_model.pb", "damaged or cut short"),
        ("variables/variables.data-00000-of-00001", "damaged or cut short"),
        ("variables/variables.index", "damaged or cut short"),
        ("assets/tokenizer.json", "damaged"),
        ("assets.extra/config.json", "damaged"),
    ],
)
def test_truncated_files_are_reported(letters, tmp_path, damage, message):
    path = shutil.copytree(letters, tmp_path / "1") / damage
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(configs.UserError, match=message) as error:
        inference.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "file, values",
    [
        (artifact.CONFIG_FILE, {"sampling": 3}),
        (artifact.CONFIG_FILE, {"sampling": {"no_such_option": 1}}),
        (artifact.CONFIG_FILE, {"sampling": {"temperature": -1.0}}),
        (artifact.CONFIG_FILE, {"model": []}),
        (artifact.CONFIG_FILE, {"task": "fourth"}),
        (artifact.TOKENIZER_FILE, {"kind": "word", "vocabulary": [1]}),
        (
            artifact.TOKENIZER_FILE,
            {"kind": "word", "vocabulary": ["<unk>", "a", "a"]},
        ),
        (artifact.TOKENIZER_FILE, {"kind": "subword", "merges": [1]}),
    ],
)
def test_damaged_metadata_are_reported(letters, tmp_path, file, values):
    shutil.copytree(letters, tmp_path / "1")
    path = tmp_path / "1" / file
    old = json.loads(path.read_text())
    old.pop("vocabulary", None)
    path.write_text(json.dumps(old | values))
    with pytest.raises(
        configs.UserError, match="damaged: .*export it again"
    ) as caught:
        artifact.read_description(tmp_path / "1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["top_p", "repetition_penalty"])
def test_options_just_above_zero_are_accepted(loaded, option):
    generate = loaded.functions.signatures["generate"]
    values = {name: [0] for name in DTYPES} | {"top_p": [1.0]}
    values |= {"repetition_penalty": [1.0], "max_new_tokens": [2]}
    values |= {option: [1e-10]}
    found = generate(
        prompts=tf.constant(["a"]),
        **{name: tf.constant(values[name], DTYPES[name]) for name in DTYPES},
    )
    assert found["lengths"].numpy().tolist() == [2]


def test_an_export_of_an_older_version_is_reported(letters, tmp_path):
    shutil.copytree(letters, tmp_path / "1")
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    shutil.copy(tmp_path / "other/saved_model.pb", tmp_path / "1")
    shutil.rmtree(tmp_path / "1/variables")
    shutil.copytree(tmp_path / "other/variables", tmp_path / "1/variables")
    with pytest.raises(configs.UserError, match="older version") as error:
        inference.load(tmp_path / "1")
    assert "\n" not in str(error.value)


def test_other_directories_are_refused_with_the_reason(tmp_path, monkeypatch):
    with pytest.raises(configs.UserError, match="no such directory"):
        inference.load(tmp_path / "nowhere")
    with pytest.raises(configs.UserError, match=r"no saved_model\.pb"):
        inference.load(tmp_path)
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "other"))
    with pytest.raises(
        configs.UserError, match="not a SavedModel of stacked_rnn"
    ):
        inference.load(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(configs.UserError, match=r"run train\.py first"):
        inference.load()


def test_the_newest_under_saved_models_is_the_default(
    letters, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    newest = pathlib.Path("saved_models/second/1")
    shutil.copytree(letters, "saved_models/first/1")
    shutil.copytree(letters, newest)
    os.utime(newest / "saved_model.pb")
    for name in ("2.partial", "2.bak", "\u00b2"):  # no versions
        shutil.copytree(newest, newest.with_name(name))
    assert inference.load().path == newest
    # Models of another task, a name that is no version, a partial copy.
    for name in ("third/1", "third/\u00b2", "third/3.partial"):
        path = pathlib.Path("saved_models", name)
        shutil.copytree(newest, path)
        config = json.loads((path / artifact.CONFIG_FILE).read_text())
        config |= {
            "task": "classifier", "labels": [], "several_labels": False,
            "max_tokens": 9,
        }  # fmt: skip
        (path / artifact.CONFIG_FILE).write_text(json.dumps(config))
        os.utime(path / "saved_model.pb", (2**31, 2**31))
    capsys.readouterr()
    assert artifact.find("", ("language_model",)) == newest
    assert capsys.readouterr().err == (
        "the newest model: --saved_model=saved_models/second/1\n"
    )
    assert artifact.find("") == pathlib.Path("saved_models/third/1")
    with pytest.raises(configs.UserError, match="not contain a seq2seq"):
        artifact.find("", ("seq2seq",))
