"""The bodies of requests and answers as types, for the OpenAPI document.

Nothing is parsed or written with them: what is sent is put together where it
is known. `openai_completions.CompletionRequest` is the one body that is parsed
with its type, and is kept there.
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
        "`max_tokens` are there."
    ),
]
Time = Annotated[NonNegativeInt, Field(description="Seconds since 1970.")]


class Status(BaseModel):
    """What a probe is told."""

    status: str


# OpenAI's ---------------------------------------------------------------------


class Logprobs(BaseModel):
    """The tokens of a text, and the log probability of each."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(
        description="null for the first token of an echoed prompt."
    )
    top_logprobs: list[dict[str, float] | None] | None = Field(
        description="The likeliest tokens in the place of each, and the token "
        "itself; null where `logprobs` is 0."
    )
    text_offset: list[NonNegativeInt]


class ChunkChoice(BaseModel):
    """What is new of a text."""

    index: NonNegativeInt
    text: str
    logprobs: Logprobs | None
    finish_reason: FinishReason | None = Field(
        description="null: the text goes on."
    )


class Choice(ChunkChoice):
    """A text."""

    finish_reason: FinishReason


class Usage(BaseModel):
    """Numbers of tokens."""

    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt
    total_tokens: NonNegativeInt


class CompletionChunk(BaseModel):
    """A part of a stream: what is new of one text or more."""

    id: str
    object: Literal["text_completion"]
    created: Time
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = Field(
        None,
        description="With `include_usage`: null, and in the last part, which "
        "has no choices, the numbers of all.",
    )


class Completion(CompletionChunk):
    """The texts of a request: `n` of each prompt, in their order."""

    choices: list[Choice]
    usage: Usage


class ErrorDetails(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None = Field(
        description="The part of the request that it is about."
    )
    code: str | None


class Error(BaseModel):
    """An error as OpenAI writes it."""

    error: ErrorDetails


class StreamEvent(BaseModel):
    """An event of a stream: more of the texts, or the error that ends them."""

    data: Json[CompletionChunk | Error] | Literal["[DONE]"]


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: Time
    owned_by: Literal["stacked_rnn"]
    task: str = Field(json_schema_extra={"enum": [*TASKS]})
    card: list[str] = Field(description="Sentences about the model.")


class ModelList(BaseModel):
    """The models that are served."""

    object: Literal["list"]
    data: list[Model]


# TensorFlow Serving's ---------------------------------------------------------


class VersionError(BaseModel):
    """Why a version is not available; OK where it is."""

    error_code: str
    error_message: str


class VersionStatus(BaseModel):
    """The state of a version of a model."""

    version: str
    state: Literal["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]
    status: VersionError


class VersionStates(BaseModel):
    """The versions of a model, the highest first, as TensorFlow Serving has."""

    model_version_status: list[VersionStatus]


class ModelStatus(Model, VersionStates):
    """A model as OpenAI has it, and the states of its versions."""


class Dimension(BaseModel):
    """A dimension of a tensor."""

    size: str = Field(description="-1: any.")
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
    """What is known of a model: its signatures."""

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
    """A string of any bytes."""

    model_config = ConfigDict(extra="forbid")

    b64: Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


class Tensor(RootModel):
    """A value, or nested lists of values."""

    root: str | float | bool | Base64 | list["Tensor"]


class PredictRequest(BaseModel):
    """Rows or columns of inputs; a signature with one needs no name for it."""

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
    """An error as TensorFlow Serving writes it."""

    error: str
