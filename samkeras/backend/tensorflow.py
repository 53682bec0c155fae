"""The train step on TensorFlow; keras fuses `steps_per_execution` there itself."""

import keras
import tensorflow as tf


class Trainer(keras.Model):
    """Keras' TensorFlow trainer with the SAM step."""

    def train_step(self, data):
        if self.perturbation is None and self._l2 is None and self.masks is None:
            return super().train_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.trainable_variables
        weights = [tf.convert_to_tensor(v.value) for v in variables]
        # Copies of the state before the first pass, for the passes after it: the same
        # dropout draws, and the batch statistics of the first pass alone kept.
        incoming = [(v, tf.identity(v.value)) for v in self.non_trainable_variables]
        step = self.optimizer.iterations
        loss_scale = self.optimizer.scale_loss(tf.ones(()))

        with tf.GradientTape() as tape:
            y_pred, loss = self._forward(x, y, sample_weight)
            scaled_loss = loss * tf.cast(loss_scale, loss.dtype)
        gradients = self._mask(_gradients(tape, scaled_loss, variables, loss_scale))
        num_examples = tf.shape(tf.nest.flatten(x)[0])[0]
        self._loss_tracker.update_state(loss, sample_weight=num_examples)

        def gradients_at(epsilon):
            perturbed = [w + e for w, e in zip(weights, epsilon, strict=True)]
            return self._gradients_at(perturbed, incoming, data)

        is_due = None
        if self.perturbation is not None:
            is_due = self._gradient_metrics.is_due(step)
        gradients, statistics = self._final_gradients(
            weights, gradients, gradients_at, step, is_due
        )
        factor = loss_scale / _num_replicas()
        gradients = [g * tf.cast(factor, g.dtype) for g in gradients]
        self.optimizer.apply(gradients, variables)
        if self.masks is not None:
            # An optimizer may move weights whose gradients are zero.
            self.masks.zero_weights()
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        if statistics:
            logs = {**logs, **self._gradient_metrics.update(statistics)}
        return logs

    def _gradients_at(self, weights, state, data):
        """Gradients at `weights` in place of the model's, from the state of other
        variables in pairs: unscaled, zero where weights are pruned, no side effects."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        loss_scale = self.optimizer.scale_loss(tf.ones(()))
        mapping = [*zip(self.trainable_variables, weights, strict=True), *state]
        # The stateless scope reads these weights in place of the variables and drops
        # every update, so nothing has to be restored.
        scope = keras.StatelessScope(state_mapping=mapping, collect_losses=True)
        with tf.GradientTape(watch_accessed_variables=False) as tape, scope:
            tape.watch(weights)
            _, loss = self._forward(x, y, sample_weight)
            scaled_loss = loss * tf.cast(loss_scale, loss.dtype)
        return self._mask(_gradients(tape, scaled_loss, weights, loss_scale))

    def make_gradient_function(self):
        """A compiled function from a batch (x, y[, sample_weight]) to the gradients of
        the training loss at the weights. Nothing of the model changes."""

        @tf.function
        def compute(batch):
            weights = [tf.convert_to_tensor(v.value) for v in self.trainable_variables]
            return self._gradients_at(weights, [], batch)

        def gradients_of(batch):
            self._symbolic_build(data_batch=batch)
            return compute(tf.nest.map_structure(tf.convert_to_tensor, batch))

        return gradients_of

    def _forward(self, x, y, sample_weight):
        training = {"training": True} if self._call_has_training_arg else {}
        y_pred = self(x, **training)
        loss = self._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )
        # Keras divides a replica's loss by the number of replicas, because the
        # optimizer sums their gradients. Until then a replica's is its batch's mean.
        return y_pred, loss * _num_replicas()


def _num_replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def _gradients(tape, scaled_loss, weights, loss_scale):
    gradients = [
        # Embeddings give sparse slices; norms and sums need them whole. Weights that
        # the loss does not reach give None.
        tf.zeros_like(w) if g is None else tf.convert_to_tensor(g)
        for g, w in zip(tape.gradient(scaled_loss, weights), weights, strict=True)
    ]
    return [g / tf.cast(loss_scale, g.dtype) for g in gradients]
