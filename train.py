"""Trains a recurrent language model on your text and exports it.

  python train.py                                  a text that Python ships
  python train.py --corpus=mine.txt --epochs=20    your own
  python train.py --flagfile=recipes/timemachine.flags
  python train.py --corpus=mine.txt --init_from=saved_models/pydoc

Writes the run to runs/CORPUS (checkpoints, TensorBoard, history.csv) and the
model to saved_models/CORPUS/1, 2, 3 ... Run the same command again to go on
after an interruption. Then: python generate.py --prompt="The "
"""

import dataclasses
import pathlib

from stacked_rnn import command_line, configs


def main(model_config, train_config):
    """Text in, SavedModel out."""
    from stacked_rnn import training

    with training.lost_workers_explained():
        train(
            model_config,
            train_config,
            training.make_strategy(train_config.strategy),
        )


def train(model_config, train_config, strategy):
    """Trains and exports; of several processes the chief alone writes."""
    from stacked_rnn import datasets, export, finetuning, training

    name = pathlib.Path(train_config.corpus.split(",")[0]).name.split(".")[0]
    name = name.strip("-*?[]") or "corpus"
    model_dir = train_config.model_dir or f"runs/{name}"
    export_dir = train_config.export_dir or f"saved_models/{name}"

    start = finetuning.prepare(
        model_config, train_config, model_dir, command_line.given_flags()
    )
    model_config, train_config = start.model_config, start.train_config
    data = datasets.load_language_data(
        train_config, model_config.vocabulary_size, start.tokenizer
    )
    model_config = dataclasses.replace(
        model_config,
        vocabulary_size=data.tokenizer.vocabulary_size(),
        end_of_text=data.tokenizer.end_id is not None,
    )
    command_line.writable_directory("export_dir", export_dir)
    model_dir = command_line.writable_directory("model_dir", model_dir)
    trainer = training.Trainer(
        model_config,
        train_config,
        data,
        model_dir,
        strategy,
        initial_weights=start.weights,
    )
    if not trainer.is_chief:
        trainer.fit()
        return
    command_line.warn_of_unknown_parts(data.unknown_parts)
    (model_dir / "config.flags").write_text(
        command_line.to_flags(model_config, train_config)
    )
    print(trainer.describe())
    if start.path and not trainer.step:
        print(f"Beginning with the weights of {start.path}")

    generator = export.TextGenerator(
        trainer.model.for_inference(), data.tokenizer
    )
    trainer.fit(callbacks(trainer, generator))

    generator.model.set_weights(trainer.best_model().get_weights())
    version = generator.save(export_dir, trainer.summary())
    curves = model_dir / "curves.png"
    if trainer.history and not training.draw_curves(trainer.history, curves):
        curves = "not drawn, matplotlib is missing: pip install matplotlib"
    if trainer.interrupted:
        print(
            f"Stopped at step {trainer.step} of {trainer.total_steps}; the "
            "same command goes on from there."
        )
    print(
        f"\nExported {version}. Next:\n"
        f'  python generate.py --saved_model={version} --prompt="The "\n'
        f"  python evaluate.py --saved_model={version} --text=FILE\n"
        f"  tensorboard --logdir={model_dir / 'tensorboard'}\n"
        f"Curves: {curves}"
    )


def callbacks(trainer, generator):
    """TensorBoard, and a short text of the model after each epoch."""
    import keras

    from stacked_rnn import training

    def sample(epoch):
        generator.model.set_weights(trainer.model.get_weights())
        return generator.sample(100, seed=epoch)

    directory = trainer.model_dir / "tensorboard"
    settings = trainer.model.config.to_dict() | trainer.config.to_dict()
    return [
        keras.callbacks.TensorBoard(str(directory), write_graph=False),
        training.SampleTexts(directory / "train", settings, sample),
    ]


def run():
    """Console entry point."""
    command_line.run(main, configs.ModelConfig, configs.TrainConfig)


if __name__ == "__main__":
    run()
