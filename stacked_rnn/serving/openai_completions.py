"""OpenAI's completions API as values: requests checked, answers put together.

No HTTP in here. What OpenAI has and this server has not is refused, never
ignored. Nothing that a client sends takes long to be refused: the first thing
that is wrong is named, and the rest not looked at.
"""

import codecs
import dataclasses
import json
import secrets
import time
import uuid
from typing import Annotated, Literal

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError

from stacked_rnn.configs import SamplingConfig
from stacked_rnn.serving import top_logprobs
from stacked_rnn.serving.errors import ApiError

MAX_TEXTS = 128  # prompts times continuations of each, in one request
MAX_STOPS = 4
MAX_STOP_LENGTH = 1_000  # characters of each
_PROMPT = (
    "a string, a list of token ids, or a list of either, none of them empty, "
    f"of at most {MAX_TEXTS}"
)
_STOP = (
    f"a string of 1 to {MAX_STOP_LENGTH:,} characters, or a list of at most "
    f"{MAX_STOPS} of them"
)


class _Object(pydantic.BaseModel):
    """A JSON object; null stands for a default."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _given(cls, values):
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        given = {name: values[name] for name in fields if name in values}
        # Each that is unknown would be an error of its own.
        unknown = next((name for name in values if name not in fields), None)
        return {
            name: value for name, value in given.items() if value is not None
        } | ({} if unknown is None else {unknown: None})


class StreamOptions(_Object):
    """How a stream ends."""

    include_usage: bool = False


def _is_unicode(text) -> bool:
    """Whether a string can be written: JSON may have half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_token_ids(value) -> bool:
    return {*map(type, value)} == {int} and min(value) >= 0


def _are_prompts(value) -> bool:
    """Whether a list is one of prompts."""
    if len(value) > MAX_TEXTS:
        return False
    kinds = {*map(type, value)}
    return (kinds == {str} and all(map(_is_unicode, value))) or (
        kinds == {list} and all(map(_are_token_ids, value))
    )


def _checked_prompt(value):
    is_right = isinstance(value, str) and _is_unicode(value)
    if isinstance(value, list):
        is_right = _are_token_ids(value) or _are_prompts(value)
    if not is_right:
        raise PydanticCustomError("prompt", f"expected {_PROMPT}")
    return value


def _checked_stop(value):
    stops = [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(
            isinstance(stop, str)
            and 1 <= len(stop) <= MAX_STOP_LENGTH
            and _is_unicode(stop)
            for stop in stops
        )
    ):
        raise PydanticCustomError("stop", f"expected {_STOP}")
    return value


TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]


def _list_of(kind, most):
    return Annotated[list[kind], Field(min_length=1, max_length=most)]


class CompletionRequest(_Object):
    """The body of POST /v1/completions; null stands for a default."""

    model: str
    # What is wrong with a union is told by each of its members, for each
    # element: these two look for themselves first.
    prompt: Annotated[
        str
        | TokenIds
        | _list_of(str, MAX_TEXTS)
        | _list_of(TokenIds, MAX_TEXTS),
        pydantic.BeforeValidator(_checked_prompt),
    ] = ""
    max_tokens: int = Field(16, ge=0)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    n: int = Field(1, ge=1, le=MAX_TEXTS)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    logprobs: int | None = Field(
        None,
        ge=0,
        le=top_logprobs.MOST,
        description="Log p of each token, and so many of the likeliest in its "
        f"place; from 1 on with at most {top_logprobs.MOST_READ:,} tokens of "
        "prompts.",
    )
    echo: bool = False
    stop: Annotated[
        _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS)],
        pydantic.BeforeValidator(_checked_stop),
    ] = []
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    user: str = ""
    # Not of OpenAI:
    top_k: int = Field(0, ge=0, lt=2**31)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    # Of OpenAI, and here without effect or refused:
    best_of: Literal[1] = 1
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    presence_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] = {}
    suffix: Literal[""] = ""

    @pydantic.field_validator(
        "best_of", "frequency_penalty", "presence_penalty", "logit_bias",
        "suffix", mode="before",
    )  # fmt: skip
    @classmethod
    def _is_off(cls, value, about):
        if value != cls.model_fields[about.field_name].default:
            raise PydanticCustomError("off", "this server does not have it")
        return value

    @property
    def prompts(self) -> list:
        """Strings, or lists of token ids."""
        is_one = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if is_one else self.prompt

    @property
    def stops(self) -> list[str]:
        """The strings that end a text."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def samplings(self) -> list[SamplingConfig]:
        """The options of each continuation of a prompt: seeds count up."""
        seed = secrets.randbelow(2**63) if self.seed is None else self.seed
        first = SamplingConfig(
            max_new_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=max(self.top_p, 1e-9),
            repetition_penalty=self.repetition_penalty,
            seed=seed % 2**63,
        )
        return [
            dataclasses.replace(first, seed=(seed + number) % 2**63)
            for number in range(self.n)
        ]


def parse(body) -> CompletionRequest:
    """Reads the body of a request, bytes, whatever its content type is.

    Raises:
        ApiError: naming the first thing that is wrong.
    """
    try:
        values = json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ApiError(400, "The body is not UTF-8") from None
    except json.JSONDecodeError as error:
        what = f"{error.msg}, character {error.pos}" if body else "it is empty"
        raise ApiError(400, f"The body is not JSON: {what}") from None
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {error}") from None
    try:
        return CompletionRequest.model_validate(values)
    except pydantic.ValidationError as error:
        [first, *_] = error.errors(include_url=False)
        name = ".".join(map(str, first["loc"]))[:100] or None
        message = {
            "model_type": "expected a JSON object",
            "extra_forbidden": "there is no such field",
            "string_unicode": "not Unicode: half a character",
        }.get(first["type"], first["msg"])
        raise ApiError(400, f"{name or 'The body'}: {message}", name) from None


class Answer:
    """The answer to a request as it grows, whole or in pieces.

    Args:
        request: a `CompletionRequest`.
        prompts: for `echoes` (text, tokens, log_probs, likely) of each prompt,
            as `piece` takes them; None in the place of the first log p and
            ranking.
    """

    def __init__(self, request, prompts):
        self._request = request
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.model,
        }
        self._prompts = prompts
        count = len(request.prompts) * request.n
        # Tokens may be parts of characters: those count where they are whole.
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = [decoder("replace") for _ in range(count)]
        self._offsets = [0] * count  # of the token that comes next
        self._num_tokens = 0

    def piece(
        self, index, text, tokens, log_probs, likely, finish_reason
    ) -> dict:
        """What is new of one text, as an event of a stream has it.

        Args:
            index: of the text.
            text: characters.
            tokens: the bytes of each token.
            log_probs: log p of each.
            likely: (log p, bytes) of the likeliest in the place of each, the
                best first; where `logprobs` is 0 or null nothing.
            finish_reason: or None.
        """
        self._num_tokens += len(tokens)
        logprobs = None
        if self._request.logprobs is not None:
            logprobs = self._logprobs(index, tokens, log_probs, likely)
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }

    def echoes(self) -> list[dict]:
        """The prompts, as the first piece of each text."""
        pieces = []
        for index in range(len(self._offsets)):
            prompt = self._prompts[index // self._request.n]
            pieces.append(self.piece(index, *prompt, None))
            self._num_tokens -= len(prompt[1])
        return pieces

    def event(self, choices, usage=None) -> dict:
        """An event of a stream."""
        event = self._head | {"choices": choices}
        if self._request.stream_options.include_usage:
            event["usage"] = usage
        return event

    def whole(self, pieces, prompt_tokens):
        """Yields the answer that all pieces add up to, as parts of its JSON.

        Args:
            pieces: of all texts, those of each in order.
            prompt_tokens: for `usage`.
        """
        by_text = [[] for _ in self._offsets]
        for piece in pieces:
            by_text[piece["index"]].append(piece)
        yield json.dumps(self._head)[:-1] + ', "choices": ['
        for index, own in enumerate(by_text):
            yield ", " * (index > 0) + json.dumps(self._choice(index, own))
        yield f'], "usage": {json.dumps(self.usage(prompt_tokens))}}}'

    def _choice(self, index, pieces):
        logprobs = None
        if self._request.logprobs is not None:
            logprobs = {
                name: [
                    one
                    for piece in pieces
                    for one in piece["logprobs"][name] or ()
                ]
                for name in pieces[0]["logprobs"]
            }
            logprobs["top_logprobs"] = logprobs["top_logprobs"] or None
        return {
            "index": index,
            "text": "".join(piece["text"] for piece in pieces),
            "logprobs": logprobs,
            "finish_reason": pieces[-1]["finish_reason"],
        }

    def usage(self, prompt_tokens) -> dict:
        """Tokens read, so many, and written."""
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._num_tokens,
            "total_tokens": prompt_tokens + self._num_tokens,
        }

    def _logprobs(self, index, tokens, log_probs, likely):
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(self._decoders[index].decode(token))
        top = None
        if self._request.logprobs:
            top = [
                place
                and {
                    _token_name(likely_token): value
                    for value, likely_token in [
                        *place[: self._request.logprobs],
                        (log_prob, token),
                    ]
                }
                for place, log_prob, token in zip(likely, log_probs, tokens)
            ]
        return {
            "tokens": [_token_name(token) for token in tokens],
            "token_logprobs": list(log_probs),
            "top_logprobs": top,
            "text_offset": offsets,
        }


def _token_name(token) -> str:
    """A token as a string; one that is part of a character as OpenAI does."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
