"""SavedModels, loaded: texts in, texts or labels out.

They read the directory of a version alone, and import neither models nor
training.
"""

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

_CLASSES = {
    "language_model": SavedLanguageModel,
    "classifier": SavedClassifier,
    "seq2seq": SavedSeq2Seq,
}


def load(saved_model="", task=None) -> LoadedModel:
    """Loads a SavedModel that `export` wrote.

    Switches TensorFlow's graph optimizer off, for all that the process does
    afterwards.

    Args:
        saved_model: a version directory, or its parent: the highest version;
            empty: the newest under saved_models/.
        task: what it must be for, as `--task` has it; None: any.

    Returns:
        A `SavedLanguageModel`, a `SavedClassifier` or a `SavedSeq2Seq`.

    Raises:
        UserError: naming what is missing, damaged, or of another task.
    """
    description = saved_models.find_description(saved_model, task)
    functions = saved_models.load_functions(description.path)
    return _CLASSES[description.task](description, functions)
