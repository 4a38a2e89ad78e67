"""Tasks: what training needs of each. The second of two registries.

`configs.TASKS` is the first one: what every module may know about a task.
"""

from stacked_rnn.tasks.base import Task
from stacked_rnn.tasks.classifier import ClassifierTask
from stacked_rnn.tasks.language_model import LanguageModelTask
from stacked_rnn.tasks.seq2seq import Seq2SeqTask

__all__ = [
    "TASKS",
    "ClassifierTask",
    "LanguageModelTask",
    "Seq2SeqTask",
    "Task",
]

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (LanguageModelTask, ClassifierTask, Seq2SeqTask)
}
