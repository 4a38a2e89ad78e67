"""The command `llm`, which knows other servers from a file of its own."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

with tempfile.TemporaryDirectory() as directory:
    pathlib.Path(directory, "extra-openai-models.yaml").write_text(
        "".join(
            f"- model_id: letters-{kind}\n  model_name: letters\n"
            f"  api_base: {sys.argv[1]}\n  completion: {completes}\n"
            for kind, completes in (("text", "true"), ("chat", "false"))
        )
    )
    texts = []
    for kind in ("text", "chat"):
        for stream in ([], ["--no-stream"]):
            ran = subprocess.run(
                [
                    sys.executable, "-m", "llm", "-m", f"letters-{kind}", "abc",
                    "--key", "none", "-o", "seed", "7", "-o", "max_tokens",
                    "20", "-o", "temperature", "1", *stream,
                ],
                env=os.environ | {"LLM_USER_PATH": directory},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            texts.append(ran.stdout.removesuffix("\n"))
print(json.dumps({"texts": texts}))
