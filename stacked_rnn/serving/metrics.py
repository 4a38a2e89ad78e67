"""What /metrics shows, in Prometheus' names and units."""

import time

import prometheus_client
from prometheus_client import core
from prometheus_client.openmetrics import exposition as openmetrics

from stacked_rnn.serving import scheduler

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
_FINISH_REASONS = ("stop", "length", "cancelled", "timeout", "error")


class Metrics:
    """The counts of one server.

    Args:
        repository: a `Repository`, whose places and queues are shown as they
            are when somebody asks.

    Attributes:
        registry: of Prometheus' client, with all of them.
        requests: counter by path, status code and model; the latter is empty
            where a request names none that is there.
        seconds: histogram of their durations, by path.

    The others have the label `model_name` and are filled in by `ModelMetrics`.
    """

    def __init__(self, repository):
        # They double the series. The switch is one for the whole process.
        prometheus_client.disable_created_metrics()
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        self.registry.register(_Places(repository))
        self._models = {}
        self.requests = self._counter(
            "requests",
            "Requests that were answered.",
            ["path", "code", "model_name"],
        )
        self.seconds = self._histogram(
            "request_duration_seconds",
            "From a request to the end of its answer.",
            _SECONDS,
            ["path"],
        )
        self.predict_duration = self._histogram(
            "predict_duration_seconds",
            "From the start of a :predict call to its result.",
        )
        self.prompt_tokens = self._counter(
            "prompt_tokens", "Tokens of prompts."
        )
        self.generated_tokens = self._counter(
            "generated_tokens", "Tokens that were generated."
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds",
            "From a request to its first token.",
        )
        self.between_tokens = self._histogram(
            "time_between_tokens_seconds",
            "Between two updates of a request, of any number of tokens each.",
        )
        self.texts_finished = self._counter(
            "texts_finished",
            "Texts that ended, by the reason.",
            ["model_name", "finish_reason"],
        )
        self.queue_time = self._histogram(
            "queue_time_seconds",
            "How long a text waited for a place, or left without one.",
        )
        self.prefill_time = self._histogram(
            "prefill_time_seconds",
            "From a text's place to its first token: its prompt is read.",
        )
        self.decode_time = self._histogram(
            "decode_time_seconds", "From a text's first token to its end."
        )
        self.time_per_token = self._histogram(
            "time_per_token_seconds",
            "From a text's first token to its end, for each token after it.",
            _SECONDS_PER_TOKEN,
        )
        self.prompt_sizes = self._histogram(
            "text_prompt_tokens", "Tokens of the prompt of a text.", _TOKENS
        )
        self.generated_sizes = self._histogram(
            "text_generated_tokens", "Tokens generated for a text.", _TOKENS
        )

    def of(self, model_name) -> "ModelMetrics":
        """Those of one model, made when they are first asked for."""
        if model_name not in self._models:
            self._models[model_name] = ModelMetrics(self, model_name)
        return self._models[model_name]

    def exposition(self, accept="") -> tuple[bytes, str]:
        """Writes all of them down.

        Args:
            accept: the header of this name in the request.

        Returns:
            The body, in OpenMetrics where that is accepted and else in
            Prometheus' own format, and its content type.
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
    """The counts of one model.

    Args:
        metrics: the `Metrics` of the server.
        model_name: the model.
    """

    def __init__(self, metrics, model_name):
        self._metrics, self._name = metrics, model_name
        for reason in _FINISH_REASONS:  # 0 is shown before the first one
            metrics.texts_finished.labels(model_name, reason)

    def prompt(self, num_tokens) -> None:
        """Counts the tokens of a prompt."""
        self._metrics.prompt_tokens.labels(self._name).inc(num_tokens)

    def generated(self, num_tokens) -> None:
        """Counts tokens that a client is given."""
        self._metrics.generated_tokens.labels(self._name).inc(num_tokens)

    def first_token(self, seconds) -> None:
        """Notes the time from a request to its first token."""
        self._metrics.first_token.labels(self._name).observe(seconds)

    def between(self, seconds) -> None:
        """Notes the time between two updates of a request."""
        self._metrics.between_tokens.labels(self._name).observe(seconds)

    def predicted(self, seconds) -> None:
        """Notes the duration of a :predict call."""
        self._metrics.predict_duration.labels(self._name).observe(seconds)

    def finished(self, text, finish_reason) -> None:
        """Counts a text that ends now, its times and its sizes.

        Args:
            text: a `scheduler.Text`; whatever it did not come to is left out.
            finish_reason: as `scheduler.Update` has it.
        """
        now, metrics, name = time.monotonic(), self._metrics, self._name
        metrics.texts_finished.labels(name, finish_reason).inc()
        if text.submitted is not None:
            left_queue = now if text.placed is None else text.placed
            metrics.queue_time.labels(name).observe(left_queue - text.submitted)
        if text.continuation is None:  # its prompt was not even looked at
            return
        metrics.prompt_sizes.labels(name).observe(text.num_prompt_tokens)
        metrics.generated_sizes.labels(name).observe(
            len(text.continuation.tokens)
        )
        if text.first_drawn is None:
            return
        prefill, decode = text.first_drawn - text.placed, now - text.first_drawn
        metrics.prefill_time.labels(name).observe(prefill)
        metrics.decode_time.labels(name).observe(decode)
        if len(text.token_ids) > 1:
            metrics.time_per_token.labels(name).observe(
                decode / (len(text.token_ids) - 1)
            )


class _Places:
    """What is ready now, and how many texts wait and grow there."""

    def __init__(self, repository):
        self._repository = repository

    def collect(self):
        """Yields the gauges."""
        ready = [*self._repository]
        yield core.GaugeMetricFamily(
            "stacked_rnn_models_ready",
            "How many models are ready.",
            value=len(ready),
        )
        info = core.GaugeMetricFamily(
            "stacked_rnn_model_info",
            "The models that are served.",
            labels=["model_name", "version"],
        )
        for served in ready:
            info.add_metric([served.name, str(served.version)], 1)
        yield info
        for name, help, value in (
            (
                "texts_waiting",
                "Texts that wait for a place.",
                lambda batcher: batcher.num_waiting,
            ),
            (
                "max_texts_waiting",
                "Most texts that may wait for one: --max_waiting.",
                lambda batcher: batcher.max_waiting,
            ),
            (
                "texts_active",
                "Texts that have a place.",
                lambda batcher: batcher.num_active,
            ),
            (
                "max_texts_active",
                "How many places there are.",
                lambda batcher: scheduler.SIZES[-1],
            ),
            (
                "is_compiled",
                "1 once XLA is done: from then on texts grow at full speed.",
                lambda batcher: batcher.is_compiled.is_set(),
            ),
        ):
            gauge = core.GaugeMetricFamily(
                f"stacked_rnn_{name}", help, labels=["model_name"]
            )
            for served in ready:
                if served.batcher:
                    gauge.add_metric([served.name], value(served.batcher))
            yield gauge
