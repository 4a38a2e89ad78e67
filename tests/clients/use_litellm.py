"""LiteLLM, which gives many servers one interface."""

import json
import sys

import litellm

options = {
    "api_base": sys.argv[1], "api_key": "none", "seed": 7, "max_tokens": 20,
    "temperature": 1.0,
}  # fmt: skip
messages = [{"role": "user", "content": "abc"}]
text = litellm.text_completion(
    model="text-completion-openai/letters", prompt="abc", **options
)
chat = litellm.completion(model="openai/letters", messages=messages, **options)
stream = litellm.completion(
    model="openai/letters", messages=messages, stream=True, **options
)
print(
    json.dumps(
        {
            "texts": [
                text.choices[0].text,
                chat.choices[0].message.content,
                "".join(
                    chunk.choices[0].delta.content or "" for chunk in stream
                ),
            ]
        }
    )
)
