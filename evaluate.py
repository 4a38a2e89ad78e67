"""Scores a text with an exported model: one JSON object on standard output."""

from stacked_rnn.cli.evaluate import run

if __name__ == "__main__":
    run()
