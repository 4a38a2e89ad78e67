"""What /metrics shows, in Prometheus' names and units."""

import prometheus_client
from prometheus_client import core


class Metrics:
    """The counts of one server.

    Args:
        repository: a `Repository`, whose places and queues are shown as they
            are when somebody asks.
    """

    def __init__(self, repository):
        self.registry = prometheus_client.CollectorRegistry()
        self.requests = prometheus_client.Counter(
            "stacked_rnn_requests",
            "Requests that were answered.",
            ["path", "code"],
            registry=self.registry,
        )
        self.seconds = prometheus_client.Histogram(
            "stacked_rnn_request_duration_seconds",
            "From a request to the end of its answer.",
            ["path"],
            registry=self.registry,
        )
        self.prompt_tokens = prometheus_client.Counter(
            "stacked_rnn_prompt_tokens",
            "Tokens of prompts.",
            ["model_name"],
            registry=self.registry,
        )
        self.generated_tokens = prometheus_client.Counter(
            "stacked_rnn_generated_tokens",
            "Tokens that were generated.",
            ["model_name"],
            registry=self.registry,
        )
        self.first_token = prometheus_client.Histogram(
            "stacked_rnn_time_to_first_token_seconds",
            "From a request to its first token.",
            ["model_name"],
            registry=self.registry,
        )
        self.between_tokens = prometheus_client.Histogram(
            "stacked_rnn_time_between_tokens_seconds",
            "Between two updates of a text.",
            ["model_name"],
            registry=self.registry,
        )
        self.registry.register(_Places(repository))


class _Places:
    """How many texts wait and grow now, for each model."""

    def __init__(self, repository):
        self._repository = repository

    def collect(self):
        """Yields the gauges."""
        waiting = core.GaugeMetricFamily(
            "stacked_rnn_texts_waiting",
            "Texts that wait for a place.",
            labels=["model_name"],
        )
        active = core.GaugeMetricFamily(
            "stacked_rnn_texts_active",
            "Texts that have a place.",
            labels=["model_name"],
        )
        info = core.GaugeMetricFamily(
            "stacked_rnn_model_info",
            "The models that are served.",
            labels=["model_name", "version"],
        )
        compiled = core.GaugeMetricFamily(
            "stacked_rnn_is_compiled",
            "1 once XLA is done: from then on texts grow at full speed.",
            labels=["model_name"],
        )
        for served in self._repository:
            info.add_metric([served.name, str(served.version)], 1)
            if not served.batcher:
                continue
            waiting.add_metric([served.name], served.batcher.num_waiting)
            active.add_metric([served.name], served.batcher.num_active)
            compiled.add_metric(
                [served.name], served.batcher.is_compiled.is_set()
            )
        yield from (waiting, active, info, compiled)
