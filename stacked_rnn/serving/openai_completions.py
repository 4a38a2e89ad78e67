"""OpenAI's completions API without HTTP: checking requests, building answers.

An option of OpenAI's or vLLM's that this server lacks and that would change the
text is refused unless it has its neutral value.
"""

import codecs
import dataclasses
import json
import re
import secrets
import time
import uuid
from typing import Annotated, Literal

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError

from stacked_rnn.configs import SamplingConfig
from stacked_rnn.serving import request_bodies, top_logprobs
from stacked_rnn.serving.adjustments import Adjustment
from stacked_rnn.serving.request_bodies import TokenIds

MAX_SEQUENCES = 128  # per request: prompts times n
MAX_STOPS = 16
MAX_STOP_LENGTH = 1_000  # characters
MAX_BIASES = 1_024  # tokens
_NEAR = 1_000  # characters that a prompt may have between two of its tokens
_STOP = (
    f"a string of 1 to {MAX_STOP_LENGTH:,} characters, or a list of at most "
    f"{MAX_STOPS} of them"
)


class StreamOptions(request_bodies.Body):
    """Options of a stream."""

    include_usage: bool = False
    continuous_usage_stats: bool = Field(
        False, description="The usage is in each part, not in the last alone."
    )
    include_obfuscation: bool = Field(False, description="Has no effect.")


def _checked_stop(value):
    stops = [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(
            isinstance(stop, str)
            and 1 <= len(stop) <= MAX_STOP_LENGTH
            and request_bodies.is_unicode(stop)
            for stop in stops
        )
    ):
        raise PydanticCustomError("stop", f"expected {_STOP}")
    return value


def _checked_bias(value):
    """Checks a logit bias, with one error for all of it."""
    expected = PydanticCustomError(
        "bias",
        f"expected an object of at most {MAX_BIASES} token ids, each with a "
        "number from -100 to 100",
    )
    if not isinstance(value, dict) or len(value) > MAX_BIASES:
        raise expected
    for key, bias in value.items():
        if not (
            re.fullmatch(r"[0-9]{1,9}", key) and type(bias) in (int, float)
        ):
            raise expected
        if not -100 <= bias <= 100:
            raise expected
    return value


_TokenId = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
_SOME = Field(min_length=1, max_length=MAX_SEQUENCES)
_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]


class Options(request_bodies.Body):
    """What the bodies of all requests for texts have."""

    model: str
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    n: int = Field(1, ge=1, le=MAX_SEQUENCES)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    stop: Annotated[
        _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS)],
        pydantic.BeforeValidator(_checked_stop),
    ] = Field([])
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    user: str = ""
    # Not in OpenAI's API:
    top_k: int = Field(0, ge=-1, lt=2**31, description="0 or -1: all.")
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Draw from tokens of at least this fraction of the "
        "probability of the likeliest.",
    )
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: Annotated[
        dict[_TokenId, Annotated[float, Field(ge=-100, le=100)]],
        pydantic.BeforeValidator(_checked_bias),
        Field(max_length=MAX_BIASES),
    ] = Field({})
    min_tokens: int = Field(
        0, ge=0, description="No token ends the text before this many."
    )
    stop_token_ids: Annotated[
        list[Annotated[int, Field(ge=0)]],
        pydantic.BeforeValidator(request_bodies.checked_token_ids),
        Field(max_length=MAX_BIASES),
    ] = Field([])
    ignore_eos: bool = Field(
        False, description="The token that ends a text is never drawn."
    )

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def adjustment(self) -> Adjustment:
        """What changes the distribution beside the `SamplingConfig`."""
        return Adjustment(
            logit_bias={int(key): b for key, b in self.logit_bias.items()},
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            min_p=self.min_p,
            min_tokens=min(self.min_tokens, 2**31 - 1),
            end_ids=tuple(self.stop_token_ids),
            ignores_end=self.ignore_eos,
        )


class CompletionRequest(Options):
    """The body of POST /v1/completions; null stands for a default."""

    prompt: Annotated[
        str
        | TokenIds
        | Annotated[list[str], _SOME]
        | Annotated[list[TokenIds], _SOME],
        request_bodies.text_check(MAX_SEQUENCES),
    ] = ""
    max_tokens: int = Field(
        16, ge=-1, description="-1: as many as this server allows."
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=top_logprobs.MOST,
        description="Returns log p of each token, and this many of the most "
        "likely tokens at its position. From 1 on, the prompts may have "
        f"{top_logprobs.MOST_READ:,} tokens in all.",
    )
    echo: bool = False
    best_of: int = Field(1, description="1, or equal to n.")
    # Anything but the default is refused:
    suffix: Literal[""] = ""

    @pydantic.field_validator("suffix", mode="before")
    @classmethod
    def _check_suffix(cls, value):
        if value:
            raise PydanticCustomError("off", "not supported by this server")
        return value

    @pydantic.field_validator("best_of")
    @classmethod
    def _check_best_of(cls, value, info):
        if value not in (1, info.data.get("n")):
            raise PydanticCustomError(
                "off", "not supported by this server, unless it equals n"
            )
        return value

    @pydantic.field_validator("logprobs", mode="before")
    @classmethod
    def _check_logprobs(cls, value):
        return None if value is False else value

    @property
    def prompts(self) -> list:
        """The prompts: strings, or lists of token ids."""
        return request_bodies.as_list(self.prompt)

    def samplings(self) -> list[SamplingConfig]:
        """The options of the `n` continuations of a prompt: seeds count up."""
        seed = secrets.randbelow(2**63) if self.seed is None else self.seed
        first = SamplingConfig(
            max_new_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=max(self.top_k, 0),
            top_p=max(self.top_p, 1e-9),
            repetition_penalty=self.repetition_penalty,
            seed=seed % 2**63,
        )
        return [
            dataclasses.replace(first, seed=(seed + index) % 2**63)
            for index in range(self.n)
        ]


class Answer:
    """Builds the answer to a request, in pieces or as a whole.

    Args:
        request: a `CompletionRequest`.
        prompts: for `echoes`, a tuple (text, tokens, log_probs, likeliest) per
            prompt, see `piece`. The first token of a prompt has None in place
            of its log p and of its likeliest tokens.
        fingerprint: names the version of the model.
    """

    _PREFIX, _OBJECT = "cmpl", "text_completion"

    def __init__(self, request, prompts, fingerprint):
        self._request = request
        self._head = {
            "id": f"{self._PREFIX}-{uuid.uuid4().hex}",
            "object": self._OBJECT,
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": fingerprint,
        }
        self._prompts = prompts
        count = len(request.prompts) * request.n
        # A character may be split between tokens: the last one counts it.
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = [decoder("replace") for _ in range(count)]
        self._offsets = [0] * count  # characters before the next token
        self._num_tokens = 0

    def piece(
        self,
        index,
        text,
        tokens,
        log_probs,
        likeliest,
        finish_reason,
        stop_reason=None,
        end_token=None,
        end_log_prob=None,
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
            stop_reason: the stop string that ended the sequence, or the token
                id that the request has for that, or None.
            end_token, end_log_prob: the name of the token that ended it and its
                log p, which is an entry of the logprobs alone, or None.
                `likeliest` has one more then.
        """
        self._num_tokens += len(tokens)
        logprobs = None
        if end_log_prob is not None:
            tokens = [*tokens, end_token]
            log_probs = [*log_probs, end_log_prob]
        if self._request.logprobs is not None:
            logprobs = self._logprobs(index, tokens, log_probs, likeliest)
        piece = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        if finish_reason:
            piece["stop_reason"] = stop_reason
        return piece

    def echoes(self) -> list[dict]:
        """Builds the prompt as the first piece of each sequence."""
        pieces = []
        for index in range(len(self._offsets)):
            text, tokens, *others = self._prompts[index // self._request.n]
            piece = self.piece(index, text, tokens, *others, None)
            if piece["logprobs"]:
                piece["logprobs"]["text_offset"] = _offsets_in(text, tokens)
            self._offsets[index] = len(text)
            self._decoders[index].reset()
            self._num_tokens -= len(tokens)
            pieces.append(piece)
        return pieces

    def event(self, choices, usage=None) -> dict:
        """Builds an event of a stream."""
        event = self._head | {"choices": choices}
        if self._request.stream_options.include_usage:
            event["usage"] = usage
        return event

    def whole(self, pieces, prompt_tokens, cached_tokens):
        """Yields the whole answer as parts of its JSON.

        Args:
            pieces: all `piece`s, those of each sequence in order.
            prompt_tokens, cached_tokens: see `usage`.
        """
        usage = self.usage(prompt_tokens, cached_tokens)
        by_index = [[] for _ in self._offsets]
        for piece in pieces:
            by_index[piece["index"]].append(piece)
        yield json.dumps(self._head)[:-1] + ', "choices": ['
        for index, own in enumerate(by_index):
            yield ", " * (index > 0) + json.dumps(self._choice(index, own))
        yield f'], "usage": {json.dumps(usage)}}}'

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
            "stop_reason": pieces[-1]["stop_reason"],
        }

    def usage(self, prompt_tokens, cached_tokens) -> dict:
        """Builds the token counts of the answer.

        Args:
            prompt_tokens: number of tokens in the prompts.
            cached_tokens: how many of them were not read, because the states
                after them were known.
        """
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._num_tokens,
            "total_tokens": prompt_tokens + self._num_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
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


def _offsets_in(text, tokens) -> list[int]:
    """Finds where in a text its tokens begin, in characters.

    The tokens may lack parts of the text, such as separators of documents, and
    have a name of its own in place of an unknown part.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    is_whole = b"".join(tokens) == text.encode()
    offsets, position = [], 0
    for token in tokens:
        if is_whole:  # a token may be a part of a character
            offsets.append(position)
            position += len(decoder.decode(token))
            continue
        name = token.decode("utf-8", "replace")
        found = text.find(name, position, position + len(name) + _NEAR)
        offsets.append(position if found < 0 else found)
        position = offsets[-1] + (1 if found < 0 else len(name))
    return offsets


def _token_name(token) -> str:
    """A token as a string; as OpenAI does, escaped if it is not whole UTF-8."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def token_bytes(name) -> bytes:
    """The bytes of a token that `_token_name` has named."""
    if re.fullmatch(r"bytes:(\\x[0-9a-f]{2})+", name):
        return bytes.fromhex(name.removeprefix("bytes:").replace("\\x", ""))
    return name.encode()
