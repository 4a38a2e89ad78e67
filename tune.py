"""Searches for the flags of train.py that train the best model."""

from stacked_rnn.cli.tune import run

if __name__ == "__main__":
    run()
