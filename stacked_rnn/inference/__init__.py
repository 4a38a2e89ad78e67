"""SavedModels, loaded: texts in, texts or labels out.

They read the directory of a version alone, and import neither models nor
training.
"""

import importlib

from stacked_rnn import saved_models
from stacked_rnn.inference.base import LoadedModel
from stacked_rnn.inference.classifier import Prediction, SavedClassifier
from stacked_rnn.inference.conversation import Conversation
from stacked_rnn.inference.language_model import SavedLanguageModel
from stacked_rnn.inference.seq2seq import Output, SavedSeq2Seq

__all__ = [
    "Conversation",
    "LoadedModel",
    "Output",
    "Prediction",
    "SavedClassifier",
    "SavedLanguageModel",
    "SavedSeq2Seq",
    "load",
]


def load(saved_model="", *tasks) -> LoadedModel:
    """Loads a SavedModel that `export` wrote.

    Switches TensorFlow's graph optimizer off, for all that the process does
    afterwards.

    Args:
        saved_model: a version directory, or its parent: the highest version;
            empty: the newest under saved_models/.
        *tasks: names in `configs.TASKS`: what it may be for; none: anything.

    Returns:
        A `LoadedModel` of the class of its task, such as `SavedClassifier`.

    Raises:
        UserError: naming what is missing, damaged, or of another task.
    """
    description = saved_models.find_description(saved_model, *tasks)
    functions = saved_models.load_functions(description.path)
    module, _, name = description.info.loaded_class.partition(":")
    module = importlib.import_module(module)
    return getattr(module, name)(description, functions)
