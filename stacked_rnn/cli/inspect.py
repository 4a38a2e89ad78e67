"""Shows what happens inside a language model: one HTML page about a text.

  stacked-rnn inspect --text=mine.txt
  stacked-rnn inspect --text=mine.txt --units=1:37,2:5
  stacked-rnn inspect --saved_model=saved_models/pydoc --text=- --output=a.html

The page colours the text by its surprisal and by what single units do: those
that follow quotation marks, the place in the line and so on, or units of your
choice. It also shows how often the gates are open or closed, and which tokens
have similar embeddings. It is one file that a browser opens from the disk.
"""

import pathlib

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import UserError
from stacked_rnn.utils import files, terminal

_MOST_TOKENS = 16  # whose neighbours are shown
_NEIGHBOURS = 5


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
    path = pathlib.Path(config.output or f"{name}-inspect.html")
    terminal.writable_directory("output", path.parent)
    text = first_characters(whole, config.characters)
    terminal.warn_of_unknown_parts(description.tokenizer.unknown_parts([text]))

    about = (
        f"{config.text}, the first {config.characters:,} characters of it."
        if len(text) < len(whole)
        else f"{config.text}, the whole of it."
    )
    inspection = inspect_text(
        inference.from_description(description), text, about, columns
    )
    try:
        with files.whole_file(path) as file:
            page = inspection_html.page(inspection)
            file.write(page.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(
            f"--output={path}: cannot write it: {error.strerror}"
        ) from error
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


def inspect_text(model, text, about, columns):
    """Reads a text with a model.

    Args:
        model: an `inference.SavedLanguageModel`.
        text: the text as UTF-8 bytes.
        about: what the page says of the text.
        columns: the units to show, see `InspectConfig.unit_columns`; empty:
            the program chooses.

    Returns:
        An `inspection_html.Inspection`.

    Raises:
        UserError: the text is shorter than two tokens.
    """
    from stacked_rnn import (
        inference,
        metrics,
        model_cards,
        saved_models,
        training,
    )
    from stacked_rnn.reports import inspection_html, surprisal_html

    tokenizer, description = model.tokenizer, model.description
    token_ids, nats = model.token_nats(text)
    if not len(nats):
        raise UserError("--text: the text is shorter than two tokens")
    keras_model = training.read_saved_model(description)
    weights = {weight.path: weight.numpy() for weight in keras_model.weights}
    read = inference.read_activations(model, weights, token_ids)

    vocabulary = model.token_bytes.tolist()
    if tokenizer.end_id is not None:  # it is detokenized to nothing
        separator = configs.unescaped(tokenizer.document_separator)
        vocabulary[tokenizer.end_id] = separator.encode()
    tokens = [vocabulary[token_id] for token_id in token_ids]
    pieces, parts = zip(*surprisal_html.whole_characters(tokens))
    values = read.values[[part.stop - 1 for part in parts]]
    search = metrics.UnitSearch(
        values.reshape(len(pieces), -1), metrics.features_of_text(pieces)
    )
    neighbours = metrics.nearest_tokens(
        weights["embedding/embeddings"],
        token_ids,
        {tokenizer.unknown_id, tokenizer.end_id} - {None},
        _MOST_TOKENS,
        _NEIGHBOURS,
    )
    return inspection_html.Inspection(
        name=saved_models.model_name(description.path),
        about=[
            *model_cards.sentences(
                description, saved_models.num_parameters(description.path)
            ),
            f"It reads {about}",
        ],
        cell=model.model_config.cell,
        tokens=[*zip(tokens, [None, *nats.tolist()], [False] * len(tokens))],
        pieces=pieces,
        values=values,
        gates=read.gates,
        search=search,
        chosen=[*map(search.describe, columns)] or search.choose(),
        is_own_choice=bool(columns),
        embedding_dim=model.model_config.embedding_dim,
        neighbours=[
            (
                vocabulary[token_id],
                [(vocabulary[other], cosine) for other, cosine in others],
            )
            for token_id, others in neighbours
        ],
    )


def run():
    """Console entry point."""
    flags.run(main, configs.SavedModelConfig, configs.InspectConfig)
