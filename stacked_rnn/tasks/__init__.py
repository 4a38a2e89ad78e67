"""The registry of the tasks' code: data, model, loss and reports of each.

`configs.TASKS` describes the tasks as data, which every module may import.
"""

from stacked_rnn.tasks.base import Task
from stacked_rnn.tasks.classifier import ClassifierTask
from stacked_rnn.tasks.language_model import LanguageModelTask
from stacked_rnn.tasks.seq2seq import Seq2SeqTask

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (LanguageModelTask, ClassifierTask, Seq2SeqTask)
}
