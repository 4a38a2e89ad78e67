"""Sequences that share a batch get the texts that they get alone."""

import threading
import time

import numpy as np
import pytest

from stacked_rnn import configs
from stacked_rnn.serving import adjustments, scheduler
from stacked_rnn.serving.errors import BusyError
from stacked_rnn.utils import devices
from tests.helpers.schedulers import Harness, alone
from tests.helpers.waiting import wait_until


@pytest.fixture(scope="module")
def harness(loaded):
    harness = Harness(loaded)
    yield harness
    harness.scheduler.close(20)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_sequence_gets_the_text_of_generate(
    harness, loaded, monkeypatch, jit_compile
):
    if jit_compile:
        monkeypatch.setattr(scheduler, "BATCH_SIZES", (1, 64))
        harness = Harness(loaded)
        harness.scheduler.compile()
    cases = [
        {"seed": seed, **options}
        for seed in range(12)
        for options in (
            {}, {"temperature": 0.0}, {"top_k": 3, "max_new_tokens": 7},
            {"top_p": 0.7, "repetition_penalty": 1.5, "max_new_tokens": 200},
        )
    ]  # fmt: skip
    prompts = ["abc", "", "h", "a b\nc d e f" * 40]
    sequences = []
    for number, options in enumerate(cases):
        sequences += harness.submit([prompts[number % 4]], **options)
        time.sleep(0.002 * (number % 3))  # they join at any moment
    harness.wait(len(cases))
    for number, (sequence, options) in enumerate(zip(sequences, cases)):
        expected = alone(loaded, prompts[number % 4], **options)
        shown, tokens, log_probs, reason = harness.result(sequence)
        assert shown == expected.text and tokens == expected.tokens
        np.testing.assert_allclose(log_probs, expected.log_probs, atol=1e-5)
        assert reason == "length"


def texts(harness, prompts, **options):
    sequences = harness.submit(prompts, **options)
    harness.wait(len(prompts))
    return sequences, [harness.result(sequence)[0] for sequence in sequences]


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.5}])
def test_a_prompt_is_read_from_where_a_known_one_ends(loaded, options):
    harness = Harness(loaded)
    shared = "a b\nc d e f " * 100
    prompts = [shared, shared + "abc", shared + "f", "b" + shared, shared[:700]]
    expected = [alone(loaded, one, **options).text for one in prompts]
    num_tokens = len(alone(loaded, shared).prompt)
    for turn in range(2):
        for prompt, text in zip(prompts, expected):
            (sequence,), got = texts(harness, [prompt], **options)
            assert got == [text]
            is_known = turn or prompt not in (shared, "b" + shared)
            least = num_tokens - 64 if prompt != shared[:700] else 700 - 128
            assert (sequence.num_cached >= least) == bool(is_known)
            assert sequence.num_cached < len(sequence.prompt_ids)
    harness.scheduler.close(20)


def test_the_next_turn_reads_its_end_only(loaded):
    harness = Harness(loaded)
    prompt = "a b\nc d e f " * 10
    _, [answer] = texts(harness, [prompt], max_new_tokens=300)
    (sequence,), [text] = texts(harness, [prompt + answer + "abc"])
    assert sequence.num_cached >= len(prompt) + 300 - 65
    assert text == alone(loaded, prompt + answer + "abc").text
    harness.scheduler.close(20)


def test_without_a_cache_all_is_read(loaded):
    harness = Harness(loaded, cache_bytes=0)
    for _ in range(2):
        (sequence,), _ = texts(harness, ["a b\nc d e f " * 100])
        assert not sequence.num_cached
    harness.scheduler.close(20)


def test_more_sequences_than_slots(harness, loaded):
    sequences = harness.submit(["abc"] * 150, max_new_tokens=3)
    harness.wait(150)
    expected = alone(loaded, "abc", max_new_tokens=3).text
    assert all(
        harness.result(sequence)[0] == expected for sequence in sequences
    )
    assert harness.scheduler.num_active == harness.scheduler.num_waiting == 0


def test_a_prompt_of_token_ids(harness, loaded):
    token_ids = loaded.tokenizer.tokenize(["abc"]).values.numpy().tolist()
    [sequence] = harness.submit([token_ids], seed=5)
    harness.wait()
    assert harness.result(sequence)[0] == alone(loaded, "abc", seed=5).text
    with pytest.raises(configs.UserError, match="no token id 11"):
        harness.submit([[1, 11]])


def test_max_new_tokens_of_0_draws_nothing(harness):
    [sequence] = harness.submit(["abc"], max_new_tokens=0)
    harness.wait()
    assert harness.result(sequence) == ("", [], [], "length")


def test_stop_strings_end_a_sequence_and_are_not_shown(harness, loaded):
    whole = alone(loaded, "abc", max_new_tokens=400, seed=1).text
    # Long ones that lie across the borders of calls, at any place of these.
    stops = [whole[at : at + 6] for at in range(20, 120, 7)]
    sequences = [
        harness.submit(["abc"], (stop,), max_new_tokens=400, seed=1)[0]
        for stop in stops
    ]
    harness.wait(len(sequences))
    for sequence, stop in zip(sequences, stops):
        shown, tokens, log_probs, reason = harness.result(sequence)
        assert shown == whole[: whole.index(stop)] and reason == "stop"
        assert b"".join(tokens).decode() == shown
        assert len(log_probs) == len(tokens)


def test_a_cancelled_sequence_frees_its_slot(harness):
    sequences = harness.submit(["abc"] * 64, max_new_tokens=100_000)
    wait_until(lambda: harness.scheduler.num_active == 64)
    [waiting] = harness.submit(["abc"], max_new_tokens=5)
    time.sleep(0.1)
    assert waiting not in harness.updates
    for sequence in sequences:
        sequence.is_cancelled = True
    ended = harness.wait(65)
    assert set(ended) == {*sequences, waiting}
    assert harness.result(waiting)[3] == "length"
    assert {harness.result(sequence)[3] for sequence in sequences} == {
        "cancelled"
    }


def test_a_sequence_beyond_its_deadline_ends(harness):
    sequences = harness.submit(
        ["abc"] * 2, deadline=time.monotonic() + 0.2, max_new_tokens=10**6
    )
    sequences += harness.submit(["abc"], deadline=time.monotonic() - 1)
    harness.wait(3)
    assert [harness.result(sequence)[3] for sequence in sequences] == [
        "timeout"
    ] * 3


def test_waiting_sequences_are_cancelled_and_time_out(harness):
    running = harness.submit(["abc"] * 64, max_new_tokens=100_000)
    wait_until(lambda: harness.scheduler.num_active == 64)
    late = harness.submit(["abc"], deadline=time.monotonic() + 0.05)
    cancelled = harness.submit(["abc"] * 2)
    cancelled[0].is_cancelled = True
    assert {*harness.wait(2)} == {*late, cancelled[0]}
    assert harness.scheduler.num_waiting == 1
    for sequence in running:
        sequence.is_cancelled = True
    harness.wait(65)


def test_a_long_prompt_can_be_cancelled_while_it_is_read(harness):
    [long] = harness.submit(["abc d" * 20_000], max_new_tokens=1)
    wait_until(lambda: long.num_read > 1, pause=0.001)
    long.is_cancelled = True
    harness.wait()
    assert harness.result(long) == ("", [], [], "cancelled")
    assert long.num_read < 100_000


def test_requests_take_turns_for_slots(harness):
    """A request of many sequences does not delay another until they end."""
    many = harness.submit(["abc"] * 600, max_new_tokens=40)
    [one] = harness.submit(["abc"], max_new_tokens=40)
    place = harness.wait(601).index(one)
    assert place < 300
    assert {harness.result(sequence)[3] for sequence in many} == {"length"}


def test_a_long_prompt_is_read_while_others_decode(harness):
    [running] = harness.submit(["abc"], max_new_tokens=100_000)
    wait_until(lambda: running in harness.updates, pause=0.001)
    began = time.monotonic()
    [long] = harness.submit(["abc d" * 400], max_new_tokens=1)
    harness.wait()
    while_reading = [
        at
        for at, _ in harness.updates[running]
        if began < at < harness.updates[long][0][0]
    ]
    assert len(while_reading) > 2_000 / scheduler.CHUNK / 2
    running.is_cancelled = True
    harness.wait()


@pytest.mark.parametrize(
    "cores, sizes", [(1, [24]), (2, [12, 12]), (3, [8] * 3)]
)
def test_each_core_decodes_its_share(loaded, monkeypatch, cores, sizes):
    monkeypatch.setattr(devices, "cores", lambda: cores)
    decode, calls = scheduler.Scheduler._decode, threading.Barrier(cores + 1)

    def decode_together(self, lane):
        if len(calling) < cores:
            calling.append(len(lane.batch.sequences))
            calls.wait(60)
        decode(self, lane)

    calling = []
    monkeypatch.setattr(scheduler.Scheduler, "_decode", decode_together)
    harness = Harness(loaded)
    sequences = harness.submit(["abc", "", "h"] * 8)
    calls.wait(60)
    assert calling == sizes
    harness.wait(len(sequences))
    for sequence in sequences:
        expected = alone(loaded, sequence.prompt.decode())
        assert harness.result(sequence)[0] == expected.text
    harness.scheduler.close(10)


def test_a_few_sequences_share_a_call(loaded, monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 2)
    decode, calling = scheduler.Scheduler._decode, []

    def noted(self, lane):
        calling.append(len(lane.batch.sequences))
        decode(self, lane)

    monkeypatch.setattr(scheduler.Scheduler, "_decode", noted)
    harness = Harness(loaded)
    harness.submit(["abc"] * 8)
    harness.wait(8)
    assert {*calling} == {8}
    harness.scheduler.close(10)


def test_all_slots_are_taken_by_one_lane_or_by_several(loaded, monkeypatch):
    for cores, slots in ((1, 64), (3, 63), (16, 64)):
        monkeypatch.setattr(devices, "cores", lambda cores=cores: cores)
        harness = Harness(loaded)
        harness.submit(["abc"] * 100, max_new_tokens=300)
        assert harness.scheduler.num_slots == slots
        wait_until(
            lambda harness=harness, slots=slots: (
                harness.scheduler.num_active == slots
            )
        )
        harness.wait(100)
        harness.scheduler.close(10)


ADJUSTED = adjustments.Adjustment(presence_penalty=1.0)


def test_while_adjustments_are_traced_other_lanes_decode(loaded, monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 2)
    find, may_find = scheduler.Scheduler._find_function, threading.Event()

    def find_later(self, size, adjusts, jit_compile):
        assert not adjusts or may_find.wait(60)
        find(self, size, adjusts, jit_compile)

    monkeypatch.setattr(scheduler.Scheduler, "_find_function", find_later)
    harness = Harness(loaded)
    adjusted = harness.submit(["abc"], adjustment=ADJUSTED)
    wait_until(lambda: harness.scheduler.num_active == 1)
    plain = harness.submit(["abc"])
    assert harness.wait() == plain
    may_find.set()
    assert harness.wait() == adjusted
    harness.scheduler.close(10)


def test_a_compiled_loop_is_not_replaced_by_a_slower_one(harness):
    """Where the thread that compiles was faster than a lane that traced."""
    key, compiled = (1, True), object()
    functions = harness.scheduler._decode_functions
    functions[key] = compiled
    harness.scheduler._find_function(*key, jit_compile=False)
    assert functions.pop(key) is compiled


def test_a_sequence_that_gets_its_slot_is_active(loaded, monkeypatch):
    harness = Harness(loaded)
    tokenize, goes_on = scheduler.Scheduler.tokenize, threading.Event()

    def tokenize_later(self, sequences):
        assert goes_on.wait(60)
        tokenize(self, sequences)

    monkeypatch.setattr(scheduler.Scheduler, "tokenize", tokenize_later)
    harness.submit(["abc"])
    wait_until(lambda: not harness.scheduler.num_waiting)
    assert harness.scheduler.num_active == 1
    goes_on.set()
    harness.wait()
    harness.scheduler.close(10)


def test_a_full_queue_raises_busy_error(loaded, harness):
    small = Harness(loaded, max_waiting=3)
    with pytest.raises(BusyError):
        small.submit(["abc"] * 4)
    small.submit(["abc"] * 3, max_new_tokens=1)
    small.wait(3)
    small.scheduler.close(10)


def test_cancelled_sequences_do_not_fill_the_queue(loaded, monkeypatch):
    """Not even during a call, before they are dropped."""
    decode, goes_on = scheduler.Scheduler._decode, threading.Event()

    def decode_later(self, lane):
        assert goes_on.wait(60)
        decode(self, lane)

    monkeypatch.setattr(devices, "cores", lambda: 1)
    monkeypatch.setattr(scheduler.Scheduler, "_decode", decode_later)
    harness = Harness(loaded, max_waiting=3)
    harness.submit(["abc"], max_new_tokens=1)
    wait_until(lambda: not harness.scheduler.num_waiting)
    left = harness.submit(["abc"] * 3)
    with pytest.raises(BusyError):
        harness.submit(["abc"])
    for sequence in left:
        sequence.is_cancelled = True
    assert harness.scheduler.num_waiting == 0
    staying = harness.submit(["abc"] * 3, max_new_tokens=1)
    assert harness.scheduler.num_waiting == 3
    goes_on.set()
    harness.wait(7)
    assert {harness.result(sequence)[3] for sequence in left} == {"cancelled"}
    assert {harness.result(sequence)[3] for sequence in staying} == {"length"}
    harness.scheduler.close(10)


def test_close_lets_sequences_end(loaded):
    harness = Harness(loaded)
    sequences = harness.submit(["abc"] * 70, max_new_tokens=300)
    harness.scheduler.close(60)
    assert {harness.result(sequence)[3] for sequence in sequences} == {"length"}
    with pytest.raises(scheduler.ClosedError):
        harness.submit(["abc"])


def test_a_failed_batch_does_not_stop_later_ones(loaded, monkeypatch):
    harness = Harness(loaded)
    decode, failed = scheduler.Scheduler._decode, threading.Event()

    def fail_once(self, lane):
        if not failed.is_set():
            failed.set()
            raise RuntimeError("planted")
        decode(self, lane)

    monkeypatch.setattr(scheduler.Scheduler, "_decode", fail_once)
    [first] = harness.submit(["abc"])
    harness.wait()
    [second] = harness.submit(["abc"])
    harness.wait()
    assert harness.result(first)[3] == "error"
    assert harness.result(second)[3] == "length"
    harness.scheduler.close(10)


def test_bytes_are_shown_as_whole_characters(loaded_bytes):
    harness = Harness(loaded_bytes)
    [sequence] = harness.submit(["abc"], max_new_tokens=300)
    harness.wait()
    shown, tokens, _, _ = harness.result(sequence)
    assert len(tokens) == 300
    assert shown == b"".join(tokens).decode("utf-8", "replace")
    harness.scheduler.close(10)


def test_an_end_of_text_token_ends_a_sequence(loaded_lines):
    harness = Harness(loaded_lines)
    for seed in range(5):
        [sequence] = harness.submit(["abc"], seed=seed, max_new_tokens=200)
        harness.wait()
        shown, _, _, reason = harness.result(sequence)
        expected = alone(loaded_lines, "abc", seed=seed, max_new_tokens=200)
        assert (shown, reason) == (expected.text, expected.finish_reason)
    assert reason == "stop"
    harness.scheduler.close(10)
