"""Checkpoints that survive a damaged file or a full disk."""

import pathlib
import shutil
import sys

import tensorflow as tf

from stacked_rnn.configs import DiskError


class Checkpoints:
    """The last few checkpoints of a directory, named by training step.

    Args:
        directory: a directory that holds nothing else.
        keep: number of checkpoints to keep.
        **objects: the objects to save, as for `tf.train.Checkpoint`.
    """

    def __init__(self, directory, keep, **objects):
        self._directory = pathlib.Path(directory)
        for part in self._directory.glob("ckpt-*_temp"):  # of a killed process
            shutil.rmtree(part, ignore_errors=True)
        try:
            tf.train.get_checkpoint_state(directory)
        except ValueError:  # the manager cannot start with an empty list
            # Other workers may delete it at the same time.
            (self._directory / "checkpoint").unlink(missing_ok=True)
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(**objects), str(directory), max_to_keep=keep
        )

    def save(self, step) -> None:
        """Writes a checkpoint, whole or not at all.

        Raises:
            DiskError: writing failed; earlier checkpoints are unchanged.
        """
        try:
            self._manager.save(step)
        except (OSError, tf.errors.OpError) as error:
            for part in self._directory.glob(f"ckpt-{step}*"):
                shutil.rmtree(part) if part.is_dir() else part.unlink()
            raise DiskError(
                f"--model_dir: cannot write a checkpoint in {self._directory} "
                f"({_reason(error)}); earlier ones are kept: free some space, "
                "and run the same command again"
            ) from error

    def restore(self) -> bool:
        """Restores the newest readable checkpoint; warns of unreadable ones.

        Returns:
            Whether there was a readable one.
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
                    f"({type(error).__name__}), skipped",
                    file=sys.stderr,
                )
        return False


def find(directory) -> list[str]:
    """Lists the complete checkpoints of a directory, oldest first.

    They are found by name, as the file in which TensorFlow lists them may be
    damaged too.
    """
    steps = [
        int(path.stem.removeprefix("ckpt-"))
        for path in pathlib.Path(directory).glob("ckpt-*.index")
    ]
    return [f"{directory}/ckpt-{step}" for step in sorted(steps)]


def describe(directory) -> str:
    """Names the last checkpoint of a directory in a phrase."""
    paths = find(directory)
    if not paths:
        return "no checkpoint was written yet"
    return f"the last good checkpoint is {paths[-1]}"


def _reason(error) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "message", "")
    return text.splitlines()[0] if text else type(error).__name__
