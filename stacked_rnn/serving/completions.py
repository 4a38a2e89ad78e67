"""OpenAI's completions API as values: requests checked, answers put together.

No HTTP in here. What OpenAI has and this server has not is refused, never
ignored.
"""

import codecs
import dataclasses
import secrets
import time
import uuid
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from stacked_rnn.configs import SamplingConfig
from stacked_rnn.serving import rankings

MAX_TEXTS = 128  # prompts times continuations of each, in one request


class ApiError(Exception):
    """An answer that is an error, as OpenAI writes it.

    Attributes:
        status: of HTTP.
        body: what JSON can say.
    """

    def __init__(self, status, message, param=None, code=None):
        super().__init__(message)
        self.status = status
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        by_class = "invalid_request_error" if status < 500 else "server_error"
        self.body = {
            "error": {
                "message": message,
                "type": kinds.get(status, by_class),
                "param": param,
                "code": code,
            }
        }


class StreamOptions(pydantic.BaseModel):
    """How a stream ends."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(pydantic.BaseModel):
    """The body of POST /v1/completions; null stands for a default."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    model: str
    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[TokenIds], Field(min_length=1)]
    ) = ""
    max_tokens: int = Field(16, ge=0)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    n: int = Field(1, ge=1, le=MAX_TEXTS)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    logprobs: int | None = Field(
        None,
        ge=0,
        le=rankings.MOST,
        description="Log p of each token, and so many of the likeliest in its "
        f"place; from 1 on with at most {rankings.MOST_READ:,} tokens of "
        "prompts.",
    )
    echo: bool = False
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[
            list[Annotated[str, Field(min_length=1)]], Field(max_length=4)
        ]
    ) = []
    seed: int | None = Field(None, ge=0, lt=2**63)
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

    @pydantic.model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, values):
        if not isinstance(values, dict):
            return values
        return {name: one for name, one in values.items() if one is not None}

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
            seed=seed,
        )
        return [
            dataclasses.replace(first, seed=(seed + number) % 2**63)
            for number in range(self.n)
        ]


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

    def whole(self, pieces, prompt_tokens) -> dict:
        """The answer that all pieces add up to; `usage` takes the number."""
        choices = []
        for index in range(len(self._offsets)):
            own = [piece for piece in pieces if piece["index"] == index]
            choice = {
                "index": index,
                "text": "".join(piece["text"] for piece in own),
                "logprobs": None,
                "finish_reason": own[-1]["finish_reason"],
            }
            if self._request.logprobs is not None:
                choice["logprobs"] = {
                    name: [
                        one for piece in own for one in piece["logprobs"][name]
                    ]
                    for name in ("tokens", "token_logprobs", "text_offset")
                }
                top = [
                    one
                    for piece in own
                    for one in piece["logprobs"]["top_logprobs"] or ()
                ]
                choice["logprobs"]["top_logprobs"] = top or None
            choices.append(choice)
        return self._head | {
            "choices": choices,
            "usage": self.usage(prompt_tokens),
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
