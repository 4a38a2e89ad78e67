"""Types of request and answer bodies, for the OpenAPI document only.

The server neither parses nor builds bodies with them. The requests that it does
parse are defined beside the code that answers them.
"""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Json,
    NonNegativeInt,
    RootModel,
)

from stacked_rnn.configs import TASKS

FinishReason = Annotated[
    Literal["stop", "length"],
    Field(
        description="stop: a stop string, or the end of a document. length: "
        "`max_tokens` were generated."
    ),
]
StopReason = Annotated[
    NonNegativeInt | str | None,
    Field(
        description="At the end of a text: the id in `stop_token_ids` or the "
        "stop string that ended it; null if neither did."
    ),
]
Time = Annotated[NonNegativeInt, Field(description="Seconds since 1970.")]


class Status(BaseModel):
    """The answer to a probe."""

    status: str


class Version(BaseModel):
    """The version of the server."""

    version: str


# OpenAI's ---------------------------------------------------------------------


class Logprobs(BaseModel):
    """The tokens of a text, and the log probability of each."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(
        description="null for the first token of an echoed prompt."
    )
    top_logprobs: list[dict[str, float] | None] | None = Field(
        description="The most likely tokens at the position of each token, "
        "and the token itself; null where `logprobs` is 0."
    )
    text_offset: list[NonNegativeInt]


class ChunkChoice(BaseModel):
    """The new part of a text."""

    index: NonNegativeInt
    text: str
    logprobs: Logprobs | None
    finish_reason: FinishReason | None = Field(
        description="null: the text continues."
    )
    stop_reason: StopReason = None


class Choice(ChunkChoice):
    """A text."""

    finish_reason: FinishReason


class PromptTokensDetails(BaseModel):
    """How the tokens of a prompt were read."""

    cached_tokens: NonNegativeInt = Field(
        description="Not read: the states after them were known from another "
        "text with this beginning."
    )


class Usage(BaseModel):
    """Numbers of tokens."""

    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt
    total_tokens: NonNegativeInt
    prompt_tokens_details: PromptTokensDetails


class CompletionChunk(BaseModel):
    """A part of a stream: the new parts of one or more texts."""

    id: str
    object: Literal["text_completion"]
    created: Time
    model: str
    system_fingerprint: str = Field(description="The version of the model.")
    choices: list[ChunkChoice]
    usage: Usage | None = Field(
        None,
        description="With `include_usage`: the totals in the last part, which "
        "has no choices; null before, unless `continuous_usage_stats`.",
    )


class Completion(CompletionChunk):
    """The texts of a request: `n` per prompt, in the order of the prompts."""

    choices: list[Choice]  # type: ignore[assignment]
    usage: Usage


class TokenLogprob(BaseModel):
    """A token, its log probability and its bytes."""

    token: str
    logprob: float
    bytes: list[NonNegativeInt]


class ChatToken(TokenLogprob):
    """A token of an answer."""

    top_logprobs: list[TokenLogprob] = Field(
        description="The most likely tokens at its position, and the token "
        "itself; empty where `top_logprobs` is 0."
    )


class ChatLogprobs(BaseModel):
    """The tokens of an answer."""

    content: list[ChatToken]
    refusal: None


class Delta(BaseModel):
    """The new part of an answer."""

    role: Literal["assistant"] | None = Field(
        None, description="In the first part of an answer."
    )
    content: str


class ChatChunkChoice(BaseModel):
    """The new part of an answer, and its end."""

    index: NonNegativeInt
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: StopReason = None


class ChatMessage(BaseModel):
    """An answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """An answer, and how it ended."""

    index: NonNegativeInt
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: StopReason


class ChatChunk(BaseModel):
    """A part of a stream: the new parts of one or more answers."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: Time
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ChatCompletion(BaseModel):
    """The answers to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: Time
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class Embedding(BaseModel):
    """The embedding of a text."""

    object: Literal["embedding"]
    index: NonNegativeInt
    embedding: list[float] | str = Field(
        description="Numbers; with `base64`, their bytes as float32."
    )


class EmbeddingUsage(BaseModel):
    """Numbers of tokens."""

    prompt_tokens: NonNegativeInt
    total_tokens: NonNegativeInt


class Embeddings(BaseModel):
    """The embeddings of texts, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Tokenized(BaseModel):
    """The tokens of a text."""

    count: NonNegativeInt
    max_model_len: NonNegativeInt
    tokens: list[NonNegativeInt]
    token_strs: list[str] | None


class Detokenized(BaseModel):
    """The text of tokens."""

    prompt: str


class TokenizerInfo(BaseModel):
    """A tokenizer, in the terms of Hugging Face's."""

    tokenizer_class: str
    vocab_size: NonNegativeInt
    model_max_length: NonNegativeInt
    bos_token: None
    eos_token: str = Field(
        description="What ends a document; in a model whose texts have no end, "
        "a token that no text has."
    )
    unk_token: str | None
    pad_token: None
    chat_template: str | None


class ErrorDetails(BaseModel):
    """The details of an error."""

    message: str
    type: str
    param: str | None = Field(
        description="The field of the request that is wrong."
    )
    code: str | None


class Error(BaseModel):
    """An error in OpenAI's format."""

    error: ErrorDetails


class StreamEvent(BaseModel):
    """An event of a stream: a part of it, or the error that ends it."""

    data: Json[CompletionChunk | Error] | Literal["[DONE]"]


class ChatEvent(BaseModel):
    """An event of a stream: a part of it, or the error that ends it."""

    data: Json[ChatChunk | Error] | Literal["[DONE]"]


class Model(BaseModel):
    """A model of the server."""

    id: str
    object: Literal["model"]
    created: Time
    owned_by: Literal["stacked_rnn"]
    root: str = Field(description="The same as `id`.")
    task: str = Field(json_schema_extra={"enum": [*TASKS]})
    card: list[str] = Field(description="Sentences that describe the model.")
    chat: bool = Field(
        description="Whether a template makes a text of the messages of a chat."
    )


class ModelList(BaseModel):
    """The models of the server."""

    object: Literal["list"]
    data: list[Model]


# TensorFlow Serving's ---------------------------------------------------------


class VersionError(BaseModel):
    """The reason why a version is not available; OK if it is."""

    error_code: str
    error_message: str


class VersionStatus(BaseModel):
    """The state of a version of a model."""

    version: str
    state: Literal["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]
    status: VersionError


class VersionStates(BaseModel):
    """The states of a model's versions, the highest version first."""

    model_version_status: list[VersionStatus]


class ModelStatus(Model, VersionStates):
    """A model in OpenAI's form, and the states of its versions."""


class Dimension(BaseModel):
    """A dimension of a tensor."""

    size: str = Field(description="-1: any size.")
    name: str


class TensorShape(BaseModel):
    """The shape of a tensor."""

    dim: list[Dimension]
    unknown_rank: bool


class TensorInfo(BaseModel):
    """An input or an output of a signature."""

    name: str
    dtype: str
    tensor_shape: TensorShape


class Signature(BaseModel):
    """A function of a model."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    method_name: str
    defaults: dict


class SignatureMap(BaseModel):
    """The signatures by name."""

    signature_def: dict[str, Signature]


class ModelMetadata(BaseModel):
    """The metadata of a model: its signatures."""

    signature_def: SignatureMap


class ModelSpec(BaseModel):
    """A version of a model."""

    name: str
    signature_name: str
    version: str


class Metadata(BaseModel):
    """The signatures of a version."""

    model_spec: ModelSpec
    metadata: ModelMetadata


class Base64(BaseModel):
    """Bytes, in base64."""

    model_config = ConfigDict(extra="forbid")

    b64: Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


class Tensor(RootModel):
    """A value, or nested lists of values."""

    root: str | float | bool | Base64 | list["Tensor"]


class PredictRequest(BaseModel):
    """Inputs by row or by column; a single input needs no name."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}]
        }
    )

    signature_name: str = "serving_default"
    instances: list[Tensor | dict[str, Tensor]] = Field(
        default_factory=list, min_length=1
    )
    inputs: Tensor | dict[str, Tensor] = Field(default_factory=dict)


class Predictions(BaseModel):
    """The answer to `instances`; a single output has no name."""

    predictions: list[Tensor | dict[str, Tensor]]


class Outputs(BaseModel):
    """The answer to `inputs`; a single output has no name."""

    outputs: Tensor | dict[str, Tensor]


class PredictError(BaseModel):
    """An error in TensorFlow Serving's format."""

    error: str
