"""Metrics count requests and texts, in Prometheus' formats."""

import collections
import queue
import sys
import time

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from stacked_rnn import configs
from stacked_rnn.serving import metrics, scheduler
from tests.helpers.live_server import completion, request, serving
from tests.helpers.waiting import wait_until

PROMETHEUS_ACCEPTS = (  # version 2.42
    "application/openmetrics-text;version=1.0.0;q=0.75,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=0.0.4;q=0.25,*/*;q=0.1"
)


class Harness:
    """Stands for a repository of one model, with the server's metrics."""

    def __init__(self, model, **options):
        self.name, self.version = "letters", 3
        self.metrics = metrics.Metrics([self])
        self.ended = queue.Queue()  # (text, just before, just after)
        self.scheduler = scheduler.Scheduler(model, self._deliver, **options)

    def _deliver(self, updates):
        own = self.metrics.of(self.name)
        for text, update in updates:
            own.generated(len(update.tokens))
            if update.finish_reason:
                before = time.monotonic()
                own.finished(text, update.finish_reason)
                self.ended.put((text, before, time.monotonic()))

    def submit(self, prompts, **options):
        texts = [
            self.scheduler.sequence(prompt, configs.SamplingConfig(**options))
            for prompt in prompts
        ]
        self.scheduler.submit(texts)
        return texts

    def values(self):
        return values(self.metrics.exposition()[0])


def values(body):
    """(name, labels besides `le` and `model_name`) -> the sum of its values."""
    found = collections.Counter()
    for family in parser.text_string_to_metric_families(body.decode()):
        for name, labels, value, *_ in family.samples:
            rest = labels.items() - {("model_name", labels.get("model_name"))}
            if "le" not in labels:
                found[name.removeprefix("stacked_rnn_"), *sorted(rest)] += value
    return found


@pytest.fixture
def harness(loaded):
    harness = Harness(loaded)
    yield harness
    harness.scheduler.close(20)


def test_sizes_and_finish_reasons_are_counted(harness):
    prompts, new = ["", "a", "ab c", "d" * 700], [0, 1, 2, 300]
    for number in new:
        harness.submit(prompts, max_new_tokens=number)
    for _ in range(16):
        harness.ended.get(timeout=60)
    found = harness.values()
    assert found["texts_finished_total", ("finish_reason", "length")] == 16
    assert found["text_prompt_tokens_count",] == 16
    assert found["text_prompt_tokens_sum",] == 4 * (0 + 1 + 4 + 700)
    assert found["text_generated_tokens_count",] == 16
    assert found["text_generated_tokens_sum",] == 4 * sum(new)
    assert found["generated_tokens_total",] == 4 * sum(new)
    assert found["queue_time_seconds_count",] == 16
    # Texts of no token have no first one, texts of one none after it.
    assert found["prefill_time_seconds_count",] == 12
    assert found["decode_time_seconds_count",] == 12
    assert found["time_per_token_seconds_count",] == 8


def test_the_times_of_a_text_add_up(harness):
    harness.submit(["abc" * 50] * 100, max_new_tokens=90)  # 64 places
    ended = [harness.ended.get(timeout=60) for _ in range(100)]
    bounds = collections.Counter()
    for text, *then in ended:
        assert (
            text.arrival_time
            <= text.slot_time
            < text.first_token_time
            < then[0]
        )
        for at, name in zip(then, ("least", "most")):
            bounds[name] += at - text.arrival_time
            bounds[name, "per token"] += (at - text.first_token_time) / 89
    found = harness.values()
    total = sum(
        found[f"{part}_time_seconds_sum",]
        for part in ("queue", "prefill", "decode")
    )
    slack = 1e-6  # of floats
    assert bounds["least"] - slack <= total <= bounds["most"] + slack
    per_token = found["time_per_token_seconds_sum",]
    assert bounds["least", "per token"] - slack <= per_token
    assert per_token <= bounds["most", "per token"] + slack
    waited = [text.slot_time > text.arrival_time + 1e-3 for text, _, _ in ended]
    assert any(waited)


def test_a_stop_string_is_not_counted_as_generated(harness):
    [text] = harness.submit(["abc"], max_new_tokens=60, seed=3)
    harness.ended.get(timeout=60)
    whole = text.continuation.text
    before = harness.values()
    stopped = harness.scheduler.sequence(
        "abc", configs.SamplingConfig(max_new_tokens=60, seed=3), [whole[20:26]]
    )
    harness.scheduler.submit([stopped])
    harness.ended.get(timeout=60)
    found = harness.values()
    assert found["texts_finished_total", ("finish_reason", "stop")] == 1
    shown = len(whole[: whole.index(whole[20:26])])
    for name in ("text_generated_tokens_sum", "generated_tokens_total"):
        assert found[name,] - before[name,] == shown


def test_a_text_cancelled_in_the_queue_counts_its_wait_alone(harness):
    growing = harness.submit(["abc"] * 64, max_new_tokens=10**6)
    wait_until(lambda: harness.scheduler.num_active == 64)
    [waiting] = harness.submit(["abc"], max_new_tokens=5)
    waiting.is_cancelled = True
    text, *_ = harness.ended.get(timeout=60)
    assert text is waiting and text.slot_time is text.first_token_time is None
    found = harness.values()
    assert found["texts_finished_total", ("finish_reason", "cancelled")] == 1
    assert found["queue_time_seconds_count",] == 1
    for name in ("text_prompt_tokens", "prefill_time_seconds"):
        assert found[f"{name}_count",] == 0
    for text in growing:
        text.is_cancelled = True
    for _ in growing:
        harness.ended.get(timeout=60)
    # A refused text counts in no histogram.
    harness.metrics.of("letters").finished(
        harness.scheduler.sequence("abc", configs.SamplingConfig()), "error"
    )
    found = harness.values()
    assert found["texts_finished_total", ("finish_reason", "error")] == 1
    assert found["queue_time_seconds_count",] == 65


def test_gauges_show_slots_queue_and_models(harness):
    found = harness.values()
    assert found["models_ready",] == 1
    assert found["model_info", ("version", "3")] == 1
    assert found["max_texts_active",] == scheduler.NUM_SLOTS
    assert found["max_texts_waiting",] == harness.scheduler.max_waiting == 1024
    growing = harness.submit(["abc"] * 70, max_new_tokens=10**6)
    wait_until(lambda: harness.values()["texts_active",] == 64)
    assert harness.values()["texts_waiting",] == 6
    for text in growing:
        text.is_cancelled = True
    for _ in growing:
        harness.ended.get(timeout=60)
    assert metrics.Metrics([]).exposition()[0].count(b"models_ready 0.0") == 1


def test_finish_reasons_are_exposed_from_the_start():
    empty = metrics.Metrics([])
    assert empty.of("letters") is empty.of("letters")
    shown = empty.exposition()[0].decode()
    for reason in ("stop", "length", "cancelled", "timeout", "error"):
        assert (
            f'stacked_rnn_texts_finished_total{{finish_reason="{reason}",'
            'model_name="letters"} 0.0'
        ) in shown


@pytest.mark.parametrize(
    ("accept", "is_open"),
    [
        (PROMETHEUS_ACCEPTS, True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=no.number", True),
        ("text/plain;version=1.0.0,*/*;q=0.1", False),
        ("*/*", False),
        ("", False),
        (";,;", False),
    ],
)
def test_the_format_follows_the_accept_header(accept, is_open):
    server = metrics.Metrics([])
    own = server.of("letters")
    own.prompt(3, 1)
    own.first_token(0.2)
    own.between(0.001)
    own.predicted(0.5)
    server.requests.labels("/v1/completions", 200, "letters").inc()
    server.seconds.labels("/v1/completions").observe(200)
    body, content_type = server.exposition(accept)
    kind = "application/openmetrics-text" if is_open else "text/plain"
    assert content_type.startswith(f"{kind}; version=")
    parse = openmetrics_parser if is_open else parser
    families = [*parse.text_string_to_metric_families(body.decode())]
    samples = [sample for family in families for sample in family.samples]
    names = {sample.name for sample in samples}
    for name in (
        "requests_total", "request_duration_seconds_sum",
        "prompt_tokens_total", "time_to_first_token_seconds_bucket",
        "time_between_tokens_seconds_count", "predict_duration_seconds_sum",
    ):  # fmt: skip
        assert f"stacked_rnn_{name}" in names
    assert not [name for name in names if name.endswith("_created")]
    assert all(name.startswith(("stacked_rnn_", "process_")) for name in names)
    if sys.platform == "linux":
        assert {
            "process_resident_memory_bytes", "process_cpu_seconds_total",
            "process_open_fds", "process_start_time_seconds",
        } <= names  # fmt: skip
    # The buckets cover the longest and the shortest times.
    bounds = collections.defaultdict(list)
    for sample in samples:
        if "le" in sample.labels:
            bounds[sample.name].append(float(sample.labels["le"]))
    first, per_token = (
        sorted(set(bounds[f"stacked_rnn_time_{name}_seconds_bucket"]))
        for name in ("to_first_token", "between_tokens")
    )
    assert first == per_token
    assert first[0] == 0.001 and first[-2] == 300


def test_the_server_counts_its_requests(letters):
    with serving(letters.parent) as running:
        status, answer = completion(
            running, prompt=["abc", "ab"], n=2, max_tokens=7
        )
        assert status == 200, answer
        assert completion(running, max_tokens=3, stream=False)[0] == 200
        assert completion(running, model="nobody")[0] == 404
        status, _, _ = request(
            running, "POST", "/v1/models/letters:predict", {"instances": ["a"]}
        )
        assert status == 200

        def scraped():
            _, _, body = request(running, "GET", "/metrics")
            return values(body)

        def answered(found):
            return sum(
                value
                for (name, *labels), value in found.items()
                if name == "requests_total" and ("path", "/metrics")
                not in labels
            )  # fmt: skip

        wait_until(lambda: answered(scraped()) == 4)
        found = scraped()
        _, headers, body = request(
            running, "GET", "/metrics", headers={"accept": PROMETHEUS_ACCEPTS}
        )
    assert found["texts_finished_total", ("finish_reason", "length")] == 5
    assert found["prompt_tokens_total",] == 3 + 2 + 3
    assert found["text_prompt_tokens_sum",] == 2 * (3 + 2) + 3
    assert found["generated_tokens_total",] == 4 * 7 + 3
    assert found["text_generated_tokens_sum",] == 4 * 7 + 3
    assert found["queue_time_seconds_count",] == 5
    assert found["time_to_first_token_seconds_count",] == 2
    assert found["predict_duration_seconds_count",] == 1
    assert headers["content-type"].startswith("application/openmetrics-text")
    counted = {
        (sample.labels["code"], sample.labels["model_name"])
        for family in openmetrics_parser.text_string_to_metric_families(
            body.decode()
        )
        for sample in family.samples
        if sample.name == "stacked_rnn_requests_total"
        and sample.labels["path"] == "/v1/completions"
    }
    assert counted == {("200", "letters"), ("404", "")}
