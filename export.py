"""Writes an exported model as one file for another runtime."""

from stacked_rnn.cli.export import run

if __name__ == "__main__":
    run()
