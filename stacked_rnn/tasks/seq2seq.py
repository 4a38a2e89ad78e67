"""The seq2seq task: rewriting texts."""

import random

import tensorflow as tf

from stacked_rnn import datasets, export, inference, metrics, models, training
from stacked_rnn.reports import plots
from stacked_rnn.tasks import base
from stacked_rnn.utils import terminal

_SCORED = 1000  # validation pairs to score after training
_DRAWN = 3  # validation texts whose attention is drawn


class Seq2SeqTask(base.Task):
    """Rewrites texts.

    The sums are the nats of the target tokens, their number, the number of
    exact texts, and the number of texts. A text is exact if each target token
    is the likeliest one; greedy decoding then writes this very target, so that
    exact matches are counted without decoding. It never writes a target with an
    unknown token.
    """

    name = "seq2seq"
    num_sums = 4

    @classmethod
    def read(cls, start):
        return cls(
            datasets.load_pair_data(
                start.train_config, start.model_config.vocabulary_size
            )
        )

    def warn(self):
        super().warn()
        terminal.warn_of(
            self.data.num_too_long,
            "pair(s) have a text of more than --sequence_length="
            f"{self.data.max_tokens} tokens: left out",
        )

    def build(self, model_config, use_cudnn):
        return models.build_seq2seq(model_config, use_cudnn)

    def sums(self, model, inputs, targets, states, seed=None):
        """See `Task.sums`.

        Args:
            model: a `models.Seq2Seq`.
            inputs: {source_ids, source_mask, target_ids}, each [batch, time].
            targets: int32 [batch, target time].
            states: empty.
            seed: not None in training, with dropout.
        """
        logits = model(inputs, training=seed is not None)["logits"]
        is_target = targets >= 0
        ranked, unknown_id = logits, self.data.tokenizer.unknown_id
        if unknown_id is not None:  # which is never written
            is_unknown = tf.range(logits.shape[-1]) == unknown_id
            ranked = tf.where(is_unknown, logits.dtype.min, logits)
        is_correct = tf.argmax(ranked, -1, tf.int32) == targets
        is_text = tf.reduce_any(is_target, axis=1)
        is_exact = is_text & tf.reduce_all(is_correct | ~is_target, axis=1)
        nats = tf.reduce_sum(metrics.token_nats(logits, targets))
        counts = (
            tf.reduce_sum(tf.cast(mask, tf.float32))
            for mask in (is_target, is_exact, is_text)
        )
        return tf.stack([nats, *counts]), states

    def score(self, sums, batches):
        return metrics.Seq2SeqScore(*sums)

    def exported(self, model):
        return export.TextRewriter(
            model, self.data.tokenizer, 2 * self.data.longest_target
        )

    def callbacks(self, trainer, exported):
        """Prints a text and its rewriting after each epoch."""
        pairs = self.data.validation_texts
        if pairs is None:
            return []

        def sample(epoch):
            exported.model.set_weights(trainer.weights())
            text = random.Random(epoch).choice(pairs.sources)
            outputs = exported.serving_default(tf.constant([text]))["outputs"]
            return f"{text} -> {outputs[0].numpy().decode()}"

        return [training.SampleTexts(trainer, sample)]

    def report(self, version, model_dir):
        pairs = self.data.validation_texts
        if pairs is None:
            return
        model = inference.load(version)
        shown = pairs.sample(_SCORED)
        with terminal.progress_bar(len(shown.sources), "text") as progress:
            result = model.evaluate(shown, progress=progress)
        print(
            f"\nOn {result['examples']:,} validation texts: "
            f"{result['exact_match']:.1%} exact, "
            f"{result['edit_distance']:.4f} edits per character"
        )
        picture = model_dir / "attention.png"
        maps = [
            model.align(result.text, result.output)
            for result in model.rewrite(pairs.sample(_DRAWN).sources)
        ]
        if plots.draw_attention(maps, picture):
            print(f"Drawn: {picture}")

    def next_steps(self, version):
        pairs = self.data.validation_texts
        text = pairs.sources[0] if pairs else "..."
        return base.commands_to_predict(version, text, "PAIRS.tsv")
