"""Loading exported models, to use them from Python.

    classifier = inference.load("saved_models/rt-polarity")
    print(classifier.predict("a dull mess").labels)

A loaded model needs nothing but the directory of its version. Only the methods
`export` and `inspect` import `models`.
"""

import importlib
import os

from stacked_rnn import saved_models
from stacked_rnn.configs import UserError
from stacked_rnn.inference.activations import Activations, read_activations
from stacked_rnn.inference.base import LoadedModel
from stacked_rnn.inference.classifier import Prediction, SavedClassifier
from stacked_rnn.inference.conversation import Conversation
from stacked_rnn.inference.inspection import inspect_text
from stacked_rnn.inference.language_model import SavedLanguageModel
from stacked_rnn.inference.seq2seq import Attention, Output, SavedSeq2Seq


def load(saved_model="", *tasks) -> LoadedModel:
    """Loads an exported model.

    Side effect: switches off TensorFlow's graph optimizer for the rest of the
    process, see `saved_models.load_functions`.

    Args:
        saved_model: the directory of a version, such as saved_models/cats/3,
            or its parent, which stands for its highest version; the directory
            of a run; a .zip archive of a model; or hf://USER/NAME on the
            Hugging Face Hub. Empty: the newest model under saved_models/.
        *tasks: the tasks to accept, names in `configs.TASKS`; none: all tasks.

    Returns:
        A `SavedLanguageModel`, `SavedClassifier` or `SavedSeq2Seq`.

    Raises:
        UserError: the model does not exist, is damaged, or is for another task.
    """
    path = os.fspath(saved_model)
    if not isinstance(path, str):
        raise UserError(f"{saved_model!r:.60}: expected a path")
    return from_description(saved_models.find_description(path, *tasks))


def from_description(description) -> LoadedModel:
    """Loads the exported model that a `saved_models.Description` is about.

    As `load`, for who has looked at the metadata first.
    """
    functions = saved_models.load_functions(description.path)
    module, _, name = description.info.loaded_class.partition(":")
    loaded_class = getattr(importlib.import_module(module), name)
    return loaded_class(description, functions)
