"""Chat templates: how the messages of a chat become the text to continue.

They are those of Hugging Face: Jinja, with the variables `messages` and
`add_generation_prompt`.
"""

import functools
import importlib.util
import sys

from stacked_rnn.configs import UserError


def render(template, messages, add_generation_prompt=True) -> str:
    """Makes the text of a chat.

    Args:
        template: the template as a string.
        messages: list of dicts, each with a role and a content.
        add_generation_prompt: whether the text ends where an answer begins.

    Raises:
        UserError: the package jinja2 is missing.
        Exception: whatever the template raises.
    """
    text = compiled(template).render(
        messages=messages, add_generation_prompt=add_generation_prompt
    )
    text.encode()  # JSON allows lone surrogates
    return text


def render_checked(template, messages) -> str:
    """Makes the text of a chat, of messages that may be anything.

    Raises:
        UserError: the messages are none, or the template refuses them.
    """
    is_chat = isinstance(messages, list | tuple) and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in messages
    )
    if not (is_chat and messages):
        raise UserError(
            f"{messages!r:.60}: expected a list of messages, dicts with a role "
            "and a content, which are strings"
        )
    try:
        return render(template, messages)
    except UserError:
        raise
    except Exception as error:  # whatever a template may raise
        raise UserError(f"the chat template refuses it: {error}") from error


@functools.lru_cache(16)
def compiled(template):
    """Compiles a template, which can do nothing but make a text.

    Raises:
        UserError: the package jinja2 is missing.
        jinja2.TemplateError: the template is not valid.
    """
    if not importlib.util.find_spec("jinja2"):
        raise UserError("chats need jinja2: pip install jinja2")
    from jinja2 import sandbox  # imported late: few models have chats

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def _refuse(message):
    import jinja2

    raise jinja2.TemplateError(message)


def decode(content, path) -> str:
    """Decodes and checks the file of --chat_template.

    Without jinja2, which only chats need, a note says that it is not checked.

    Args:
        content: the bytes of the file.
        path: the file, for messages.

    Raises:
        UserError: it is not UTF-8, or not a template.
    """
    try:
        template = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--chat_template={path}: not UTF-8: save it in that encoding"
        ) from error
    if not importlib.util.find_spec("jinja2"):
        print(
            f"note: --chat_template={path} is not checked: jinja2 is missing: "
            "pip install --editable '.[serve]'",
            file=sys.stderr,
        )
        return template
    import jinja2

    try:
        compiled(template)
    except jinja2.TemplateError as error:
        raise UserError(f"--chat_template={path}: {error}") from error
    return template
