"""stacked_rnn: train, ship and serve recurrent language models.

The rooms are modules; import the one you need:

    from stacked_rnn import configs, models
    model = models.build_language_model(configs.ModelConfig(vocabulary_size=65))

Nothing is imported here, so that `train.py --help` answers at once.
"""

__version__ = "0.1.0"
