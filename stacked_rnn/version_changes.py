"""Warnings about a new version that replaces a better or different one.

The highest version of a model is the one that is served, even if it is only a
short trial that was exported to the same directory by accident.
"""

from stacked_rnn import saved_models
from stacked_rnn.configs import REGULARIZERS

# When the new version is clearly worse. Another seed changes the cost by a
# percent or two, and the fraction of correct outputs by a few in a thousand.
_MAX_RATIO = 1.05  # new cost / old cost
_MAX_DROP = 0.02  # old fraction of correct outputs - new fraction
# Settings without effect on an exported model.
_TRAINING_ONLY = ("embedding_stddev", *REGULARIZERS)
_TOKENIZER_ONLY = ("vocabulary_size", "end_of_text")


def differences(old, new) -> list[str]:
    """Lists how a new version is worse than an old one, or differs in kind.

    Args:
        old, new: the `saved_models.Description`s of two versions of one model.

    Returns:
        Clauses such as "it validates worse (5.560 bits/char, not 1.720
        bits/char)"; empty if the new version is of the same kind and as good.
    """
    if old.task != new.task:
        return [f"it is {new.info.title}, not {old.info.title}"]
    found = []
    if worse := _worse(old, new):
        found.append(f"it validates worse ({worse})")
    layers = [
        text
        for text in old.model_config.differences(new.model_config)
        if text.partition(":")[0] not in _TRAINING_ONLY + _TOKENIZER_ONLY
    ]
    if layers:
        found.append(f"its architecture differs ({'; '.join(layers)})")
    if old.tokenizer.to_dict() != new.tokenizer.to_dict():
        found.append(f"its tokenizer differs ({_tokenizer_change(old, new)})")
    for name in new.info.output_entries:
        if old.entries[name] != new.entries[name]:
            found.append(f"its {name.replace('_', ' ')} differ")
    return found


def _worse(old, new) -> str:
    """Tells how the validation is worse; empty if it is not, or not known."""
    info = new.info
    name, text, is_share = info.quality, info.quality_format, info.is_share
    try:
        old, new = old.training["validation"], new.training["validation"]
        if is_share and old[name] < _MAX_DROP:  # too little to lose
            name, text, is_share = "loss", "loss {:.3f}", False
        old, new = float(old[name]), float(new[name])
    except (KeyError, TypeError, ValueError):
        return ""  # a version was not validated
    is_as_good = new >= old - _MAX_DROP if is_share else new <= _MAX_RATIO * old
    return "" if is_as_good else f"{text.format(new)}, not {text.format(old)}"


def _tokenizer_change(old, new) -> str:
    """Tells how two tokenizers differ."""
    old, new = (
        f"{tokenizer.kind} of {tokenizer.vocabulary_size():,} tokens"
        for tokenizer in (old.tokenizer, new.tokenizer)
    )
    return (
        f"{new}, but not the same ones" if new == old else f"{new}, not {old}"
    )


def warning(path) -> str:
    """Returns a warning if a new version is worse than the one before it.

    Args:
        path: the directory of the new version, beside those of older ones.

    Returns:
        One line: the `differences`, and how to get the old version back. Empty
        if there are none, or no older version that can be read.
    """
    try:
        # Highest first; the export may not be the highest one any more.
        versions = saved_models.find_versions(path.parent)
        before = versions[versions.index(path) + 1]
        found = differences(*map(saved_models.read_description, (before, path)))
    except (LookupError, ValueError, OSError):
        return ""
    if not found:
        return ""
    return (
        f"{path} takes the place of version {before.name} and is served now, "
        f"but {'; '.join(found)}. To use the old version, give --saved_model="
        f"{before}; to serve it again, delete {path}; to keep both models, "
        "export to another --export_dir"
    )
