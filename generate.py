"""Generates text from an exported model, with no need of the training data.

  python generate.py --prompt="The "
  python generate.py --prompt="The " --temperature=0.5 --num_samples=3
  python generate.py --interactive
  python generate.py --prompts_file=prompts.txt --output=jsonl
  python generate.py --prompt="The " --output=html > surprise.html
  python generate.py --prompt="The " --num_beams=8 --stop=.

Standard output holds the texts alone; all else goes to standard error.
"""

import itertools

from stacked_rnn import command_line, configs, console
from stacked_rnn.reports import surprisal_html


def main(where, config, sampling):
    """Prompts in, texts out."""
    from stacked_rnn import inference

    console.check_use(config, sampling, command_line.given_flags())
    nothing = not (config.prompt or config.prompts_file)
    prompts = console.Lines(
        ("",) if nothing else config.prompt,
        config.prompts_file,
        "prompts_file",
    )
    model = inference.load(where.saved_model, "language_model")
    stop = config.stop_strings
    console.warn_of_stop_strings(model.tokenizer, stop)
    if config.interactive:
        conversation = inference.Conversation(model, sampling, stop)
        console.interact(conversation, model.tokenizer)
        return
    console.warn_of_unknown_parts(
        model.tokenizer, itertools.islice(prompts, 1000)
    )
    count = len(prompts) * config.num_samples
    if config.streams(count):
        (prompt,) = prompts
        conversation = inference.Conversation(model, sampling, stop)
        conversation.read(prompt)
        print(prompt, end="")
        console.show(conversation)
        return
    if config.searches:
        texts = model.beam_search(
            prompts,
            sampling,
            num_beams=config.num_beams,
            length_penalty=config.length_penalty,
            stop=stop,
            num_samples=config.num_samples,
        )
    else:
        texts = model.generate(prompts, sampling, stop, config.num_samples)
    if config.output == "html":
        print(surprisal_html.page(list(map(model.surprises, texts))), end="")
    else:
        console.print_texts(texts, config, count)


def run():
    """Console entry point."""
    command_line.run(
        main,
        configs.SavedModelConfig,
        console.GenerateConfig,
        configs.SamplingConfig,
    )


if __name__ == "__main__":
    run()
