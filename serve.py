"""Serves exported models: OpenAI's and TensorFlow Serving's APIs, a page."""

from stacked_rnn.cli.serve import run

if __name__ == "__main__":
    run()
