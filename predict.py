"""Labels texts with a classifier, or rewrites them with a seq2seq model."""

from stacked_rnn.cli.predict import run

if __name__ == "__main__":
    run()
