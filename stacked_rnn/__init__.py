"""stacked_rnn: train, export and serve recurrent language models.

    import stacked_rnn

    model = stacked_rnn.train("mine.txt", minutes=2)
    print(model.generate("Once ", max_new_tokens=200, temperature=0.7, seed=1))
    model = stacked_rnn.load("saved_models/mine")

This module imports nothing before it is used, so that `train.py --help` starts
fast.
"""

__version__ = "0.1.0"
__all__ = ["load", "train"]

# Public name -> the module that has it.
_MODULES = {"load": "stacked_rnn.inference", "train": "stacked_rnn.api"}


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from stacked_rnn.utils import quiet_import

    quiet_import.import_tensorflow()
    return getattr(importlib.import_module(_MODULES[name]), name)
