"""The metrics of the server, in Prometheus' formats."""

import functools
import time

import prometheus_client
from prometheus_client import core
from prometheus_client.openmetrics import exposition as openmetrics

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
    60, 120, 300,
)  # fmt: skip
_SECONDS_PER_TOKEN = (
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1,
)  # fmt: skip
_TOKENS = tuple(2**power for power in range(21))  # to a million
_GAUGES = {  # name -> help; `_StateCollector` has their values in this order
    "texts_waiting": "Sequences waiting for a slot.",
    "max_texts_waiting": "Most sequences that may wait for a slot: "
    "--max_waiting.",
    "texts_active": "Sequences that have a slot.",
    "max_texts_active": "Slots.",
    "prefix_cache_bytes": "Bytes of the prefix cache.",
    "is_compiled": "1 once XLA has compiled the model: it then has full speed.",
}
_FINISH_REASONS = ("stop", "length", "cancelled", "timeout", "error")


class Metrics:
    """The metrics of one server.

    `requests` and `seconds` cover all routes. The other metrics have the label
    `model_name` and are filled in by `ModelMetrics`.

    Args:
        repository: a `Repository`; the gauges of its slots and queues are read
            from it at each scrape.

    Attributes:
        registry: the `prometheus_client.CollectorRegistry` of all metrics.
        requests: counter by path, status code and model; the model is empty
            where a request names none or one that does not exist.
        seconds: histogram of the durations of requests, by path.
    """

    def __init__(self, repository):
        # They would double the series. This is global to the process.
        prometheus_client.disable_created_metrics()
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        self.registry.register(_StateCollector(repository))
        self._models = {}
        self.requests = self._counter(
            "requests",
            "HTTP requests answered.",
            ["path", "code", "model_name"],
        )
        self.seconds = self._histogram(
            "request_duration_seconds",
            "Time from an HTTP request to the end of its answer.",
            _SECONDS,
            ["path"],
        )
        self.predict_duration = self._histogram(
            "predict_duration_seconds",
            "Time from a :predict call to its result.",
        )
        self.prompt_tokens = self._counter(
            "prompt_tokens", "Tokens in prompts."
        )
        self.cached_tokens = self._counter(
            "cached_prompt_tokens",
            "Tokens in prompts that the prefix cache spared reading.",
        )
        self.generated_tokens = self._counter(
            "generated_tokens", "Tokens generated."
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds",
            "Time from an HTTP request to its first token.",
        )
        self.between_tokens = self._histogram(
            "time_between_tokens_seconds",
            "Time between two updates of an HTTP request; an update has one "
            "or more tokens.",
        )
        self.texts_finished = self._counter(
            "texts_finished",
            "Sequences that ended, by finish reason.",
            ["model_name", "finish_reason"],
        )
        self.queue_time = self._histogram(
            "queue_time_seconds",
            "Time in the queue, until a sequence got a slot or left.",
        )
        self.prefill_time = self._histogram(
            "prefill_time_seconds",
            "Time from getting a slot to the first token: the prompt is read.",
        )
        self.decode_time = self._histogram(
            "decode_time_seconds", "Time from the first token to the end."
        )
        self.time_per_token = self._histogram(
            "time_per_token_seconds",
            "Time per token of a sequence after the first.",
            _SECONDS_PER_TOKEN,
        )
        self.prompt_sizes = self._histogram(
            "text_prompt_tokens", "Tokens in the prompt of a sequence.", _TOKENS
        )
        self.generated_sizes = self._histogram(
            "text_generated_tokens", "Tokens generated per sequence.", _TOKENS
        )

    def of(self, model_name) -> "ModelMetrics":
        """The metrics of one model, made on the first call."""
        if model_name not in self._models:
            self._models[model_name] = ModelMetrics(self, model_name)
        return self._models[model_name]

    def exposition(self, accept="") -> tuple[bytes, str]:
        """Formats all metrics for a scrape.

        Args:
            accept: the `Accept` header of the request.

        Returns:
            (body, content type): OpenMetrics if the client accepts it,
            otherwise Prometheus' text format.
        """
        kinds = [kind.split(";")[0].strip() for kind in accept.split(",")]
        if "application/openmetrics-text" in kinds:
            body = openmetrics.generate_latest(self.registry)
            return body, openmetrics.CONTENT_TYPE_LATEST
        return prometheus_client.generate_latest(self.registry), _TEXT

    def _counter(self, name, help, labels=("model_name",)):
        return prometheus_client.Counter(
            f"stacked_rnn_{name}", help, labels, registry=self.registry
        )

    def _histogram(self, name, help, buckets=_SECONDS, labels=("model_name",)):
        return prometheus_client.Histogram(
            f"stacked_rnn_{name}", help, labels, buckets=buckets,
            registry=self.registry,
        )  # fmt: skip


class ModelMetrics:
    """Updates the metrics of one model.

    Args:
        metrics: the `Metrics` of the server.
        model_name: the label of the model.
    """

    def __init__(self, metrics, model_name):
        self._metrics, self._name = metrics, model_name
        for reason in _FINISH_REASONS:  # so that each series begins at 0
            metrics.texts_finished.labels(model_name, reason)

    # Used for each event of a stream: looking the labels up takes longer than
    # counting.

    @functools.cached_property
    def _generated(self):
        return self._metrics.generated_tokens.labels(self._name)

    @functools.cached_property
    def _between(self):
        return self._metrics.between_tokens.labels(self._name)

    def prompt(self, num_tokens, num_cached) -> None:
        """Counts the tokens of a prompt, and those not read of them."""
        self._metrics.prompt_tokens.labels(self._name).inc(num_tokens)
        self._metrics.cached_tokens.labels(self._name).inc(num_cached)

    def generated(self, num_tokens) -> None:
        """Counts tokens that a client receives."""
        self._generated.inc(num_tokens)

    def first_token(self, seconds) -> None:
        """Observes the time from a request to its first token."""
        self._metrics.first_token.labels(self._name).observe(seconds)

    def between(self, seconds) -> None:
        """Observes the time between two updates of a request."""
        self._between.observe(seconds)

    def predicted(self, seconds) -> None:
        """Observes the duration of a :predict call."""
        self._metrics.predict_duration.labels(self._name).observe(seconds)

    def finished(self, sequence, finish_reason) -> None:
        """Counts a sequence that ends now, and observes its times and sizes.

        Args:
            sequence: a `scheduler.Sequence`; the times of stages that it did
                not reach are left out.
            finish_reason: see `scheduler.Update`.
        """
        now, metrics, name = time.monotonic(), self._metrics, self._name
        metrics.texts_finished.labels(name, finish_reason).inc()
        slot_time, first = sequence.slot_time, sequence.first_token_time
        if sequence.arrival_time is not None:
            left_queue = now if slot_time is None else slot_time
            waited = left_queue - sequence.arrival_time
            metrics.queue_time.labels(name).observe(waited)
        if sequence.continuation is None:  # its prompt was not tokenized
            return
        num_tokens = len(sequence.continuation.tokens)
        metrics.prompt_sizes.labels(name).observe(sequence.num_prompt_tokens)
        metrics.generated_sizes.labels(name).observe(num_tokens)
        if first is None:
            return
        metrics.prefill_time.labels(name).observe(first - slot_time)
        metrics.decode_time.labels(name).observe(now - first)
        if (num_drawn := len(sequence.token_ids)) > 1:
            per_token = (now - first) / (num_drawn - 1)
            metrics.time_per_token.labels(name).observe(per_token)


class _StateCollector:
    """Collects the state of the models: readiness, slots and queues."""

    def __init__(self, repository):
        self._repository = repository

    def collect(self):
        """Yields the gauges, as `CollectorRegistry` asks for them."""
        ready = [*self._repository]
        yield core.GaugeMetricFamily(
            "stacked_rnn_models_ready",
            "Models that are ready.",
            value=len(ready),
        )
        info = core.GaugeMetricFamily(
            "stacked_rnn_model_info",
            "The version of each model that is ready.",
            labels=["model_name", "version"],
        )
        for served in ready:
            info.add_metric([served.name, str(served.version)], 1)
        yield info
        gauges = [
            core.GaugeMetricFamily(
                f"stacked_rnn_{name}", help, labels=["model_name"]
            )
            for name, help in _GAUGES.items()
        ]
        for served in ready:
            if scheduler := served.scheduler:
                values = (
                    scheduler.num_waiting, scheduler.max_waiting,
                    scheduler.num_active, scheduler.num_slots,
                    scheduler.prefixes.num_bytes,
                    scheduler.is_compiled.is_set(),
                )  # fmt: skip
                for gauge, value in zip(gauges, values):
                    gauge.add_metric([served.name], value)
        yield from gauges
