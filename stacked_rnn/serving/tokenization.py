"""vLLM's routes for tokenizers without HTTP: tools such as lm-eval use them."""

from typing import Annotated

import pydantic
from pydantic import Field

from stacked_rnn.configs import unescaped
from stacked_rnn.serving import request_bodies
from stacked_rnn.serving.errors import ApiError
from stacked_rnn.serving.request_bodies import TokenIds

_MODEL = Field("", description="May be left out where there is one model.")
# A recurrent model has no longest context; clients want a number.
_MOST_TOKENS = 1_000_000
# Stands for the end of a text where a model has none: no text has it.
_NO_END = "\0"


class TokenizeRequest(request_bodies.Body):
    """The body of POST /tokenize."""

    model: str = _MODEL
    prompt: Annotated[
        str, pydantic.BeforeValidator(request_bodies.checked_string)
    ]
    add_special_tokens: bool = Field(False, description="Has no effect.")
    return_token_strs: bool = False


class DetokenizeRequest(request_bodies.Body):
    """The body of POST /detokenize."""

    model: str = _MODEL
    tokens: Annotated[
        TokenIds | Annotated[list[int], Field(max_length=0)],
        pydantic.BeforeValidator(request_bodies.checked_token_ids),
    ]


def tokenize(model, request) -> dict:
    """Answers a `TokenizeRequest`.

    Args:
        model: a `SavedLanguageModel`.
        request: the request.
    """
    token_ids = model.tokenizer.tokenize([request.prompt]).flat_values.numpy()
    names = None
    if request.return_token_strs:
        tokens = model.token_texts[token_ids].tolist()
        names = [token.decode("utf-8", "replace") for token in tokens]
    return {
        "count": len(token_ids),
        "max_model_len": _MOST_TOKENS,
        "tokens": token_ids.tolist(),
        "token_strs": names,
    }


def detokenize(model, request) -> dict:
    """Answers a `DetokenizeRequest`.

    Raises:
        ApiError: there is no such token.
    """
    check_token_ids(model, request.tokens, "tokens")
    text = b"".join(model.token_texts[request.tokens].tolist())
    return {"prompt": text.decode("utf-8", "replace")}


def check_token_ids(model, token_ids, param) -> None:
    """Raises an `ApiError` for ids beyond the vocabulary.

    Args:
        model: a `SavedLanguageModel`.
        token_ids: integers of 0 or more.
        param: the field of the request.
    """
    largest = max(token_ids, default=0)
    if largest >= len(model.token_bytes):
        raise ApiError(400, f"{param}: there is no token id {largest}", param)


def tokenizer_info(model, chat_template) -> dict:
    """Describes a tokenizer in the terms of Hugging Face's.

    Args:
        model: a `SavedLanguageModel`.
        chat_template: the template of chats, or None.
    """
    tokenizer = model.tokenizer
    end, unknown = tokenizer.document_separator, None
    if tokenizer.unknown_id is not None:
        unknown = model.token_bytes[tokenizer.unknown_id].decode()
    return {
        "tokenizer_class": type(tokenizer).__name__,
        "vocab_size": tokenizer.vocabulary_size(),
        "model_max_length": _MOST_TOKENS,
        "bos_token": None,
        "eos_token": unescaped(end) if end else unknown or _NO_END,
        "unk_token": unknown,
        "pad_token": None,
        "chat_template": chat_template,
    }
