"""The checkpoints of a run: a damaged one, or a full disk, costs no more."""

import pathlib
import shutil
import sys

import tensorflow as tf

from stacked_rnn.configs import UserError


class Checkpoints:
    """The last few checkpoints under one name, by training step.

    Args:
        directory: theirs alone.
        keep: how many are kept.
        **objects: what they hold, as `tf.train.Checkpoint` takes it.
    """

    def __init__(self, directory, keep, **objects):
        self._directory = pathlib.Path(directory)
        for part in self._directory.glob("ckpt-*_temp"):  # of a killed process
            shutil.rmtree(part, ignore_errors=True)
        try:
            tf.train.get_checkpoint_state(directory)
        except ValueError:  # an empty list of checkpoints stops the manager
            # Other workers do the same, at the same time.
            (self._directory / "checkpoint").unlink(missing_ok=True)
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(**objects), str(directory), max_to_keep=keep
        )

    def save(self, step) -> None:
        """Writes a checkpoint, whole or not at all.

        Raises:
            UserError: it cannot be written; those before it are as they were.
        """
        try:
            self._manager.save(step)
        except (OSError, tf.errors.OpError) as error:
            for part in self._directory.glob(f"ckpt-{step}*"):
                shutil.rmtree(part) if part.is_dir() else part.unlink()
            raise UserError(
                f"--model_dir: cannot write a checkpoint in {self._directory} "
                f"({_reason(error)}): those before it are kept: free some "
                "space, and the same command goes on"
            ) from error

    def restore(self) -> bool:
        """Restores the newest one that can be read, and says which cannot.

        Returns:
            False where there is none.
        """
        for path in reversed(find(self._directory)):
            try:
                self._manager.checkpoint.restore(
                    path
                ).assert_existing_objects_matched().expect_partial()
                return True
            except Exception as error:  # TensorFlow has many types for this
                print(
                    f"warning: {path} is damaged or from another version "
                    f"({type(error).__name__}), not read",
                    file=sys.stderr,
                )
        return False


def find(directory) -> list[str]:
    """The checkpoints in a directory that were written whole, oldest first.

    By their names: the file in which TensorFlow lists them may be damaged too.
    """
    steps = [
        int(path.stem.removeprefix("ckpt-"))
        for path in pathlib.Path(directory).glob("ckpt-*.index")
    ]
    return [f"{directory}/ckpt-{step}" for step in sorted(steps)]


def describe(directory) -> str:
    """The last one in a directory, in words."""
    paths = find(directory)
    if not paths:
        return "no checkpoint was written yet"
    return f"the last good checkpoint is {paths[-1]}"


def _reason(error) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "message", "")
    return text.splitlines()[0] if text else type(error).__name__
