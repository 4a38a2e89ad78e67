"""Generates text from an exported model, with no need of the training data."""

from stacked_rnn.cli.generate import run

if __name__ == "__main__":
    run()
