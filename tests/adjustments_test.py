"""Adjusted sequences equal a plain loop of NumPy, whatever is beside them."""

import itertools

import numpy as np
import pytest

from stacked_rnn.decoding import samplers
from stacked_rnn.serving import scheduler
from stacked_rnn.serving.adjustments import NONE, Adjustment
from tests.helpers.live_server import completion, serving
from tests.helpers.sampler_inputs import uniforms
from tests.helpers.schedulers import Harness, alone


def plain(model, prompt, adjustment, seed, count):
    """Draws tokens as `Adjustment` and OpenAI's documentation define them."""
    step = model.functions.signatures["decode_step"]
    states = model.initial_states(1)
    token_ids = model.tokenizer.tokenize([prompt]).flat_values.numpy()
    size, end_id = model.tokenizer.vocabulary_size(), model.tokenizer.end_id
    bias = np.zeros(size)
    for token_id, value in adjustment.logit_bias.items():
        bias[token_id] = value
    ends = {*adjustment.end_ids} | ({end_id} - {None})
    if model.tokenizer.unknown_id is not None:
        bias[model.tokenizer.unknown_id] = -np.inf
    if adjustment.ignores_end and end_id is not None:
        bias[end_id] = -np.inf
        ends -= {end_id}
    numbers = uniforms([seed], count).numpy()[:, 0]
    drawn = []
    for token_id in token_ids:
        new = step(token_ids=np.array([token_id], np.int32), **states)
        states = {name: new[name] for name in states}
    while len(drawn) < count:
        logits = new["logits"].numpy()[0].astype(np.float64) + bias
        for token_id in {*drawn}:
            logits[token_id] -= adjustment.presence_penalty
            logits[token_id] -= adjustment.frequency_penalty * drawn.count(
                token_id
            )
        if len(drawn) < adjustment.min_tokens:
            logits[[*ends]] = -np.inf
        p = np.exp(logits - logits.max())
        p[p < adjustment.min_p] = 0
        cumulative = np.cumsum(p / p.sum())
        token_id = int((cumulative <= numbers[len(drawn)]).sum())
        if token_id in ends:
            return drawn, True
        drawn.append(token_id)
        new = step(token_ids=np.array([token_id], np.int32), **states)
        states = {name: new[name] for name in states}
    return drawn, False


CASES = [
    Adjustment(logit_bias={3: 2.5, 5: -100.0}),
    Adjustment(presence_penalty=1.5),
    Adjustment(frequency_penalty=1.2),
    Adjustment(frequency_penalty=-0.3, presence_penalty=-0.5),
    Adjustment(min_p=0.3),
    Adjustment(end_ids=(4, 6)),
    Adjustment(end_ids=(4, 6), min_tokens=25),
    Adjustment(min_tokens=20),
    Adjustment(ignores_end=True),
    Adjustment(ignores_end=True, end_ids=(4,), min_tokens=9, min_p=0.05,
               logit_bias={4: -1.0}, frequency_penalty=0.2),
]  # fmt: skip


@pytest.mark.parametrize(
    "adjustment, end_id, expected",
    [
        # What load generators send to every model.
        (Adjustment(ignores_end=True, min_tokens=9), None, NONE),
        (Adjustment(logit_bias={3: 0.0}), None, NONE),
        (Adjustment(min_tokens=9), 1, Adjustment(min_tokens=9)),
        (Adjustment(ignores_end=True, min_tokens=9), 1,
         Adjustment(ignores_end=True)),
        (Adjustment(ignores_end=True, min_tokens=9, end_ids=(4,)), None,
         Adjustment(min_tokens=9, end_ids=(4,))),
    ],
)  # fmt: skip
def test_what_has_no_effect_needs_no_loop_of_its_own(
    adjustment, end_id, expected
):
    assert adjustment.for_model(end_id) == expected


@pytest.mark.parametrize(
    "fixture, jit_compile",
    [("loaded", False), ("loaded_lines", False), ("loaded_lines", True)],
)
def test_adjusted_sequences_equal_a_plain_loop(
    fixture, jit_compile, request, monkeypatch
):
    """Beside plain ones, which get the texts that they get alone."""
    sizes = (64,) if jit_compile else (1, 64)
    monkeypatch.setattr(scheduler, "BATCH_SIZES", sizes)
    model = request.getfixturevalue(fixture)
    harness = Harness(model)
    if jit_compile:
        harness.scheduler.compile()
        harness.scheduler.compile(adjusts=True)
    prompt = "a b" if fixture == "loaded" else "abc"
    sequences = []
    for seed, adjustment in enumerate([NONE, *CASES, NONE]):
        sequences += harness.submit(
            [prompt], adjustment=adjustment, max_new_tokens=40,
            temperature=1.0, seed=seed,
        )  # fmt: skip
    harness.wait(len(sequences))
    ended = set()
    for sequence in sequences:
        _, tokens, _, reason = harness.result(sequence)
        expected, ends = plain(
            model, prompt, sequence.adjustment, sequence.continuation.seed, 40
        )
        assert tokens == model.token_bytes[expected].tolist()
        assert (reason == "stop") == ends
        ended.add(ends)
        if sequence.adjustment == NONE:
            text = alone(
                model, prompt, max_new_tokens=40, temperature=1.0,
                seed=sequence.sampling.seed,
            ).text  # fmt: skip
            assert b"".join(tokens).decode() == text
    assert ended == {True, False}
    harness.scheduler.close(20)


def log_probs_after(model, token_ids):
    """Log p of each token of the vocabulary after each of a text."""
    step = model.functions.signatures["decode_step"]
    states, rows = model.initial_states(1), []
    for token_id in token_ids:
        new = step(token_ids=np.array([token_id], np.int32), **states)
        states = {name: new[name] for name in states}
        logits = new["logits"].numpy()[0].astype(np.float64)
        rows.append(logits - np.log(np.exp(logits).sum()))
    return np.array(rows)


def test_the_end_has_its_log_probability(loaded_lines):
    harness = Harness(loaded_lines)
    checked = 0
    for seed in range(8):
        [sequence] = harness.submit(["ab"], seed=seed, temperature=1.0)
        harness.wait()
        update = harness.updates[sequence][-1][1]
        if update.finish_reason == "length":
            assert update.end_log_prob is None
            continue
        last = log_probs_after(
            loaded_lines, [*sequence.prompt_ids, *sequence.token_ids]
        )[-1]
        expected = last[loaded_lines.tokenizer.end_id]
        assert update.end_log_prob == pytest.approx(expected, abs=1e-5)
        checked += 1
    assert checked
    harness.scheduler.close(20)


def test_the_score_of_a_text_as_harnesses_ask_for_it(loaded_lines):
    """Language model evaluation harnesses echo a text, and cut one token off.

    It is the one that they have to ask for, and may be the end.
    """
    reasons = set()
    with serving(loaded_lines.path, model_name="letters") as running:
        texts = [*itertools.product(range(1, 9), repeat=2)]
        for seed, text in enumerate(texts[::2]):
            token_ids = [3, *text, 5]
            status, answer = completion(
                running, prompt=token_ids, max_tokens=1, temperature=1,
                logprobs=1, echo=True, seed=seed,
            )  # fmt: skip
            assert status == 200
            [choice] = answer["choices"]
            reasons.add(choice["finish_reason"])
            rows = log_probs_after(loaded_lines, token_ids)
            expected = [
                row[token_id] for row, token_id in zip(rows, token_ids[1:])
            ]
            got = choice["logprobs"]["token_logprobs"][1:-1]
            assert got == pytest.approx(expected, abs=1e-4)
            likeliest = choice["logprobs"]["top_logprobs"][-1]
            assert max(likeliest.values()) == pytest.approx(
                np.delete(
                    rows[-1], loaded_lines.tokenizer.unknown_id or []
                ).max(),
                abs=1e-4,
            )
    assert reasons == {"stop", "length"}


def test_min_p_of_one_is_greedy():
    logits = np.log([[0.5, 0.3, 0.2]] * 50).astype("float32")
    uniform = np.arange(50, dtype="float32") / 50
    ones = np.ones(50, "float32")
    drawn = samplers.sample(
        logits, uniform, {"temperature": ones, "min_p": ones}
    )
    assert {*drawn.numpy()} == {0}
