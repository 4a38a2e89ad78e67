"""Warnings about a version that takes the place of another by accident.

A short trial becomes the highest version of a model, and what is served, as
easily as a good one.
"""

from stacked_rnn import saved_models
from stacked_rnn.configs import UserError

# Another seed moves what validation says by a percent or two, or a few texts
# in a thousand: more is no accident.
_RATIO = 1.05  # of costs: clearly worse is more than so much of the old one
_SHARE = 0.02  # of correct outputs: clearly worse is so many fewer
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
        return [f"it is {new.info.title}, not {old.info.title}"]
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
    for name in new.info.output_entries:
        if old.entries[name] != new.entries[name]:
            found.append(f"its {name.replace('_', ' ')} differ")
    return found


def _worse(old, new) -> str:
    """How the validation is worse; empty: it is not, or nobody knows."""
    info = new.info
    name, text, is_share = info.quality, info.quality_format, info.is_share
    try:
        old, new = (one.training["validation"] for one in (old, new))
        if is_share and old[name] < _SHARE:  # nothing to lose there
            name, text, is_share = "loss", "loss {:.3f}", False
        old, new = float(old[name]), float(new[name])
    except (KeyError, TypeError, ValueError):
        return ""  # one of them was not validated
    is_as_good = new >= old - _SHARE if is_share else new <= _RATIO * old
    return "" if is_as_good else f"{text.format(new)}, not {text.format(old)}"


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
