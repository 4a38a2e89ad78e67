"""Shows what happens inside a language model: one HTML page about a text.

  stacked-rnn inspect --text=mine.txt
  stacked-rnn inspect --text=mine.txt --units=1:37,2:5
  stacked-rnn inspect --saved_model=saved_models/pydoc --text=- --output=a.html

The page colours the text by its surprisal and by what single units do: those
that follow quotation marks, the place in the line and so on, or units of your
choice. It also shows how often the gates are open or closed, and which tokens
have similar embeddings. It is one file that a browser opens from the disk.
"""

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import UserError
from stacked_rnn.utils import files, terminal


def main(saved_model_config, config):
    """Reads the text and writes the page."""
    from stacked_rnn import datasets, inference, saved_models
    from stacked_rnn.reports import inspection_html

    if not config.text:
        raise UserError("--text=FILE is missing: name the text to read")
    description = saved_models.find_description(
        saved_model_config.saved_model, "language_model"
    )
    columns = config.unit_columns(
        description.model_config.num_layers, description.model_config.units
    )
    whole = datasets.read_text(config.text, description.tokenizer)
    name = saved_models.model_name(description.path)
    path = config.output or f"{name}-inspect.html"
    path = terminal.writable_file("output", path)
    text = first_characters(whole, config.characters)
    terminal.warn_of_unknown_parts(description.tokenizer.unknown_parts([text]))

    about = (
        f"{config.text}, the first {config.characters:,} characters of it."
        if len(text) < len(whole)
        else f"{config.text}, the whole of it."
    )
    inspection = inference.inspect_text(
        inference.from_description(description), text, about, columns
    )
    with terminal.writing("output", path), files.whole_file(path) as file:
        page = inspection_html.page(inspection)
        file.write(page.encode("utf-8", "replace"))
    print(f"Wrote {path} ({path.stat().st_size:,} bytes) about {about}")
    if not inspection.has_all_units:
        print(
            "The values of all units would make it too large: it has those of "
            f"{len(inspection.chosen)} units. For all: fewer --characters."
        )
    for unit in inspection.chosen:
        print(f"  {inspection.title(unit)}: {inspection.detail(unit)}")


def first_characters(text, count) -> bytes:
    """Returns the first characters of a text, bytes that may not be UTF-8."""
    characters = text[: 4 * count].decode("utf-8", "surrogateescape")[:count]
    return characters.encode("utf-8", "surrogateescape")


def run():
    """Console entry point."""
    flags.run(main, configs.SavedModelConfig, configs.InspectConfig)
