"""Trains a recurrent model on your text and exports it.

  python train.py                                  a text that Python ships
  python train.py --corpus=mine.txt --epochs=20    your own text
  python train.py --corpus=mine.txt --max_minutes=10
  python train.py --flagfile=recipes/timemachine.flags
  python train.py --corpus=mine.txt --init_from=saved_models/pydoc
  python train.py --task=classifier --corpus=labelled.tsv
  python train.py --task=seq2seq --corpus=pairs.tsv

What no flag gives is chosen to fit a language model to its text, the machine
and the time: the size of the model, dropout, batches and learning rate. The
values in brackets hold for what is not chosen; --task lists what classifiers
and seq2seq models have in their place.

Writes the run to runs/CORPUS (checkpoints, TensorBoard, history.csv) and the
model to saved_models/CORPUS/1, 2, 3 ... After an interruption, the same command
resumes the run. Then: python generate.py --prompt="The "
"""

import sys

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.utils import terminal


def main(model_config, train_config):
    """Trains, exports, and prints what to try next."""
    from stacked_rnn import pipeline

    sys.stdout = terminal.SurvivingOutput(sys.stdout)
    outcome = pipeline.train(
        model_config, train_config, flags.given_flags(), started=flags.STARTED
    )
    if outcome and outcome.is_new:
        print(f"Exported {outcome.version}. Next:")
        for command in outcome.next_steps:
            print(f"  {command}")


def run():
    """Console entry point."""
    flags.run(main, configs.ModelConfig, configs.TrainConfig)
