"""OpenAI's client: texts, streams, chats, embeddings, models."""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none")
options = {"model": "letters", "seed": 7, "max_tokens": 20, "temperature": 1.0}
whole = client.completions.create(prompt="abc", n=2, logprobs=2, **options)
stream = client.completions.create(prompt="abc", stream=True, **options)
chat = client.chat.completions.create(
    messages=[{"role": "user", "content": "abc"}], **options
)
chunks = client.chat.completions.create(
    messages=[{"role": "user", "content": "abc"}],
    stream=True,
    stream_options={"include_usage": True},
    **options,
)
parts = [*chunks]
embedding = client.embeddings.create(model="letters", input=["abc", "b"])
print(
    json.dumps(
        {
            "version": openai.__version__,
            "texts": [
                whole.choices[0].text,
                "".join(chunk.choices[0].text for chunk in stream),
                chat.choices[0].message.content,
                "".join(
                    chunk.choices[0].delta.content or ""
                    for chunk in parts
                    if chunk.choices
                ),
            ],
            "log_probs": whole.choices[0].logprobs.token_logprobs,
            "usage": parts[-1].usage.completion_tokens,
            "dimensions": len(embedding.data[1].embedding),
            "models": [model.id for model in client.models.list()],
        }
    )
)
