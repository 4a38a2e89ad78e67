"""OpenAI's completions API without HTTP: checking requests, building answers.

OpenAI's options that this server lacks are refused, never ignored. A request is
refused at its first error, so that refusing a huge invalid one is fast.
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

MAX_SEQUENCES = 128  # per request: prompts times n
MAX_STOPS = 4
MAX_STOP_LENGTH = 1_000  # characters
_PROMPT = (
    "a string, a list of token ids, or a list of at most "
    f"{MAX_SEQUENCES} strings or lists of token ids; no empty list"
)
_STOP = (
    f"a string of 1 to {MAX_STOP_LENGTH:,} characters, or a list of at most "
    f"{MAX_STOPS} of them"
)


class _Object(pydantic.BaseModel):
    """A JSON object in which null stands for the default."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values):
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        present = {name: values[name] for name in fields if name in values}
        # Only the first unknown field: each one would be an error of its own.
        unknown = next((name for name in values if name not in fields), None)
        return {
            name: value for name, value in present.items() if value is not None
        } | ({} if unknown is None else {unknown: None})


class StreamOptions(_Object):
    """Options of a stream."""

    include_usage: bool = False


def _is_unicode(text) -> bool:
    """Whether UTF-8 can encode a string: JSON allows lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_token_ids(value) -> bool:
    return {*map(type, value)} == {int} and min(value) >= 0


def _are_prompts(value) -> bool:
    """Whether a list consists of strings, or of lists of token ids."""
    if len(value) > MAX_SEQUENCES:
        return False
    kinds = {*map(type, value)}
    return (kinds == {str} and all(map(_is_unicode, value))) or (
        kinds == {list} and all(map(_are_token_ids, value))
    )


def _checked_prompt(value):
    is_valid = isinstance(value, str) and _is_unicode(value)
    if isinstance(value, list):
        is_valid = _are_token_ids(value) or _are_prompts(value)
    if not is_valid:
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
_SOME = Field(min_length=1, max_length=MAX_SEQUENCES)
_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]


class CompletionRequest(_Object):
    """The body of POST /v1/completions; null stands for a default."""

    model: str
    # Validating a union gives an error per member and element. So `prompt` and
    # `stop` are checked by functions first, which raise a single one.
    prompt: Annotated[
        str
        | TokenIds
        | Annotated[list[str], _SOME]
        | Annotated[list[TokenIds], _SOME],
        pydantic.BeforeValidator(_checked_prompt),
    ] = ""
    max_tokens: int = Field(16, ge=0)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    n: int = Field(1, ge=1, le=MAX_SEQUENCES)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    logprobs: int | None = Field(
        None,
        ge=0,
        le=top_logprobs.MOST,
        description="Returns log p of each token, and this many of the most "
        "likely tokens at its position. From 1 on, the prompts may have "
        f"{top_logprobs.MOST_READ:,} tokens in all.",
    )
    echo: bool = False
    stop: Annotated[
        _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS)],
        pydantic.BeforeValidator(_checked_stop),
    ] = []
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    user: str = ""
    # Not in OpenAI's API:
    top_k: int = Field(0, ge=0, lt=2**31)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    # In OpenAI's API; anything but the default is refused:
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
    def _check_default(cls, value, info):
        if value != cls.model_fields[info.field_name].default:
            raise PydanticCustomError("off", "not supported by this server")
        return value

    @property
    def prompts(self) -> list:
        """The prompts: strings, or lists of token ids."""
        prompt = self.prompt
        if isinstance(prompt, str) or isinstance(prompt[0], int):
            return [prompt]
        return [*prompt]

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def samplings(self) -> list[SamplingConfig]:
        """The options of the `n` continuations of a prompt: seeds count up."""
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
            dataclasses.replace(first, seed=(seed + index) % 2**63)
            for index in range(self.n)
        ]


def parse(body) -> CompletionRequest:
    """Parses and checks the body of a request.

    Args:
        body: JSON, bytes.

    Raises:
        ApiError: the first error in it.
    """
    try:
        values = json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ApiError(400, "The body is not UTF-8") from None
    except json.JSONDecodeError as error:
        reason = (
            f"{error.msg}, character {error.pos}" if body else "it is empty"
        )
        raise ApiError(400, f"The body is not JSON: {reason}") from None
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
            "string_unicode": "not Unicode: a lone surrogate",
        }.get(first["type"], first["msg"])
        raise ApiError(400, f"{name or 'The body'}: {message}", name) from None


class Answer:
    """Builds the answer to a request, in pieces or as a whole.

    Args:
        request: a `CompletionRequest`.
        prompts: for `echoes`, a tuple (text, tokens, log_probs, likeliest) per
            prompt, see `piece`. The first token of a prompt has None in place
            of its log p and of its likeliest tokens.
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
        # A character may be split between tokens: the last one counts it.
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = [decoder("replace") for _ in range(count)]
        self._offsets = [0] * count  # characters before the next token
        self._num_tokens = 0

    def piece(
        self, index, text, tokens, log_probs, likeliest, finish_reason
    ) -> dict:
        """Builds a choice of a stream: the new part of one sequence.

        Args:
            index: the index of the sequence in the answer.
            text: the new text.
            tokens: the bytes of each new token.
            log_probs: log p of each new token.
            likeliest: a list of (log p, bytes) per new token: the most likely
                tokens at its position, the best first. Empty if `logprobs` is
                0 or null.
            finish_reason: "stop", "length" or None.
        """
        self._num_tokens += len(tokens)
        logprobs = None
        if self._request.logprobs is not None:
            logprobs = self._logprobs(index, tokens, log_probs, likeliest)
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }

    def echoes(self) -> list[dict]:
        """Builds the prompt as the first piece of each sequence."""
        pieces = []
        for index in range(len(self._offsets)):
            prompt = self._prompts[index // self._request.n]
            pieces.append(self.piece(index, *prompt, None))
            self._num_tokens -= len(prompt[1])
        return pieces

    def event(self, choices, usage=None) -> dict:
        """Builds an event of a stream."""
        event = self._head | {"choices": choices}
        if self._request.stream_options.include_usage:
            event["usage"] = usage
        return event

    def whole(self, pieces, prompt_tokens):
        """Yields the whole answer as parts of its JSON.

        Args:
            pieces: all `piece`s, those of each sequence in order.
            prompt_tokens: number of tokens in the prompts.
        """
        by_index = [[] for _ in self._offsets]
        for piece in pieces:
            by_index[piece["index"]].append(piece)
        yield json.dumps(self._head)[:-1] + ', "choices": ['
        for index, own in enumerate(by_index):
            yield ", " * (index > 0) + json.dumps(self._choice(index, own))
        yield f'], "usage": {json.dumps(self.usage(prompt_tokens))}}}'

    def _choice(self, index, pieces):
        logprobs = None
        if self._request.logprobs is not None:
            logprobs = {
                name: [
                    value
                    for piece in pieces
                    for value in piece["logprobs"][name] or ()
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
        """Builds the token counts of the answer."""
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._num_tokens,
            "total_tokens": prompt_tokens + self._num_tokens,
        }

    def _logprobs(self, index, tokens, log_probs, likeliest):
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(self._decoders[index].decode(token))
        top = None
        if self._request.logprobs:
            top = [
                ranked
                and {
                    _token_name(ranked_token): value
                    for value, ranked_token in [
                        *ranked[: self._request.logprobs],
                        (log_prob, token),
                    ]
                }
                for ranked, log_prob, token in zip(likeliest, log_probs, tokens)
            ]
        return {
            "tokens": [_token_name(token) for token in tokens],
            "token_logprobs": list(log_probs),
            "top_logprobs": top,
            "text_offset": offsets,
        }


def _token_name(token) -> str:
    """A token as a string; as OpenAI does, escaped if it is not whole UTF-8."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
