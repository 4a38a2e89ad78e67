"""LlamaIndex' models of servers like OpenAI's."""

import json
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

options = {
    "model": "letters", "api_base": sys.argv[1], "api_key": "none",
    "temperature": 1.0, "max_tokens": 20, "additional_kwargs": {"seed": 7},
}  # fmt: skip
writer = OpenAILike(is_chat_model=False, **options)
chat = OpenAILike(is_chat_model=True, **options)
message = ChatMessage(role="user", content="abc")
print(
    json.dumps(
        {
            "texts": [
                writer.complete("abc").text,
                "".join(part.delta for part in writer.stream_complete("abc")),
                chat.chat([message]).message.content,
                "".join(part.delta for part in chat.stream_chat([message])),
            ]
        }
    )
)
