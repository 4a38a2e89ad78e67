"""Warm-up requests, which TensorFlow Serving runs before it serves a version.

A file of TFRecords, each a PredictionLog. The messages are of the package
tensorflow-serving-api, which nothing else here needs: the few fields are
written by hand, in the wire format of protocol buffers.
"""

import tensorflow as tf

FILE = "assets.extra/tf_serving_warmup_requests"


def write(path, requests) -> None:
    """Writes requests for signatures.

    Args:
        path: the file to write.
        requests: (signature name, {input name: tensor}) for each request.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature_name, inputs in requests:
            writer.write(_prediction_log(signature_name, inputs))


def _prediction_log(signature_name, inputs) -> bytes:
    """PredictionLog.predict_log.request, a PredictRequest."""
    request = _field(1, _field(3, signature_name.encode()))  # model_spec
    for name, tensor in inputs.items():
        proto = tf.make_tensor_proto(tensor).SerializeToString()
        request += _field(2, _field(1, name.encode()) + _field(2, proto))
    return _field(6, _field(1, request))


def _field(number, content) -> bytes:
    """A field of bytes, a string or a message."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value) -> bytes:
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])
