"""A loaded language model: generation, beam search, evaluation."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, inference, reference, tokenizers
from tests.helpers import exports, simulated_gpu
from tests.helpers.small_models import build_generator


@pytest.fixture(scope="module")
def loaded_words(tmp_path_factory):
    """A GRU over words, loaded."""
    words = ["<unk>", " bad", " bee", " cab", " dab", " fed", " had", " hag"]
    tokenizer = tokenizers.WordTokenizer(words)
    with exports.in_memory():
        generator = build_generator(tokenizer=tokenizer, seed=4)
        return inference.load(generator.save(tmp_path_factory.mktemp("words")))


def sampling(**changes):
    return configs.SamplingConfig(**{"max_new_tokens": 30} | changes)


def test_a_loaded_model_shows_its_class_and_its_path(loaded):
    assert repr(loaded) == f"<SavedLanguageModel {loaded.path}>"


def test_samples_have_consecutive_seeds(loaded):
    samples = list(
        loaded.continuations(["abc", ""], sampling(seed=3), num_samples=2)
    )
    assert [(s.prompt, s.seed) for s in samples] == [
        ("abc", 3), ("abc", 4), ("", 3), ("", 4),
    ]  # fmt: skip
    assert all(
        s.finish_reason == "length" and len(s.text) == 30 for s in samples
    )
    assert len({s.text for s in samples}) == 4
    (alone,) = loaded.continuations(["abc"], sampling(seed=4))
    assert alone.text == samples[1].text
    assert alone.mean_log_prob == pytest.approx(
        samples[1].mean_log_prob, abs=1e-5
    )


def test_many_samples_are_split_into_batches(loaded):
    samples = list(
        loaded.continuations(["a"], sampling(max_new_tokens=2), num_samples=130)
    )
    assert [sample.seed for sample in samples] == [*range(130)]
    assert all(len(sample.tokens) == 2 for sample in samples)
    (alone,) = loaded.continuations(["a"], sampling(max_new_tokens=2, seed=129))
    assert alone.text == samples[-1].text


def test_ctrl_c_ends_the_batches_that_are_at_work(loaded, monkeypatch):
    """After the chunk of tokens that each is at, not at the end of its text."""
    yielded = []

    def decode(self, carry, rows, *_):
        for number in range(500):
            if (number, rows[0].prompt) == (9, "a"):  # all are at work by then
                os.kill(os.getpid(), signal.SIGINT)
            yielded.append(number)
            yield carry
            time.sleep(0.01)

    monkeypatch.setattr(type(loaded), "decode", decode)
    with pytest.raises(KeyboardInterrupt):
        list(loaded.continuations(["a", "b"], sampling()))
    assert max(yielded) < 499


def test_a_gpu_gets_one_large_batch(loaded, monkeypatch):
    """And XLA scores long texts; the results stay the same."""
    prompts = ["a", "", "abc"]
    texts = loaded.continuations(prompts, sampling(), num_samples=30)
    expected = [text.text for text in texts]
    score = loaded.evaluate(b"abcabca" * 40)
    simulated_gpu.plug_in(monkeypatch)
    monkeypatch.setattr(inference.language_model, "WORTH_COMPILING", 200)
    sizes, begin = [], loaded.functions.begin
    monkeypatch.setattr(
        loaded.functions,
        "begin",
        lambda prompts, seeds: (
            sizes.append(len(prompts)),
            begin(prompts, seeds),
        )[1],
    )
    texts = loaded.continuations(prompts, sampling(), num_samples=30)
    assert [text.text for text in texts] == expected
    assert sizes == [90]
    compiled = loaded.evaluate(b"abcabca" * 40)
    assert "_compiled_score_window" in vars(loaded)
    assert compiled == pytest.approx(score, abs=1e-5)


def test_stop_strings_end_the_text_and_are_left_out(loaded):
    (whole,) = loaded.continuations(["abc"], sampling())
    stop = whole.text[10:12]
    (cut,) = loaded.continuations(
        ["abc"], sampling(), stop=("never there", stop)
    )
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    (first,) = loaded.continuations(["abc"], sampling(), stop=(whole.text[0],))
    assert first.text == "" and first.mean_log_prob is None


def test_prompts_are_read_lazily(loaded):
    def prompts():
        for number in range(10**9):
            read.append(number)
            yield "abc"[number % 3] * (number % 7)

    read = []
    samples = loaded.continuations(prompts(), sampling(max_new_tokens=1))
    first = [next(samples) for _ in range(300)]
    assert [len(sample.prompt) for sample in first[:8]] == [*range(7), 0]
    assert len(read) < 2_000


def test_rows_of_a_batch_may_stop_at_different_places(loaded):
    wholes = list(loaded.continuations(["abc"], sampling(), num_samples=6))
    cuts = list(
        loaded.continuations(["abc"], sampling(), stop=("a",), num_samples=6)
    )
    for whole, cut in zip(wholes, cuts):
        assert cut.text == whole.text.split("a")[0]
        assert cut.stopped == ("a" in whole.text)
    assert len({len(cut.text) for cut in cuts}) > 1


def test_xla_gives_the_same_texts(loaded, monkeypatch):
    def texts():
        return [
            sample.text
            for sample in loaded.continuations(
                ["abc", "", "h"], sampling(top_k=6, max_new_tokens=50),
                stop=("ab",), num_samples=3,
            )
        ]  # fmt: skip

    plain = texts()
    monkeypatch.setattr(inference.language_model, "WORTH_COMPILING", 1)
    assert texts() == plain


def streamed(model, prompt, sampling, stop=()):
    text = inference.Conversation(model, sampling, stop)
    text.read(prompt)
    return list(text.write())


@pytest.mark.parametrize("stop", [(), ("a",), ("ab", "gh")])
def test_streamed_text_equals_the_unstreamed_one(loaded, loaded_bytes, stop):
    for model in (loaded, loaded_bytes):
        settings = sampling(max_new_tokens=150, seed=5)
        (whole,) = model.continuations(["abc"], settings, stop)
        pieces = streamed(model, "abc", settings, stop)
        assert "".join(pieces) == whole.text
        assert stop or len([piece for piece in pieces if piece]) >= 4


def assert_turns_continue_one_text(model, settings, stop, lines):
    """Each turn equals generation from the whole text so far.

    Returns:
        The finish reason of each turn.
    """
    talk, reasons = inference.Conversation(model, settings, stop), []
    so_far = ""
    for line in lines:
        talk.read(line)
        so_far += line
        turn = "".join(talk.write())
        (expected,) = model.continuations([so_far], settings, stop)
        assert turn == expected.text
        so_far += turn
        reasons.append(expected.finish_reason)
    return reasons


def test_a_conversation_continues_one_text(loaded):
    assert_turns_continue_one_text(
        loaded,
        sampling(max_new_tokens=20, temperature=0.0),
        ("e",),
        ("abc", "", "h g", "fed"),
    )


def test_a_conversation_forgets_what_a_stop_string_cuts_off(loaded_words):
    """Of a word, too: it goes on after the rest of it."""
    settings = sampling(max_new_tokens=8, temperature=0.0)
    reasons = assert_turns_continue_one_text(
        loaded_words, settings, ("d", "g"), (" had", "", " cab", "")
    )
    assert "stop" in reasons


def test_an_empty_turn_does_not_repeat_forever(loaded):
    settings = sampling(temperature=1.5)
    talk = inference.Conversation(loaded, settings, stop=tuple("abc"))
    talk.read("abc")
    turns = ["".join(talk.write()) for _ in range(12)]
    assert len(set(turns)) > 3


def test_surprises_cover_prompt_and_continuation(loaded):
    (sample,) = loaded.continuations(["abc"], sampling(max_new_tokens=5))
    surprisals = loaded.surprisals(sample)
    assert [given for *_, given in surprisals] == [True] * 3 + [False] * 5
    text = b"".join(token for token, *_ in surprisals).decode()
    assert text == "abc" + sample.text
    nats = [cost for _, cost, _ in surprisals]
    assert nats[0] is None
    scored = loaded.functions.signatures["score"](texts=tf.constant([text]))
    assert sum(nats[1:]) == pytest.approx(float(scored["nats"][0]), rel=1e-4)
    (nothing,) = loaded.continuations([""], sampling(max_new_tokens=0))
    assert loaded.surprisals(nothing) == []


def test_surprises_end_where_the_text_does(loaded_words):
    """A stop string may begin within a word."""
    (cut,) = loaded_words.continuations([" had"], sampling(), ("d", "g"))
    assert len(b"".join(cut.tokens)) > len(cut.text)
    tokens, nats, _ = zip(*loaded_words.surprisals(cut))
    assert b"".join(tokens).decode() == " had" + cut.text
    assert nats[1:] == pytest.approx([-one for one in cut.log_probs])


def test_surprises_of_several_documents_have_the_separators(loaded_lines):
    text = "ab\nc"
    tokens = [token for token, *_ in loaded_lines.surprisal(text).tokens]
    assert b"".join(tokens).decode() == text
    (nothing,) = loaded_lines.continuations([text], sampling(max_new_tokens=0))
    tokens = [token for token, *_ in loaded_lines.surprisals(nothing)]
    assert b"".join(tokens).decode() == text


def test_mean_log_prob_is_over_the_kept_tokens(loaded):
    (cut,) = loaded.continuations(["abc"], sampling(max_new_tokens=9))
    (whole,) = loaded.continuations(["abc"], sampling())
    assert whole.text.startswith(cut.text)
    scored = loaded.functions.signatures["score"](
        texts=tf.constant(["abc", "abc" + whole.text])
    )["nats"].numpy()
    assert whole.mean_log_prob * 30 == pytest.approx(
        scored[0] - scored[1], rel=1e-4
    )


@pytest.mark.parametrize("length", [2, 512, 513, 514, 1500])
def test_evaluate_equals_score_whatever_the_length(loaded, length):
    text = ("abc defg h" * 150)[:length].encode()
    result = loaded.evaluate(text)
    score = loaded.functions.signatures["score"](texts=tf.constant([text]))
    nats = float(score["nats"][0])
    assert result["tokens"] == length - 1
    assert result["characters"] == length
    assert result["nats_per_token"] == pytest.approx(
        nats / (length - 1), rel=1e-5
    )
    assert result["perplexity"] == pytest.approx(
        np.exp(result["nats_per_token"])
    )
    assert result["bits_per_character"] == pytest.approx(
        nats / np.log(2) / length, rel=1e-5
    )


def test_evaluate_counts_unknown_tokens_and_original_characters(
    loaded, loaded_bytes
):
    text = "abz\u00e9".encode()
    assert loaded.evaluate(text)["unknown_tokens"] == 2
    assert loaded.evaluate(b"zab")["unknown_tokens"] == 0  # the first is given
    result = loaded_bytes.evaluate(text)
    assert (result["unknown_tokens"], result["tokens"]) == (0, 4)
    assert result["characters"] == 4


def test_a_loss_that_is_no_number_is_refused(loaded):
    with pytest.raises(configs.UserError, match="--text: the loss"):
        loaded.evaluate(b"abc", lambda token_ids: np.float32([1, np.nan]))


def test_evaluating_one_token_is_refused(loaded):
    with pytest.raises(configs.UserError, match="--text"):
        loaded.evaluate(b"a")


def search(loaded, prompts, *, num_beams=3, length_penalty=1.0, **kwargs):
    values = sampling(max_new_tokens=kwargs.pop("max_new_tokens", 12))
    return list(
        loaded.likeliest_continuations(
            prompts, values, num_beams=num_beams,
            length_penalty=length_penalty, **kwargs,
        )
    )  # fmt: skip


def test_ctrl_c_does_not_wait_for_a_beam_search(loaded, monkeypatch):
    """It is one call of TensorFlow, which nothing ends before its end."""
    is_interrupted, has_ended = threading.Event(), []

    def beam_search(*_, **options):
        os.kill(os.getpid(), signal.SIGINT)
        is_interrupted.wait(10)
        has_ended.append(True)

    monkeypatch.setattr(loaded.functions, "beam_search", beam_search)
    with pytest.raises(KeyboardInterrupt):
        search(loaded, ["a"])
    assert not has_ended
    is_interrupted.set()


@pytest.mark.parametrize(
    ("fixture", "stop"), [("loaded", ("e", "\n")), ("loaded_bytes", ("e",))]
)
def test_beam_search_equals_the_reference(fixture, stop, request):
    """With prompts of several lengths and the step of the signature."""
    loaded = request.getfixturevalue(fixture)
    functions, tokenizer = loaded.functions, loaded.tokenizer
    end_ids = tokenizer.tokenize(stop).flat_values.numpy().tolist()

    def step(token_id, states):
        new = functions.signatures["decode_step"](
            token_ids=tf.constant([token_id], tf.int32), **states
        )
        return new.pop("logits").numpy()[0].astype("float64"), new

    prompts = ["abc", "", "a b c d " * 30]
    samples = iter(
        search(loaded, prompts, stop=stop, num_samples=2, length_penalty=0.7)
    )
    for prompt in prompts:
        carry = functions.begin([prompt], tf.zeros(1, tf.int64))
        (below,), (top,) = carry["states"]
        expected = reference.beam_search(
            step, int(carry["token_ids"][0]),
            {"state_0_h": below, "state_1_h": top},
            num_beams=3, max_new_tokens=12, length_penalty=0.7,
            end_ids=end_ids, banned_id=tokenizer.unknown_id,
        )  # fmt: skip
        for (_, token_ids, log_probs), sample in zip(expected[:2], samples):
            assert (sample.prompt, sample.seed) == (prompt, None)
            assert sample.tokens == loaded.token_bytes[token_ids].tolist()
            np.testing.assert_allclose(sample.log_probs, log_probs, atol=1e-4)
            assert sample.stopped == (len(token_ids) < 12)
    assert not list(samples)


def test_beam_search_of_many_prompts_keeps_their_order(loaded):
    prompts = ["abcdefgh"[: number % 9] for number in range(100)]
    samples = search(loaded, iter(prompts), num_samples=2, max_new_tokens=3)
    assert [sample.prompt for sample in samples[::2]] == prompts
    by_prompt = {}
    for pair in zip(samples[::2], samples[1::2]):
        found = [sample.text for sample in pair]
        assert by_prompt.setdefault(pair[0].prompt, found) == found
        assert pair[0].mean_log_prob >= pair[1].mean_log_prob


def test_beam_search_yields_no_text_that_does_not_exist(loaded):
    texts = search(
        loaded, ["a"], num_beams=30, num_samples=30, max_new_tokens=1
    )
    assert sorted(sample.text for sample in texts) == sorted("\n abcdefgh")


def test_beam_search_cuts_at_a_stop_string_of_several_tokens(loaded):
    (whole,) = search(loaded, ["abc"])
    stop = whole.text[5:7]
    (cut,) = search(loaded, ["abc"], stop=(stop,))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop" and len(cut.log_probs) == len(cut.text)


def test_beam_search_finds_no_text_twice(loaded):
    """Where a stop string of several tokens cuts texts to one beginning."""
    best, *others = search(loaded, ["abc"], num_beams=8, num_samples=8)
    stop = best.text[:2]
    same = [text for text in others if text.text.startswith(stop)]
    assert same and len(same) < len(others)
    first, *rest = search(
        loaded, ["abc"], num_beams=8, num_samples=8, stop=(stop,)
    )
    assert first.text == ""
    assert len({text.text for text in rest} | {""}) == 1 + len(rest)


def test_beam_search_puts_a_text_with_an_end_first(loaded):
    """A stop string of several tokens, unknown to the search itself."""
    best, *_, last = search(loaded, ["abc"], num_samples=3)
    stop = next(
        last.text[i : i + 2]
        for i in range(11)
        if last.text[i : i + 2] not in best.text
    )
    (found,) = search(loaded, ["abc"], stop=(stop,))
    assert found.finish_reason == "stop"
