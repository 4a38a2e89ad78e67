"""Generates text with an exported language model."""

from stacked_rnn.cli.generate import run

if __name__ == "__main__":
    run()
