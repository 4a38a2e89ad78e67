"""Warnings about a version that takes the place of another by accident.

A short trial becomes the highest version of a model, and what is served, as
easily as a good one.
"""

from stacked_rnn import saved_models
from stacked_rnn.configs import UserError

# What validation says about a model of each task. Another seed moves these by
# a percent or two, or a few texts in a thousand: more is no accident.
_FIGURES = {
    "language_model": (
        "bits_per_character",
        "{:.2f} bits per character, not {:.2f}",
    ),
    "classifier": ("accuracy", "accuracy {:.3f}, not {:.3f}"),
    "seq2seq": ("exact_match", "{:.1%} exact, not {:.1%}"),
}
_LOSS = ("loss", "loss {:.3f}, not {:.3f}")
_RATIO = 1.05  # of bits or nats: clearly worse is more than so much of the old
_SHARE = 0.02  # of right answers: clearly worse is so many fewer
_TRAINING_ALONE = (  # the exported model is the same without these
    "embedding_stddev",
    "dropout",
    "recurrent_dropout",
    "embedding_dropout",
)
_OF_TOKENIZER = ("vocabulary_size", "end_of_text")


def differences(old, new) -> list[str]:
    """What may be an accident about a version that takes over from another.

    Args:
        old, new: the `saved_models.Description`s of two versions of one model.

    Returns:
        Clauses such as "it validates worse (5.56 bits per character, not
        1.72)"; none where the new one is of the same kind and as good.
    """
    if old.task != new.task:
        names = [one.task.replace("_", " ") for one in (new, old)]
        return ["it is a {}, not a {}".format(*names)]
    found = []
    if worse := _worse(old, new):
        found.append(f"it validates worse ({worse})")
    layers = [
        text
        for text in old.model_config.differences(new.model_config)
        if text.partition(":")[0] not in _TRAINING_ALONE + _OF_TOKENIZER
    ]
    if layers:
        found.append(f"its architecture differs ({'; '.join(layers)})")
    if old.tokenizer.to_dict() != new.tokenizer.to_dict():
        found.append(f"its tokenizer differs ({_tokens(old, new)})")
    if (old.labels, old.several_labels) != (new.labels, new.several_labels):
        found.append("its classes differ")
    return found


def _worse(old, new) -> str:
    """How the validation is worse; empty: it is not, or nobody knows."""
    figure, text = _FIGURES[new.task]
    try:
        old, new = (one.training["validation"] for one in (old, new))
        if figure == "exact_match" and old[figure] < _SHARE:
            figure, text = _LOSS  # nothing to lose there
        old, new = float(old[figure]), float(new[figure])
    except (KeyError, TypeError, ValueError):
        return ""  # one of them was not validated
    if figure in ("accuracy", "exact_match"):
        is_as_good = new >= old - _SHARE
    else:
        is_as_good = new <= _RATIO * old
    return "" if is_as_good else text.format(new, old)


def _tokens(old, new) -> str:
    """How two tokenizers differ."""
    sizes = [
        f"{one.tokenizer.kind} of {one.tokenizer.vocabulary_size():,} tokens"
        for one in (new, old)
    ]
    if sizes[0] == sizes[1]:
        return f"{sizes[0]}, but not the same ones"
    return "{}, not {}".format(*sizes)


def warning(path) -> str:
    """A line about a version that was just exported.

    Args:
        path: its directory, beside those of the versions before it.

    Returns:
        In what it differs from the version before, and how to get that one
        back; empty where it does not.
    """
    number = saved_models.version_number(path)
    try:
        before = next(
            version
            for version in saved_models.find_versions(path.parent)
            if saved_models.version_number(version) < number
        )
        found = differences(*map(saved_models.read_description, (before, path)))
    except (StopIteration, OSError, UserError):  # there is none to read
        return ""
    if not found:
        return ""
    return (
        f"{path} takes the place of version {before.name} and is what is "
        f"served now: {'; '.join(found)}. --saved_model={before} names the old "
        f"one, deleting {path} brings it back, and another --export_dir keeps "
        "two models apart"
    )
