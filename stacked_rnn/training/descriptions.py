"""Sentences about a run: what is trained, how far it is, its best epoch."""

from stacked_rnn.training import plan

_EPOCHS_OF_A_HINT = 3  # epochs after the best one, all worse
_GIGABYTES_TO_NAME = 0.5  # below, TensorFlow itself takes more


def describe_run(trainer) -> str:
    """Says in two lines what is trained on which text, and how."""
    config, windows = trainer.config, trainer.data.training
    steps = f"{windows.steps_per_epoch:,} steps"
    if trainer.is_timed:
        length = (
            f"epochs of {steps}, as many as fit in "
            f"{config.max_minutes:g} minutes"
        )
    else:
        length = f"{config.epochs:,} epoch(s) of {steps}"
    replicas = trainer.strategy.num_replicas_in_sync
    parts = replicas * config.accumulate_steps
    num_parameters = trainer.model.count_params()
    gigabytes = 1e-9 * plan.estimated_bytes(
        trainer.model.config,
        num_parameters,
        windows.batch_size // parts * windows.sequence_length,
        trainer.task.has_logits_at_each_token,
    )
    return (
        f"{num_parameters:,} parameters, {windows.num_tokens:,} tokens to "
        f"learn from, {length}"
        + (f", resuming at step {trainer.step:,}" if trainer.step else "")
        + "\nOn "
        + (f"{replicas} devices: " if replicas > 1 else "")
        + str(trainer.plan)
        + (
            f", about {gigabytes:.1f} GB of memory on each device"
            if gigabytes >= _GIGABYTES_TO_NAME
            else ""
        )
    )


def describe_progress(trainer) -> str:
    """Says how far the run is, in steps or in minutes."""
    if not trainer.is_timed:
        return f"step {trainer.step:,} of {trainer.total_steps:,}"
    return (
        f"step {trainer.step:,}, after {trainer.seconds / 60:.1f} of "
        f"{trainer.config.max_minutes:g} minutes"
    )


def describe_best(trainer) -> str:
    """Says which epoch the best weights are from, and what may improve them."""
    best = trainer.best_row
    if best is None:
        return "The weights are the last ones: there are no validation texts."
    epoch, epochs = best["epoch"] + 1, trainer.history[-1]["epoch"] + 1
    text = (
        f"The weights are those of epoch {epoch} of {epochs}, "
        f"val_loss {best['val_loss']:.4f}"
    )
    worse = epochs - epoch
    if worse < _EPOCHS_OF_A_HINT:
        return text + "."
    dropout = trainer.model.config.dropout
    advice = f"--dropout={min(0.5, dropout + 0.2):g}"
    if dropout >= 0.5:
        advice = f"--units={trainer.model.config.units // 2}"
    return (
        f"{text}: the {worse} epochs after it were worse. {advice} may help, "
        "and a larger text may help more; --early_stopping=3 saves the time."
    )
