"""Texts that join and leave a batch are the texts that they are alone."""

import queue
import threading
import time

import numpy as np
import pytest

from stacked_rnn import configs, inference, tokenizers
from stacked_rnn.serving import scheduler
from tests.helpers.small_models import build_generator
from tests.helpers.waiting import wait_until


class Harness:
    """A `Batcher`, and what it delivered: text -> list of updates."""

    def __init__(self, model, **options):
        self.updates = {}
        self.ended = queue.Queue()
        self.batcher = scheduler.Batcher(
            model, self._deliver, **{"jit_compile": False} | options
        )

    def _deliver(self, updates):
        for text, update in updates:
            self.updates.setdefault(text, []).append((time.monotonic(), update))
            if update.finish_reason:
                self.ended.put(text)

    def submit(self, prompts, stop=(), deadline=np.inf, **options):
        settings = {"max_new_tokens": 50} | options
        texts = [
            self.batcher.text(
                prompt, configs.SamplingConfig(**settings), stop, deadline
            )
            for prompt in prompts
        ]
        self.batcher.submit(texts)
        return texts

    def wait(self, count=1):
        return [self.ended.get(timeout=60) for _ in range(count)]

    def result(self, text):
        """(text, tokens, log_probs, finish_reason) of all updates together."""
        updates = [update for _, update in self.updates[text]]
        assert all(update.finish_reason is None for update in updates[:-1])
        return (
            "".join(update.text for update in updates),
            [token for update in updates for token in update.tokens],
            [value for update in updates for value in update.log_probs],
            updates[-1].finish_reason,
        )


@pytest.fixture(scope="module")
def harness(loaded):
    harness = Harness(loaded)
    yield harness
    harness.batcher.close(20)


def alone(model, prompt, stop=(), **options):
    settings = {"max_new_tokens": 50} | options
    (text,) = model.generate([prompt], configs.SamplingConfig(**settings), stop)
    return text


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_text_is_what_generate_makes_of_it(
    harness, loaded, monkeypatch, jit_compile
):
    if jit_compile:
        monkeypatch.setattr(scheduler, "SIZES", (1, 64))
        harness = Harness(loaded, jit_compile=True)
        assert harness.batcher.is_compiled.wait(120)
    cases = [
        {"seed": seed, **options}
        for seed in range(12)
        for options in (
            {}, {"temperature": 0.0}, {"top_k": 3, "max_new_tokens": 7},
            {"top_p": 0.7, "repetition_penalty": 1.5, "max_new_tokens": 200},
        )
    ]  # fmt: skip
    prompts = ["abc", "", "h", "a b\nc d e f" * 40]
    texts = []
    for number, options in enumerate(cases):
        texts += harness.submit([prompts[number % 4]], **options)
        time.sleep(0.002 * (number % 3))  # they join at any moment
    harness.wait(len(cases))
    for number, (text, options) in enumerate(zip(texts, cases)):
        expected = alone(loaded, prompts[number % 4], **options)
        shown, tokens, log_probs, reason = harness.result(text)
        assert shown == expected.text and tokens == expected.tokens
        np.testing.assert_allclose(log_probs, expected.log_probs, atol=1e-5)
        assert reason == "length"


def test_more_texts_than_places(harness, loaded):
    texts = harness.submit(["abc"] * 150, max_new_tokens=3)
    harness.wait(150)
    expected = alone(loaded, "abc", max_new_tokens=3).text
    assert all(harness.result(text)[0] == expected for text in texts)
    assert harness.batcher.num_active == harness.batcher.num_waiting == 0


def test_a_prompt_of_token_ids(harness, loaded):
    token_ids = loaded.tokenizer.tokenize(["abc"]).values.numpy().tolist()
    [text] = harness.submit([token_ids], seed=5)
    harness.wait()
    assert harness.result(text)[0] == alone(loaded, "abc", seed=5).text
    with pytest.raises(configs.UserError, match="no token id 11"):
        harness.submit([[1, 11]])


def test_no_tokens_at_all(harness):
    [text] = harness.submit(["abc"], max_new_tokens=0)
    harness.wait()
    assert harness.result(text) == ("", [], [], "length")


def test_stop_strings_end_a_text_and_are_not_shown(harness, loaded):
    whole = alone(loaded, "abc", max_new_tokens=400, seed=1).text
    # Long ones that lie across the borders of calls, at any place of these.
    stops = [whole[at : at + 6] for at in range(20, 120, 7)]
    texts = [
        harness.submit(["abc"], (stop,), max_new_tokens=400, seed=1)[0]
        for stop in stops
    ]
    harness.wait(len(texts))
    for text, stop in zip(texts, stops):
        shown, tokens, log_probs, reason = harness.result(text)
        assert shown == whole[: whole.index(stop)] and reason == "stop"
        assert b"".join(tokens).decode() == shown
        assert len(log_probs) == len(tokens)


def test_a_cancelled_text_gives_its_place_to_another(harness):
    texts = harness.submit(["abc"] * 64, max_new_tokens=100_000)
    wait_until(lambda: harness.batcher.num_active == 64)
    [waiting] = harness.submit(["abc"], max_new_tokens=5)
    time.sleep(0.1)
    assert waiting not in harness.updates
    for text in texts:
        text.cancelled = True
    ended = harness.wait(65)
    assert set(ended) == {*texts, waiting}
    assert harness.result(waiting)[3] == "length"
    assert {harness.result(text)[3] for text in texts} == {"cancelled"}


def test_a_text_beyond_its_deadline_ends(harness):
    texts = harness.submit(
        ["abc"] * 2, deadline=time.monotonic() + 0.2, max_new_tokens=10**6
    )
    texts += harness.submit(["abc"], deadline=time.monotonic() - 1)
    harness.wait(3)
    assert [harness.result(text)[3] for text in texts] == ["timeout"] * 3


def test_texts_that_have_no_place_yet_end_too(harness):
    growing = harness.submit(["abc"] * 64, max_new_tokens=100_000)
    wait_until(lambda: harness.batcher.num_active == 64)
    late = harness.submit(["abc"], deadline=time.monotonic() + 0.05)
    cancelled = harness.submit(["abc"] * 2)
    cancelled[0].cancelled = True
    assert {*harness.wait(2)} == {*late, cancelled[0]}
    assert harness.batcher.num_waiting == 1
    for text in growing:
        text.cancelled = True
    harness.wait(65)


def test_a_prompt_is_not_read_to_its_end_for_nobody(harness):
    [long] = harness.submit(["abc d" * 20_000], max_new_tokens=1)
    wait_until(lambda: long.num_read > 1, pause=0.001)
    long.cancelled = True
    harness.wait()
    assert harness.result(long) == ("", [], [], "cancelled")
    assert long.num_read < 100_000


def test_requests_take_turns(harness):
    """One that asks for many texts does not make another wait for them all."""
    many = harness.submit(["abc"] * 600, max_new_tokens=40)
    [one] = harness.submit(["abc"], max_new_tokens=40)
    place = harness.wait(601).index(one)
    assert place < 300
    assert {harness.result(text)[3] for text in many} == {"length"}


def test_a_long_prompt_is_read_while_others_grow(harness):
    [growing] = harness.submit(["abc"], max_new_tokens=100_000)
    wait_until(lambda: growing in harness.updates, pause=0.001)
    began = time.monotonic()
    [long] = harness.submit(["abc d" * 400], max_new_tokens=1)
    harness.wait()
    while_reading = [
        at
        for at, _ in harness.updates[growing]
        if began < at < harness.updates[long][0][0]
    ]
    assert len(while_reading) > 2_000 / scheduler.CHUNK / 2
    growing.cancelled = True
    harness.wait()


def test_a_full_queue_says_so(loaded, harness):
    small = Harness(loaded, max_waiting=3)
    with pytest.raises(scheduler.BusyError):
        small.submit(["abc"] * 4)
    small.submit(["abc"] * 3, max_new_tokens=1)
    small.wait(3)
    small.batcher.close(10)


def test_texts_that_nobody_waits_for_do_not_fill_the_queue(loaded, monkeypatch):
    """Also while a call lasts, after which they are dropped."""
    grow, goes_on = scheduler.Batcher._grow, threading.Event()

    def grow_later(self):
        assert goes_on.wait(60)
        grow(self)

    monkeypatch.setattr(scheduler.Batcher, "_grow", grow_later)
    harness = Harness(loaded, max_waiting=3)
    harness.submit(["abc"], max_new_tokens=1)
    wait_until(lambda: not harness.batcher.num_waiting)
    left = harness.submit(["abc"] * 3)
    with pytest.raises(scheduler.BusyError):
        harness.submit(["abc"])
    for text in left:
        text.cancelled = True
    assert harness.batcher.num_waiting == 0
    staying = harness.submit(["abc"] * 3, max_new_tokens=1)
    assert harness.batcher.num_waiting == 3
    goes_on.set()
    harness.wait(7)
    assert {harness.result(text)[3] for text in left} == {"cancelled"}
    assert {harness.result(text)[3] for text in staying} == {"length"}
    harness.batcher.close(10)


def test_closing_lets_the_texts_end(loaded):
    harness = Harness(loaded)
    texts = harness.submit(["abc"] * 70, max_new_tokens=300)
    harness.batcher.close(60)
    assert {harness.result(text)[3] for text in texts} == {"length"}
    with pytest.raises(scheduler.ClosedError):
        harness.submit(["abc"])


def test_texts_that_fail_do_not_stop_those_after_them(loaded, monkeypatch):
    harness = Harness(loaded)
    grow, failed = scheduler.Batcher._grow, threading.Event()

    def fail_once(self):
        if not failed.is_set():
            failed.set()
            raise RuntimeError("planted")
        grow(self)

    monkeypatch.setattr(scheduler.Batcher, "_grow", fail_once)
    [first] = harness.submit(["abc"])
    harness.wait()
    [second] = harness.submit(["abc"])
    harness.wait()
    assert harness.result(first)[3] == "error"
    assert harness.result(second)[3] == "length"
    harness.batcher.close(10)


def test_bytes_are_shown_as_whole_characters(tmp_path):
    generator = build_generator(tokenizer=tokenizers.ByteTokenizer())
    model = inference.load(generator.save(tmp_path))
    harness = Harness(model)
    [text] = harness.submit(["abc"], max_new_tokens=300)
    harness.wait()
    shown, tokens, _, _ = harness.result(text)
    assert len(tokens) == 300
    assert shown == b"".join(tokens).decode("utf-8", "replace")
    harness.batcher.close(10)


def test_an_end_of_text_token_ends_a_text(tmp_path):
    tokenizer = tokenizers.build("char", b"\n abcdefg|", document_separator="|")
    generator = build_generator(tokenizer=tokenizer, end_of_text=True)
    model = inference.load(generator.save(tmp_path))
    harness = Harness(model)
    for seed in range(5):
        [text] = harness.submit(["abc"], seed=seed, max_new_tokens=200)
        harness.wait()
        shown, _, _, reason = harness.result(text)
        expected = alone(model, "abc", seed=seed, max_new_tokens=200)
        assert (shown, reason) == (expected.text, expected.finish_reason)
    assert reason == "stop"
    harness.batcher.close(10)
