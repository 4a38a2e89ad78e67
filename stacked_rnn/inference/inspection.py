"""Looking inside a language model while it reads a text."""

from stacked_rnn import metrics, model_cards, saved_models
from stacked_rnn.configs import UserError
from stacked_rnn.inference import activations
from stacked_rnn.reports import inspection_html, surprisal_html

_MOST_TOKENS = 16  # whose neighbours are shown
_NEIGHBOURS = 5


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
    from stacked_rnn import models  # imported late: loading needs none

    tokenizer, description = model.tokenizer, model.description
    token_ids, nats = model.token_nats(text)
    if not len(nats):
        raise UserError("--text: the text is shorter than two tokens")
    keras_model = models.read_saved_model(description)
    weights = {weight.path: weight.numpy() for weight in keras_model.weights}
    read = activations.read_activations(model, weights, token_ids)

    vocabulary = model.token_texts.tolist()
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
