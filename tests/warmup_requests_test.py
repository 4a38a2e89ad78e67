"""Warm-up requests, parsed by TensorFlow Serving's own messages."""

import pytest
import tensorflow as tf

from stacked_rnn import saved_models
from stacked_rnn.export import warmup_requests
from tests.helpers import exports


def test_warm_up_requests_parse_and_run(letters, loaded):
    logs = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2",
        reason="tensorflow-serving-api is not installed",
    )
    records = tf.data.TFRecordDataset(str(letters / warmup_requests.FILE))
    signatures = loaded.functions.signatures
    names = []
    for record in records:
        log = logs.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        names.append(request.model_spec.signature_name)
        inputs = {
            name: tf.constant(tf.make_ndarray(proto))
            for name, proto in request.inputs.items()
        }
        signatures[names[-1]](**inputs)
    assert names == ["serving_default", "generate", "score", "embed", "prefill"]


def test_long_fields_are_encoded(tmp_path):
    logs = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2",
        reason="tensorflow-serving-api is not installed",
    )
    text = b"x" * 100_000
    warmup_requests.write(
        tmp_path / "log", [("score", {"texts": tf.constant([text])})]
    )
    [record] = tf.data.TFRecordDataset(str(tmp_path / "log"))
    log = logs.PredictionLog.FromString(record.numpy())
    texts = log.predict_log.request.inputs["texts"]
    assert tf.make_ndarray(texts).tolist() == [text]


@exports.in_memory()
def test_an_export_records_its_training(generator, tmp_path):
    path = generator.save(tmp_path, {"corpus": "letters", "epochs": 2})
    assert saved_models.read_description(path).training == {
        "corpus": "letters",
        "epochs": 2,
    }
    assert (
        saved_models.read_description(generator.save(tmp_path)).training is None
    )
