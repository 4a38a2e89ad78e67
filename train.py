"""Trains a recurrent model on your text and exports it."""

from stacked_rnn.cli.train import run

if __name__ == "__main__":
    run()
