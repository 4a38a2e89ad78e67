"""Access by key, rate limit, host and origin."""

import contextlib

import pytest

from stacked_rnn import configs
from stacked_rnn.serving import access
from stacked_rnn.serving.errors import ApiError

KEYS = ("first-key", "second-key")


def build(*keys, **settings):
    if keys:
        settings["api_keys_file"] = "keys"
    return access.Access(configs.ServeConfig(**settings), keys)


def scope(method="POST", path="/v1/models", **headers):
    return {
        "method": method,
        "path": path,
        "headers": [
            (name.replace("_", "-").encode(), value.encode())
            for name, value in headers.items()
        ],
    }


def refused(guarded, **request):
    """Returns the `ApiError` that a request gets, or None."""
    try:
        with guarded.entry(scope(**request)):
            return None
    except ApiError as error:
        return error


def test_a_file_has_one_key_per_line():
    content = (
        "\ufeffkey-of-anna\r\n\r\n# keys of production\r\n kez-\u00e9-12 \n"
    )
    content = content.encode()
    assert access.read_keys(content, "keys") == ["key-of-anna", "kez-\u00e9-12"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"key-of-anna # Anna", "line 1"),
        (b"# keys\nkey-of-anna\ntwo words", "line 3"),
        (b"\nshort", "line 2.*8 characters"),
        (b"# none\n\n", "has no key"),
    ],
)
def test_a_malformed_key_is_named_by_its_line(content, message):
    with pytest.raises(configs.UserError, match=message) as caught:
        access.read_keys(content, "keys")
    assert "anna" not in str(caught.value) and "short" not in str(caught.value)


def test_only_a_bearer_key_is_accepted():
    guarded = build(*KEYS)
    for value in ("Bearer first-key", "bearer  second-key", "BEARER first-key"):
        assert not refused(guarded, authorization=value)
    for value in (
        "first-key", "Basic first-key", "Bearer", "Bearer first", "",
        "Bearer first-key second-key",
    ):  # fmt: skip
        error = refused(guarded, authorization=value)
        assert error.status == 401
        assert error.headers["www-authenticate"] == "Bearer"
    assert refused(guarded).status == 401
    for path in access.PATHS_WITHOUT_KEY:
        assert not refused(guarded, method="GET", path=path)


def test_concurrent_requests_per_key_are_limited():
    guarded = build(*KEYS, max_concurrent_per_key=2)
    first = {"authorization": "Bearer first-key"}
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(guarded.entry(scope(**first)))
        assert refused(guarded, **first).status == 429
        assert not refused(guarded, authorization="Bearer second-key")
    assert not refused(guarded, **first)


def test_requests_per_minute_and_key_are_limited(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(access.time, "monotonic", lambda: now[0])
    guarded = build(*KEYS, max_per_minute_per_key=3)
    first = {"authorization": "Bearer first-key"}
    for _ in range(3):
        assert not refused(guarded, **first)
    error = refused(guarded, **first)
    assert error.status == 429 and error.headers["retry-after"] == "20"
    assert not refused(guarded, authorization="Bearer second-key")
    now[0] += 19.9
    assert refused(guarded, **first).status == 429
    now[0] += 0.2
    assert not refused(guarded, **first)
    now[0] += 1e6  # no more than a minute's are saved up
    assert [bool(refused(guarded, **first)) for _ in range(4)] == [
        False, False, False, True,
    ]  # fmt: skip


def test_a_rate_limit_without_keys_is_refused():
    with pytest.raises(configs.UserError, match="--api_keys_file"):
        configs.ServeConfig(max_per_minute_per_key=3)


@pytest.mark.parametrize(
    ("settings", "host", "is_let_in"),
    [
        ({}, "127.0.0.1:8501", True),
        ({}, "localhost", True),
        ({}, "LOCALHOST:80", True),
        ({}, "my.localhost:80", True),
        ({}, "[::1]:8501", True),
        ({}, "192.168.1.7", True),  # no name can point elsewhere
        ({}, "evil.example:8501", False),
        ({}, "127.0.0.1.evil.example", False),
        ({"host": "localhost"}, "evil.example", False),
        ({"host": "::1"}, "evil.example", False),
        ({"host": "0.0.0.0"}, "models.example", True),
        ({"host": "10.0.0.1"}, "models.example", True),
        ({"allowed_hosts": ("Models.example",)}, "models.example:8501", True),
        ({"allowed_hosts": ("models.example",)}, "evil.example", False),
        (
            {"host": "0.0.0.0", "allowed_hosts": ("models.example",)},
            "evil.example",
            False,
        ),
    ],
)
def test_unknown_host_names_are_refused(settings, host, is_let_in):
    guarded = build(**settings)
    for method in ("GET", "POST"):
        error = refused(guarded, method=method, host=host)
        assert (error is None) == is_let_in
        if error:
            assert error.status == 403 and "--allowed_hosts" in str(error)
    assert not refused(guarded)  # HTTP/1.0 needs no Host


@pytest.mark.parametrize(
    ("origins", "origin", "is_let_in"),
    [
        ((), "http://127.0.0.1:8501", True),
        ((), "http://127.0.0.1:3000", False),
        ((), "https://evil.example", False),
        ((), "null", False),
        ((), "", False),
        (("https://my.page",), "https://my.page", True),
        (("https://my.page",), "https://other.page", False),
        (("*",), "https://any.page", True),
        (("null",), "null", True),
    ],
)
def test_unknown_origins_are_refused(origins, origin, is_let_in):
    guarded = build(cors_origins=origins)
    request = {"host": "127.0.0.1:8501", "origin": origin}
    error = refused(guarded, **request)
    assert (error is None) == is_let_in
    if error:
        assert error.status == 403 and "--cors_origins" in str(error)
    assert not refused(guarded, method="GET", **request)  # nor can they read it
