"""stacked_rnn: train, export and serve recurrent language models.

Import the subpackages you need:

    from stacked_rnn import configs, models
    model = models.build_language_model(configs.ModelConfig(vocabulary_size=65))

This module imports nothing itself, so that `train.py --help` starts fast.
"""

__version__ = "0.1.0"
