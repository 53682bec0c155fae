"""keras' TensorFlow trainer around a sharpness-aware step."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from samkeras.backend.interface import Logs, Rows
from samkeras.backend.tensorflow import (
    CompiledSteps,
    count_examples,
    count_parts,
    share_of,
)
from samkeras.objective import Batch
from samkeras.tensors import Tensor
from samkeras.trainer.base import BaseTrainer


class Trainer(BaseTrainer):
    """Keras' TensorFlow trainer, whose losses and gradients are those of the whole
    batch on any number of replicas."""

    _num_traces = 0.0

    def train_step(self, data: Batch) -> dict[str, Tensor]:
        self._note_trace()
        if self._is_plain and count_parts() == 1:
            return super().train_step(data)
        # Before the step reads variables; keras makes them when it first calls a layer.
        if not all(layer.built for layer in self._flatten_layers()):
            self._symbolic_build(data_batch=data)
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        with tf.init_scope():  # its state may be assigned as it is made
            self._build_method()
        return self._take_step(data)

    def test_step(self, data: Batch) -> dict[str, Tensor]:
        self._note_trace()
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False) if self._call_has_training_arg else self(x)
        loss = self._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False
        )
        self._track_loss(loss * count_parts(), self._share(data), data)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _forward(self, batch: Batch) -> tuple[Any, Tensor]:
        y_pred, loss = super()._forward(batch)
        # Keras divides a replica's loss by the number of replicas, because the
        # optimizer sums their gradients. Here a replica's is its examples' mean.
        return y_pred, loss * count_parts()

    def _find_averaged(self) -> list[keras.Variable]:
        averaged = self.variables
        if not tf.executing_eagerly() and self._compile_loss is not None:
            # Keras counts an output's loss once for each batch there.
            losses = self._compile_loss.metrics
            averaged = averaged + [v for metric in losses for v in metric.variables]
        return averaged

    def _share(self, batch: Batch) -> Tensor | None:
        sample_weight = keras.utils.unpack_x_y_sample_weight(batch)[2]
        is_weighted = getattr(self.loss, "reduction", "") == "mean_with_sample_weight"
        if is_weighted and sample_weight is not None and self._rule.m_sharpness is None:
            return share_of(tf.reduce_sum(tf.cast(sample_weight, tf.float32)))
        return share_of(count_examples(batch))

    def _track_loss(self, loss: Tensor, share: Tensor | None, batch: Batch) -> None:
        weight = tf.cast(count_examples(batch), tf.float32)
        if share is not None:
            weight *= share * count_parts()  # their parts are of one size
            loss = tf.where(share > 0, loss, 0.0)
        self._loss_tracker.update_state(loss, sample_weight=weight)

    def _apply(self, gradients: list[Tensor], reached: Sequence[bool]) -> None:
        # The optimizer sums the replicas' gradients, which are all the same here. As in
        # plain keras it leaves alone the weights that the loss does not reach, unless
        # l2 decays them.
        parts = [
            g / count_parts() if is_reached or self._rule.l2 is not None else None
            for g, is_reached in zip(gradients, reached, strict=True)
        ]
        self.optimizer.apply(parts, self.trainable_variables)

    def train_on_batches(
        self, batches: Sequence[Batch] | Rows, like: Any = None
    ) -> Logs:
        self._build_like(batches)
        self.make_train_function()
        return self._train_steps(batches, like)

    def test_on_batches(
        self, batches: Sequence[Batch] | Rows, like: Any = None
    ) -> Logs:
        self._build_like(batches)
        self.make_test_function()
        return self._test_steps(batches, like)

    def make_train_function(self, force: bool = False) -> Any:
        # Keras' own takes an iterator of tf.data.
        if self.train_function is None or force:
            self._train_steps = self._compile_steps(self.train_step, self._read_logs)
        return super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> Any:
        if self.test_function is None or force:
            self._test_steps = self._compile_steps(
                self.test_step, self.get_metrics_result
            )
        return super().make_test_function(force)

    def _compile_steps(
        self, step: Callable[[Batch], Logs], read: Callable[[], Logs]
    ) -> CompiledSteps:
        return CompiledSteps(
            step,
            read,
            self.steps_per_execution,
            self.distribute_strategy,
            self.jit_compile,
            self.run_eagerly,
        )

    def count_programs(self) -> int:
        """The programs made to train and to evaluate: without XLA one for all shapes
        of a batch."""
        return round(self._num_traces)

    def _note_trace(self) -> None:
        if not tf.executing_eagerly():
            self._num_traces += 1 / count_parts()  # each of which traces the step
