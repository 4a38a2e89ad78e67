"""Recurrent scans with gradients written by hand: tensors in, tensors out.

What cuDNN does on a GPU, for a CPU, in TensorFlow's own ops. Autodiff of a loop
over time adds to the gradient of the weights at every step; here the loop back
only carries the gradient of the state and notes those of the gates, and one
large matrix product per weight follows (Appleyard et al. 2016, section 3).

Notation, for one time step, in the gate order of Keras:

    x        the projected inputs W x + b, [batch, gates * units]
    h, c     the state before the step and h', c' after it, [batch, units]
    U        the recurrent kernel, [units, gates * units]
    d name   the gradient of the loss with respect to a value

Sequences are [time, batch, ...]. Where a mask [time, batch, 1] is False, a step
leaves the state as it is. Where `state_mask` [time, batch, 1] is 0, the state
is set to zero before the step: another text begins. `dropout_masks` has a mask
[batch, units] for each gate: the gate sees h times its mask, the same one at
every step (Gal & Ghahramani 2016). x and the states have one dtype, in which
the gates are computed; the products with U run in the dtype of U (bfloat16,
say).

With `jit_compile` both loops are compiled by XLA, each on its own, which leaves
the products outside the loops to TensorFlow's own library.

A SavedModel traces the custom gradients of all it holds, for long: what is only
for inference does without them.

Second-order gradients are right: the saved values are outputs of ordinary ops.
"""

from stacked_rnn.rnn_ops import cudnn, widths
from stacked_rnn.rnn_ops.scans import gru, lstm, simple_rnn

__all__ = ["cudnn", "gru", "lstm", "simple_rnn", "widths"]
