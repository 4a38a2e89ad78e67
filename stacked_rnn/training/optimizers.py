"""Optimizers, by the names that --optimizer gives them."""

import keras
import tensorflow as tf

_OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}


class Muon(keras.optimizers.Muon):
    """Muon (Jordan et al. 2024), which takes each gate as a matrix.

    The update of a matrix is its momentum made orthogonal, so that no direction
    is learned much faster than the others. The embedding, the readout and the
    biases are learned by Adam. The root mean square of an update is a fixed
    multiple of the learning rate (Liu et al. 2025, arXiv:2502.16982, section
    2.2), so that rates that suit Adam suit all.

    Keras' optimizer would take the kernel of a recurrent layer, with its gates
    side by side, as one matrix: that costs more, and learns less
    (docs/quality.md).

    Args:
        learning_rate: a number or a schedule.
        weight_decay: as in `keras.optimizers.AdamW`; None: none.
        units: units of the recurrent layers.
        gates: number of gates of their cells.
    """

    _STEPS = 3  # of the iteration; with 5, as in the paper, nothing is gained

    def __init__(self, learning_rate, weight_decay=None, *, units, gates):
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            adam_weight_decay=weight_decay,
            adam_beta_2=0.99,
            exclude_layers=["readout", "bias"],
            ns_steps=self._STEPS,
            rms_rate=0.4,
            name="muon",
        )
        self._kernel_width, self._gates = gates * units, gates
        # In the few steps, rounding errors do not add up.
        self._product_dtype = tf.as_dtype(
            keras.config.dtype_policy().compute_dtype
        )

    def zeropower_via_newtonschulz5(self, x, steps):
        """Makes a matrix, or the matrix of each gate, orthogonal.

        Args:
            x: [inputs, outputs].
            steps: number of steps of the iteration.

        Returns:
            The same shape; the root mean square of the values is about 1.
        """
        is_kernel = x.shape[1] == self._kernel_width
        matrices = tf.split(x, self._gates if is_kernel else 1, axis=1)
        return tf.concat(
            [self._orthogonal(matrix, steps) for matrix in matrices], axis=1
        )

    def _orthogonal(self, matrix, steps):
        x = tf.cast(matrix / (tf.norm(matrix) + 1e-7), self._product_dtype)
        is_tall = x.shape[0] > x.shape[1]
        for _ in range(steps):
            # a x + b (x x') x + c (x x')^2 x, with the smaller of x x' and x' x
            square = tf.matmul(
                x, x, transpose_a=is_tall, transpose_b=not is_tall
            )
            square = self.muon_b * square + self.muon_c * (square @ square)
            x = self.muon_a * x + (x @ square if is_tall else square @ x)
        return tf.cast(x, tf.float32) * max(x.shape) ** 0.5

    def lr_adjust(self, x):
        """Scales an update."""
        return x * self.rms_rate


def make_optimizer(config, learning_rate, model):
    """Makes an optimizer, whose weight decay spares vectors and biases.

    Args:
        config: a `TrainConfig`.
        learning_rate: a number or a schedule.
        model: the model to train, one of `models`.

    Returns:
        A Keras optimizer, not yet built.
    """
    options = {}
    if config.weight_decay:
        options["weight_decay"] = config.weight_decay
    if config.optimizer == "muon":
        kernel = model.recurrent_layers[0].cell.recurrent_kernel
        units, width = kernel.shape
        optimizer = Muon(
            learning_rate, units=units, gates=width // units, **options
        )
    else:
        optimizer = _OPTIMIZERS[config.optimizer](learning_rate, **options)
    variables = model.trainable_variables
    if optimizer.weight_decay:
        optimizer.exclude_from_weight_decay(
            [
                variable
                for variable in variables
                # The bias of a GRU is [2, 3 * units].
                if len(variable.shape) < 2 or variable.name == "bias"
            ]
        )
    return optimizer
