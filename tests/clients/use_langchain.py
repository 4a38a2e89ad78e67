"""LangChain's models of OpenAI, for texts and for chats."""

import json
import sys

import langchain_openai

options = {
    "base_url": sys.argv[1], "api_key": "none", "model": "letters", "seed": 7,
    "max_tokens": 20, "temperature": 1.0,
}  # fmt: skip
writer = langchain_openai.OpenAI(**options)
chat = langchain_openai.ChatOpenAI(**options)
print(
    json.dumps(
        {
            "texts": [
                writer.invoke("abc"),
                "".join(writer.stream("abc")),
                chat.invoke("abc").content,
                "".join(chunk.content for chunk in chat.stream("abc")),
            ]
        }
    )
)
