"""Requests that violate the server's OpenAPI document."""

import collections
import json

import pytest
from hypothesis import HealthCheck, given, settings

from tests.helpers.live_server import active, completion, serving

schemathesis = pytest.importorskip("schemathesis", reason="no schemathesis")
NEGATIVE = schemathesis.GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    "count", [30, pytest.param(5_000, marks=pytest.mark.drill)]
)
@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/models/{model}:predict"]
)
def test_malformed_requests_are_refused_and_the_server_goes_on(
    letters, path, count
):
    statuses = collections.Counter()
    with serving(letters.parent, max_tokens=20) as running:
        schema = schemathesis.openapi.from_url(
            f"http://127.0.0.1:{running.port}/openapi.json"
        )
        malformed = schema[path]["POST"].as_strategy(
            generation_mode=NEGATIVE,
            path_parameters={"model": "letters"} if "{" in path else None,
        )

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=malformed)
        def ask(case):
            response = case.call()
            statuses[response.status_code] += 1
            assert response.status_code < 500, response.text
            if response.status_code != 200:
                error = json.loads(response.text)["error"]
                # OpenAI's form, or TensorFlow Serving's.
                assert error["message"] if isinstance(error, dict) else error

        ask()
        assert completion(running)[0] == 200
        assert active(running) == 0
    assert statuses.total() >= count
    assert statuses[400] > 0.6 * statuses.total()
