"""Serves exported models over the APIs of OpenAI and TensorFlow Serving."""

from stacked_rnn.cli.serve import run

if __name__ == "__main__":
    run()
