"""EleutherAI's lm-evaluation-harness: `local-completions`, without downloads.

It finds /tokenize by itself, so that it needs no tokenizer.
"""

import json
import pathlib
import sys
import tempfile

import lm_eval

TEXTS = ["abcabcab", "hgfedcba", "a"]
CHOICES = ["abc", "hh"]
GENERATED = {"until": ["q", "r", "s", "t", "u", "v"], "max_gen_toks": 20}


def task(name, path, output_type, **settings):
    """Describes a task over the lines of a local file."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": output_type,
        "target_delimiter": "",
        "doc_to_text": "{{text}}",
        "doc_to_target": "",
    } | settings


with tempfile.TemporaryDirectory() as directory:
    lines = pathlib.Path(directory, "texts.jsonl")
    lines.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    )
    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "letters",
            "base_url": f"{sys.argv[1]}/completions",
            "max_retries": 1,
        },
        batch_size=2,
        tasks=[
            task(
                "rolling", lines, "loglikelihood_rolling",
                doc_to_text="", doc_to_target="{{text}}",
                metric_list=[{"metric": "byte_perplexity"}],
            ),
            task(
                "choices", lines, "multiple_choice",
                doc_to_choice=CHOICES, doc_to_target=0,
                metric_list=[{"metric": "acc"}],
            ),
            task(
                "texts", lines, "generate_until", generation_kwargs=GENERATED,
                metric_list=[{"metric": "exact_match"}],
            ),
        ],
    )  # fmt: skip


def answers(name):
    """Lists what the model has answered to each line of a task."""
    samples = sorted(results["samples"][name], key=lambda one: one["doc_id"])
    return [sample["filtered_resps"] for sample in samples]


print(
    json.dumps(
        {
            "texts": TEXTS,
            "choices": CHOICES,
            "log_likelihoods": [answer for [answer] in answers("rolling")],
            "byte_perplexity": results["results"]["rolling"][
                "byte_perplexity,none"
            ],
            "chosen": [
                [log_likelihood for log_likelihood, _ in answer]
                for answer in answers("choices")
            ],
            "greedy": [answer for [answer] in answers("texts")],
        }
    )
)
