"""Request bodies in parts, compressed, too large, or incomplete."""

import asyncio
import gzip
import json

import pytest

from stacked_rnn.serving import bodies
from stacked_rnn.serving.errors import ApiError, ClientLeftError

LIMIT = 1_000_000


def read(*parts, reader=None, ends=True, **headers):
    """Calls `Bodies.read` with parts that arrive one after the other."""
    messages = [
        {"type": "http.request", "body": part, "more_body": True}
        for part in parts
    ]
    if ends:
        messages[-1]["more_body"] = False
    else:
        messages.append({"type": "http.disconnect"})

    async def receive():
        return messages.pop(0)

    async def run():
        scope = {
            "headers": [
                (name.replace("_", "-").encode(), value.encode())
                for name, value in headers.items()
            ]
        }
        async with (reader or bodies.Bodies(LIMIT)).read(
            scope, receive
        ) as body:
            return body

    return asyncio.run(run())


def status(*parts, **options):
    with pytest.raises(ApiError) as caught:
        read(*parts, **options)
    return caught.value.status


def test_body_parts_are_joined():
    assert read(b"ab", b"", b"c") == b"abc"
    assert read(b"") == b""


def test_gzip_is_unpacked():
    packed = gzip.compress(b"text" * 1000)
    for part in (packed[:7], packed):
        read_body = read(part, packed[len(part) :], content_encoding="GZIP")
        assert read_body == b"text" * 1000
    assert read(b"as it is", content_encoding="identity") == b"as it is"
    for damaged in (b"text", packed[:-4], packed + b"more", packed * 2):
        assert status(damaged, content_encoding="gzip") == 400
    assert status(packed, content_encoding="br") == 415


def test_bodies_are_limited_before_and_after_unpacking():
    assert status(b"a" * LIMIT, b"a") == 413
    assert status(b"", content_length=str(10**30)) == 413
    assert status(gzip.compress(bytes(10**8)), content_encoding="gzip") == 413
    assert len(read(b"a" * LIMIT)) == LIMIT


def test_an_upload_that_stalls_is_refused(monkeypatch):
    with pytest.raises(ClientLeftError):
        read(b"a", ends=False)
    monkeypatch.setattr(bodies, "SECONDS", 0.01)

    async def run():
        async def receive():
            await asyncio.sleep(10)

        async with bodies.Bodies(LIMIT).read({"headers": []}, receive):
            pass

    with pytest.raises(ApiError) as caught:
        asyncio.run(run())
    assert caught.value.status == 408


def test_the_sum_of_all_bodies_is_limited(monkeypatch):
    monkeypatch.setattr(bodies, "MOST_BYTES", 10)
    reader = bodies.Bodies(LIMIT)
    assert status(b"a" * 6, b"a" * 6, reader=reader) == 503
    with pytest.raises(ClientLeftError):
        read(b"a" * 6, ends=False, reader=reader)
    assert read(b"a" * 10, reader=reader)  # the others freed their share


def test_unpacked_bodies_count(monkeypatch):
    monkeypatch.setattr(bodies, "MOST_BYTES", 100)
    reader, packing = bodies.Bodies(LIMIT), {"content_encoding": "gzip"}
    packed = [gzip.compress(b"a" * size) for size in (100, 101)]
    assert status(packed[1], reader=reader, **packing) == 503
    assert len(read(packed[0], reader=reader, **packing)) == 100
    assert read(b"a" * 100, reader=reader)  # both freed their share


@pytest.mark.parametrize(
    "body",
    ["[" * 30_000, "[" + "{}," * 30_000, '["",' * 30_000, '{"[[": [' * 30_000],
)
def test_too_many_lists_and_objects_are_refused(body):
    assert status(body.encode()) == 400


@pytest.mark.parametrize(
    "text",
    ["[" * 300_000, '\\"[{' * 100_000, "\\", '"' + "[" * 99_999, "{\\\n"],
)
def test_brackets_within_strings_do_not_count(text):
    body = json.dumps({"prompt": [text, "a"]}).encode()
    assert read(body) == body
