"""Requests that the server's own OpenAPI schema does not allow."""

import collections
import json

import pytest
from hypothesis import HealthCheck, given, settings

from tests.serving_test import active, completion, serving
from tests.serving_test import directory as directory

schemathesis = pytest.importorskip("schemathesis", reason="no schemathesis")
NEGATIVE = schemathesis.GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    "count", [200, pytest.param(5_000, marks=pytest.mark.drill)]
)
def test_they_are_refused_and_the_server_goes_on(directory, count):
    statuses = collections.Counter()
    with serving(directory, max_tokens=20) as running:
        schema = schemathesis.openapi.from_url(
            f"http://127.0.0.1:{running.port}/openapi.json"
        )
        operation = schema["/v1/completions"]["POST"]

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=NEGATIVE))
        def ask(case):
            response = case.call()
            statuses[response.status_code] += 1
            assert response.status_code < 500, response.text
            if response.status_code != 200:
                assert json.loads(response.text)["error"]["message"]

        ask()
        assert completion(running)[0] == 200
        assert active(running) == 0
    assert statuses.total() >= count
    assert statuses[400] > 0.8 * statuses.total()
