"""OpenAI's chat API without HTTP: checking requests, building answers.

A chat is a text that a template makes of the messages (`chat_templates`), and
its continuation.
"""

from typing import Annotated, Literal

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic wants it before 3.12

from stacked_rnn import chat_templates
from stacked_rnn.serving import openai_completions, top_logprobs
from stacked_rnn.serving.errors import ApiError

MAX_MESSAGES = 1_000
DEFAULT_TOKENS = 300  # where the request says nothing
_MESSAGES = (
    f"a list of 1 to {MAX_MESSAGES:,} messages, objects with a role and a "
    "content, which is a string or a list of parts of the type text"
)

# Marks the end of the message to continue while a template is rendered. It is
# Hugging Face's, which some templates know. A template that drops the blank at
# its end would drop those of the message, too.
_MARK = "CONTINUE_FINAL_MESSAGE_TAG "


class TextPart(TypedDict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(TypedDict):
    """A message of a chat."""

    role: str
    content: str | list[TextPart]


def _checked_messages(value, _):
    """Returns the messages, dicts with their contents as strings."""
    messages = []
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise PydanticCustomError("messages", f"expected {_MESSAGES}")
    try:
        for message in value:
            role, content = message["role"], message["content"]
            if isinstance(content, list):
                content = "".join(
                    {"text": part["text"]}[part["type"]] for part in content
                )
            if not isinstance(role, str) or not isinstance(content, str):
                raise TypeError
            (role + content).encode()  # JSON allows lone surrogates
            messages.append(message | {"content": content})
    except (KeyError, TypeError, UnicodeEncodeError):
        raise PydanticCustomError(
            "messages", f"expected {_MESSAGES}; message {len(messages)} is none"
        ) from None
    return messages


class ResponseFormat(TypedDict):
    """The format of an answer; JSON and grammars are refused."""

    type: Literal["text"]


class ChatRequest(openai_completions.Options):
    """The body of POST /v1/chat/completions; null stands for a default."""

    # Checked by a function, as `prompt` is; the type is for the document.
    messages: Annotated[
        list[Message],
        Field(min_length=1, max_length=MAX_MESSAGES),
        pydantic.WrapValidator(_checked_messages),
    ]
    max_tokens: int | None = Field(
        None, ge=-1, description=f"{DEFAULT_TOKENS} by default; -1: as many as "
        "this server allows.",
    )  # fmt: skip
    max_completion_tokens: int | None = Field(
        None, ge=-1, description="The newer name of max_tokens."
    )
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=top_logprobs.MOST)
    continue_final_message: bool = Field(
        False, description="Continue the last message, instead of answering it."
    )
    add_generation_prompt: bool | None = Field(
        None,
        description="What the template gets; by default, the opposite of "
        "continue_final_message.",
    )
    response_format: ResponseFormat = ResponseFormat(type="text")
    tool_choice: Literal["none", "auto"] = Field(
        "auto", description="No tool is ever called."
    )

    def completion(self, prompt, most) -> openai_completions.CompletionRequest:
        """Returns the request for the continuation of a prompt.

        Args:
            prompt: the text to continue.
            most: the most tokens that the server allows.

        Raises:
            ApiError: it asks for more.
        """
        name, max_tokens = "max_completion_tokens", self.max_completion_tokens
        if max_tokens is None:
            name, max_tokens = "max_tokens", self.max_tokens
        if max_tokens is None:
            max_tokens = min(DEFAULT_TOKENS, most)
        if max_tokens > most:
            raise ApiError(400, f"{name}: at most {most}", name)
        # All has been checked: to check it again takes as long as the rest.
        return openai_completions.CompletionRequest.model_construct(
            prompt=prompt,
            max_tokens=max_tokens,
            logprobs=self.top_logprobs if self.logprobs else None,
            **{
                name: getattr(self, name)
                for name in openai_completions.Options.model_fields
            },
        )

    def prompt(self, template) -> str:
        """Makes the text to continue.

        Without a template, it is the last message, if it is to be continued,
        and otherwise the last message of the user.

        Args:
            template: a template as a string, or None.

        Raises:
            ApiError: there is no such message, or the template refuses them or
                leaves it out.
        """
        is_continued = self.continue_final_message
        if is_continued and self.add_generation_prompt:
            raise ApiError(
                400, "add_generation_prompt: it begins an answer, but "
                "continue_final_message wants none: leave one of them out",
                "add_generation_prompt",
            )  # fmt: skip
        if template is not None:
            return self._rendered(template)
        if is_continued:
            return str(self.messages[-1]["content"])
        for message in reversed(self.messages):
            if message["role"] == "user":
                return str(message["content"])
        raise ApiError(400, "messages: none is the user's", "messages")

    def _rendered(self, template) -> str:
        """Renders the template, up to the end of a message to continue."""
        messages, is_continued = self.messages, self.continue_final_message
        begins_answer = self.add_generation_prompt
        if begins_answer is None:
            begins_answer = not is_continued
        if is_continued:
            *others, last = messages
            messages = [
                *others,
                last | {"content": f"{last['content']}{_MARK}"},
            ]
        try:
            text = chat_templates.render(template, messages, begins_answer)
        except Exception as error:  # whatever a template may raise
            raise ApiError(
                400, "messages: the template of the model refuses them: "
                f"{error}", "messages",
            ) from None  # fmt: skip
        if not is_continued:
            return text
        begin, mark, end = text.rpartition(_MARK.strip())
        if not mark:
            raise ApiError(
                400, "messages: the template of the model leaves out the last "
                "one, which continue_final_message wants to continue",
                "messages",
            )  # fmt: skip
        return begin if end.startswith(" ") else begin.rstrip()


class ChatAnswer(openai_completions.Answer):
    """Builds the answer to a chat request; see `Answer`."""

    _PREFIX, _OBJECT = "chatcmpl", "chat.completion"

    def __init__(self, *args):
        super().__init__(*args)
        self._begun = set()  # indexes of sequences

    def event(self, choices, usage=None):
        event = super().event([*map(self._delta, choices)], usage)
        return event | {"object": "chat.completion.chunk"}

    def _delta(self, piece):
        delta = {"content": piece["text"]}
        if piece["index"] not in self._begun:
            self._begun.add(piece["index"])
            delta = {"role": "assistant"} | delta
        rest = {key: piece[key] for key in piece if key != "text"}
        return rest | {"delta": delta, "logprobs": _logprobs(rest["logprobs"])}

    def _choice(self, index, pieces):
        choice = super()._choice(index, pieces)
        message = {"role": "assistant", "content": choice.pop("text")}
        return choice | {
            "message": message | {"refusal": None},
            "logprobs": _logprobs(choice["logprobs"]),
        }


def _logprobs(logprobs) -> dict | None:
    """Converts the logprobs of a completion to those of a chat."""
    if logprobs is None:
        return None
    tops = logprobs["top_logprobs"] or [{}] * len(logprobs["tokens"])
    return {
        "content": [
            _entry(token, log_prob)
            | {"top_logprobs": [_entry(*one) for one in top.items()]}
            for token, log_prob, top in zip(
                logprobs["tokens"], logprobs["token_logprobs"], tops
            )
        ],
        "refusal": None,
    }


def _entry(token, log_prob) -> dict:
    content = openai_completions.token_bytes(token)
    return {"token": token, "logprob": log_prob, "bytes": [*content]}
