"""Recurrent scans with hand-written gradients, functions of plain tensors.

They do in ordinary TensorFlow ops, on a CPU, what cuDNN does on a GPU.
Automatic differentiation of a loop over time adds to the gradient of the
weights at every step. Here the backward loop carries only the gradient of the
state and records those of the gates; one large matmul per weight follows
(Appleyard et al. 2016, section 3).

Notation, for one time step, in the gate order of Keras:

    x        the projected inputs W x + b, [batch, gates * units]
    h, c     the state before the step and h', c' after it, [batch, units]
    U        the recurrent kernel, [units, gates * units]
    d name   the gradient of the loss with respect to a value

Sequences are [time, batch, ...]. Where `mask` [time, batch, 1] is False, a step
does not change the state. Where `state_mask` [time, batch, 1] is 0, the state
is set to zero before the step, because another text begins. `dropout_masks`
holds a mask [batch, units] per gate: the gate sees h times its mask, the same
at every step (Gal & Ghahramani 2016). x and the states share one dtype, in
which the gates are computed; the matmuls with U run in the dtype of U, such as
bfloat16.

With `jit_compile`, XLA compiles the forward and the backward loop separately,
which leaves the matmuls outside the loops to TensorFlow's own library.

Saving a model traces every custom gradient in it, which is slow: graphs for
inference are built with `custom_gradient=False`.

Second-order gradients are correct, because the values that the backward loop
uses are outputs of ordinary ops.
"""

from stacked_rnn.rnn_ops import cudnn, widths
from stacked_rnn.rnn_ops.scans import gru, lstm, simple_rnn
