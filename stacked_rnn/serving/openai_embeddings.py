"""OpenAI's embeddings API without HTTP, by the signature `embed`."""

import base64
from typing import Annotated, Literal

import numpy as np
import tensorflow as tf
from pydantic import Field

from stacked_rnn.serving import request_bodies, tf_serving, tokenization
from stacked_rnn.serving.errors import ApiError
from stacked_rnn.serving.request_bodies import TokenIds

MAX_TEXTS = 1_024
# Characters of a chunk. A state remembers little of what was long before: the
# embedding of a longer text is the mean of those of its chunks.
CHUNK = 1_000
_MOST_CHARACTERS = 2**20  # of all texts
_SOME = Field(min_length=1, max_length=MAX_TEXTS)


class EmbeddingRequest(request_bodies.Body):
    """The body of POST /v1/embeddings."""

    model: str
    input: Annotated[
        str
        | TokenIds
        | Annotated[list[str], _SOME]
        | Annotated[list[TokenIds], _SOME],
        request_bodies.text_check(MAX_TEXTS),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        None, ge=1, description="The width of the model, or nothing."
    )
    user: str = ""


def embed(model, request) -> dict:
    """Answers an `EmbeddingRequest`.

    Args:
        model: a `SavedLanguageModel`.
        request: the request.

    Raises:
        ApiError: the request is refused.
    """
    units = model.model_config.units
    if request.dimensions not in (None, units):
        raise ApiError(
            400, f"dimensions: embeddings of this model have {units}",
            "dimensions",
        )  # fmt: skip
    given = request_bodies.as_list(request.input)
    texts = [
        text
        if isinstance(text, str)
        else tokenization.text_of(model, text, "input")
        for text in given
    ]
    if (length := sum(map(len, texts))) > _MOST_CHARACTERS:
        raise ApiError(
            400, f"input: {length:,} characters, at most {_MOST_CHARACTERS:,}",
            "input",
        )  # fmt: skip
    token_ids = model.tokenizer.tokenize(texts)
    if isinstance(given[0], list) and token_ids.to_list() != given:
        raise ApiError(
            400, "input: the text of these token ids has others: send the text",
            "input",
        )  # fmt: skip
    chunks = [
        text[start : start + CHUNK]
        for text in texts
        for start in range(0, max(1, len(text)), CHUNK)
    ]
    try:
        embeddings = model.embed(chunks)
    except tf.errors.OpError as error:
        reason = tf_serving.from_tensorflow(error)
        raise ApiError(400, f"input: {reason}", "input") from error
    counts = [-(-max(1, len(text)) // CHUNK) for text in texts]
    starts = np.cumsum([0, *counts[:-1]])
    sums = np.add.reduceat(embeddings, starts, axis=0)
    means = sums / np.array(counts, np.float32)[:, None]
    num_tokens = token_ids.flat_values.shape[0]
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _encoded(row, request.encoding_format),
            }
            for index, row in enumerate(means)
        ],
        "model": request.model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


def _encoded(row, encoding_format):
    if encoding_format == "float":
        return row.tolist()
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
