"""`stacked_rnn.train`, almost without training: it tries code that calls it."""

import shutil

import stacked_rnn
from stacked_rnn import configs

# The first step ends the run, which is validated and exported.
_SETTINGS = {"minutes": 0.01, "epochs": 0, "jit_compile": False}
_DEFAULTS = {"trackers": "", "units": 16}
_train = stacked_rnn.train
_trained = {}


def train(*arguments, **settings):
    """Trains for a step, without XLA, whatever time is asked for."""
    return _train(*arguments, **_DEFAULTS | settings | _SETTINGS)


def train_once(corpus=None, **settings):
    """Trains on each text once; later, it only checks the settings.

    It then returns the same model, and copies its run into the `model_dir`.
    """
    key = corpus, settings.get("task")
    if key not in _trained:
        model = train(corpus, **settings)
        _trained[key] = model, settings.get("model_dir")
        return model
    values = {
        name: value
        for name, value in settings.items()
        if name not in ("minutes", "callbacks", "verbose")
    }
    kinds = configs.ModelConfig, configs.TrainConfig
    configs.check_names(values, *kinds)
    configs.replace_settings([kind() for kind in kinds], values)
    model, run = _trained[key]
    if run:
        shutil.copytree(run, settings["model_dir"], dirs_exist_ok=True)
    return model
