"""The train step on TensorFlow; keras fuses `steps_per_execution` there itself."""

import contextlib
import functools

import keras
import tensorflow as tf

from samkeras.step import shift_seeds


class Trainer(keras.Model):
    """Keras' TensorFlow trainer with the SAM step."""

    _num_traces = 0

    def count_programs(self):
        """The programs made to train and to evaluate: without XLA one for all shapes
        of a batch."""
        return round(self._num_traces)

    def test_step(self, data):
        self._note_trace()
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False) if self._call_has_training_arg else self(x)
        loss = self._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False
        )
        self._track_loss(loss * num_replicas(), self._share(data), data)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _track_loss(self, loss, share, data):
        """Adds a replica's loss to the mean of all batches."""
        weight = tf.cast(_count_examples(data), tf.float32)
        if share is not None:
            weight *= share * num_replicas()  # their parts are of one size
            loss = tf.where(share > 0, loss, 0.0)
        self._loss_tracker.update_state(loss, sample_weight=weight)

    def _share(self, data):
        """This replica's share of the batch's loss; None where it has it all."""
        sample_weight = keras.utils.unpack_x_y_sample_weight(data)[2]
        is_weighted = getattr(self.loss, "reduction", "") == "mean_with_sample_weight"
        if is_weighted and sample_weight is not None:
            return _share_of(tf.reduce_sum(tf.cast(sample_weight, tf.float32)))
        return _share_of(_count_examples(data))

    def _note_trace(self):
        if not tf.executing_eagerly():
            self._num_traces += 1 / num_replicas()  # each of which traces the step

    def train_step(self, data):
        self._note_trace()
        is_plain = self.perturbation is None and self._l2 is None and self.masks is None
        if is_plain and num_replicas() == 1:
            return super().train_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.trainable_variables
        weights = [tf.convert_to_tensor(v.value) for v in variables]
        # Copies of the state before the first pass, for every pass: the same dropout
        # draws, and the batch statistics of the first pass alone kept.
        state = [tf.identity(v.value) for v in self.non_trainable_variables]
        step = self.optimizer.iterations
        loss_scale = self.optimizer.scale_loss(tf.ones(()))

        if self.m_sharpness is None:
            share = self._share(data)
            passes = self._passes(weights, state, data, step, share)
        else:
            share = _share_of(_count_examples(data))
            passes = self._grouped_passes(weights, state, data, step)
        loss, y_pred, new_state, gradients, sam_gradients = passes
        for variable, value in zip(
            self.non_trainable_variables, new_state, strict=True
        ):
            variable.assign(value)
        self._track_loss(loss, share, data)

        is_due = None
        if self.perturbation is not None:
            is_due = self._gradient_metrics.is_due(step)
        gradients, statistics = self._final_gradients(
            weights, gradients, sam_gradients, step, is_due
        )
        # The optimizer sums the replicas' gradients, which are all the same here.
        factor = loss_scale / num_replicas()
        gradients = [g * tf.cast(factor, g.dtype) for g in gradients]
        self.optimizer.apply(gradients, variables)
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        if statistics:
            logs = {**logs, **self._gradient_metrics.update(statistics)}
        return logs

    def _passes(self, weights, state, data, step, share):
        """Both passes on a batch, or on a replica's part of it.

        Args:
            share: the part's share of the gradients that are summed over the replicas;
                None to leave them the part's own.

        Returns:
            loss, predictions and new non-trainable state of the first pass, gradients
            at w, gradients at w + epsilon.
        """

        def gradients_at(epsilon):
            perturbed = [w + e for w, e in zip(weights, epsilon, strict=True)]
            return _sum_over_replicas(self._pass(perturbed, state, data)[-1], share)

        *updates, gradients = self._pass(weights, state, data)
        gradients = _sum_over_replicas(gradients, share)
        return *updates, gradients, self._perturb(gradients, gradients_at, step)

    def _grouped_passes(self, weights, state, data, step):
        """As `_passes`, with an epsilon of each group of `m_sharpness` examples, and
        everything averaged over the groups and replicas."""
        size = self.m_sharpness
        num_examples = _count_examples(data)
        num_full = num_examples // size
        num_left = num_examples - num_full * size
        context = tf.distribute.get_replica_context()
        # Groups have numbers over all replicas, whose parts are equal but the last one.
        first_group = context.replica_id_in_sync_group * num_full

        def passes(number, group):
            """A group's part of the averages, and its predictions."""
            number += first_group
            variables = self.non_trainable_variables
            # Each group draws its own random numbers, whatever replica it is on.
            with _own_statistics(self):
                loss, y_pred, new_state, *gradients = self._passes(
                    weights, shift_seeds(variables, state, number), group, step, None
                )
            new_state = shift_seeds(variables, new_state, -number)
            share = _count_examples(group) / num_examples
            averaged = (loss, new_state, *gradients)
            return _map_floats(lambda t: t * tf.cast(share, t.dtype), averaged), y_pred

        def add(sums, more):
            return _map_floats(tf.add, more, sums)

        def body(number, sums, parts):
            group = _slice(data, number * size, size)
            more, y_pred = passes(number, group)
            parts = [
                part.write(number, leaf)
                for part, leaf in zip(parts, tf.nest.flatten(y_pred), strict=True)
            ]
            return number + 1, add(sums, more), parts

        outputs = self.compute_output_spec(
            keras.utils.unpack_x_y_sample_weight(data)[0]
        )
        parts = [
            tf.TensorArray(spec.dtype, num_full, element_shape=[size, *spec.shape[1:]])
            for spec in tf.nest.flatten(outputs)
        ]
        zeros = [tf.zeros_like(weight) for weight in weights]
        sums = (tf.zeros(()), state, zeros, zeros)
        sums = _map_floats(tf.zeros_like, sums)
        _, sums, parts = tf.while_loop(
            lambda number, *_: number < num_full, body, (0, sums, parts)
        )

        def take_rest():
            more, y_pred = passes(num_full, _slice(data, num_full * size, None))
            return add(sums, more), tf.nest.flatten(y_pred)

        def skip_rest():
            return sums, [
                tf.zeros([num_left, *spec.shape[1:]], spec.dtype)
                for spec in tf.nest.flatten(outputs)
            ]

        sums, rest = tf.cond(num_left > 0, take_rest, skip_rest)
        y_pred = [
            tf.concat([part.concat(), more], 0)
            for part, more in zip(parts, rest, strict=True)
        ]
        y_pred = tf.nest.pack_sequence_as(outputs, y_pred)
        loss, new_state, *gradients = sums
        share = _share_of(num_examples)
        new_state = _map_floats(
            lambda value: _sum_over_replicas([value], share)[0], new_state
        )
        gradients = [_sum_over_replicas(part, share) for part in gradients]
        return loss, y_pred, new_state, *gradients

    def _pass(self, weights, state, data):
        """One pass at `weights` and from `state` in place of the model's, without side
        effects: loss, predictions, new non-trainable state, and gradients that are
        unscaled and zero where weights are pruned."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        loss_scale = self.optimizer.scale_loss(tf.ones(()))
        variables = self.non_trainable_variables
        mapping = [
            *zip(self.trainable_variables, weights, strict=True),
            *zip(variables, state, strict=True),
        ]
        scope = keras.StatelessScope(state_mapping=mapping, collect_losses=True)
        with tf.GradientTape(watch_accessed_variables=False) as tape, scope:
            tape.watch(weights)
            training = {"training": True} if self._call_has_training_arg else {}
            y_pred = self(x, **training)
            loss = self._compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
            )
            # Keras divides a replica's loss by the number of replicas, because the
            # optimizer sums their gradients. Here a replica's is its examples' mean.
            loss = loss * num_replicas()
            scaled_loss = loss * tf.cast(loss_scale, loss.dtype)
        gradients = self._mask(_gradients(tape, scaled_loss, weights, loss_scale))
        new_state = [scope.get_current_value(v) for v in variables]
        new_state = [tf.convert_to_tensor(value) for value in new_state]
        return loss, y_pred, new_state, gradients

    def make_call_function(self):
        """A compiled function from inputs to the outputs of inference, at the weights
        that the model has when it is called."""
        return tf.function(
            functools.partial(self, training=False), reduce_retracing=True
        )

    def train_on_batches(self, batches):
        """A training step on each of some batches of one shape. Metrics are not
        reset."""
        self._symbolic_build(data_batch=batches[0])
        self.make_train_function()
        for batch in batches:
            self._step_function(batch)

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            # Keras' own takes an iterator of tf.data, or does not compile.
            self._step_function = tf.function(
                self.train_step, jit_compile=self.jit_compile
            )
        return super().make_train_function(force)

    def make_gradient_function(self):
        """A compiled function from a batch (x, y[, sample_weight]) to the gradients of
        the training loss at the weights. Nothing of the model changes."""

        @tf.function
        def compute(batch):
            values = [
                [tf.convert_to_tensor(v.value) for v in variables]
                for variables in (
                    self.trainable_variables,
                    self.non_trainable_variables,
                )
            ]
            return self._pass(*values, batch)[-1]

        def gradients_of(batch):
            self._symbolic_build(data_batch=batch)
            return compute(tf.nest.map_structure(tf.convert_to_tensor, batch))

        return gradients_of


compile_function = tf.function


@contextlib.contextmanager
def split_batches(devices):
    """Has models that are built and trained in it split every batch over the devices;
    a batch is a multiple of their number."""
    if len(devices) == 1:
        yield
        return
    with _mirrored_strategy(tuple(devices)).scope():
        yield


# One for all runs of a process: the collectives of a second one mix with the first's.
_mirrored_strategy = functools.cache(tf.distribute.MirroredStrategy)


def cache_programs():
    """Does nothing: TensorFlow keeps no compiled programs."""


def use_cpu_only():
    """Leaves GPUs to other processes; before the backend starts."""
    tf.config.set_visible_devices([], "GPU")


def find_process():
    """The number of this process and how many there are: it is the only one."""
    return 0, 1


def isolate(x):
    """The same: without XLA it is computed once, however many operations take it."""
    return x


def broadcast(value):
    """The value that the first process, the only one, has."""
    return value


def make_input(batches):
    """What keras makes of a PyDataset for `fit(shuffle=False)` and `evaluate`, without
    autotuning.

    At the end of about every other epoch keras waits for the autotuner, which misses
    that it is cancelled and sleeps out its period: for up to as long as the epoch took.
    Batches that differ in more than their number of examples say so by `specs`.
    """

    def generate():
        return (batches[index] for index in range(batches.num_batches))

    def specify(array):
        return tf.TensorSpec([None, *array.shape[1:]], array.dtype)

    options = tf.data.Options()
    options.autotune.enabled = False
    specs = batches.specs if hasattr(batches, "specs") else batches[0]
    signature = tf.nest.map_structure(specify, specs)
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    cardinality = tf.data.experimental.assert_cardinality(batches.num_batches)
    return dataset.apply(cardinality).prefetch(2).with_options(options)


def normalize_batch(x, scale, offset, epsilon):
    """Batch normalization in one operation, its gradient in another.

    Args:
        x: float16, bfloat16 or float32 [batch, height, width, channel].
        scale, offset: float32 [channel].
        epsilon: added to variances.

    Returns:
        What x becomes, of its type, and the batch's means and biased variances, float32
        [channel], which have no gradients. Replicas have statistics of their own.
    """
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=[], variance=[], epsilon=epsilon
    )
    # The operation corrects the variance for a sample's bias.
    count = tf.cast(tf.size(x) // tf.size(mean), variance.dtype)
    return y, mean, variance * (count - 1) / count


def num_replicas():
    """The number of devices that share a batch."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def _count_examples(data):
    return tf.shape(tf.nest.flatten(data)[0])[0]


def _share_of(count):
    """This replica's part of the sum of a number over all; None where it is alone."""
    if num_replicas() == 1:
        return None
    count = tf.cast(count, tf.float32)
    context = tf.distribute.get_replica_context()
    return count / context.all_reduce(tf.distribute.ReduceOp.SUM, count)


def _sum_over_replicas(tensors, share):
    """The replicas' tensors summed, each weighted with its share of the batch."""
    if share is None:
        return tensors
    # A replica without examples has means that are not numbers.
    parts = [tf.math.multiply_no_nan(t, tf.cast(share, t.dtype)) for t in tensors]
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, parts)


@contextlib.contextmanager
def _own_statistics(model):
    """Has BatchNorm take a replica's own statistics, not those of all."""
    layers = [
        layer
        for layer in model._flatten_layers()
        if getattr(layer, "synchronized", False)
    ]
    for layer in layers:
        layer.synchronized = False
    try:
        yield
    finally:
        for layer in layers:
            layer.synchronized = True


def _slice(data, start, size):
    """Examples from `start` on, `size` of them or all that follow."""

    def take(array):
        if size is None:
            return array[start:]
        return tf.ensure_shape(array[start : start + size], [size, *array.shape[1:]])

    return tf.nest.map_structure(take, data)


def _map_floats(function, tree, *others):
    """Maps the floating point leaves; integers, such as seeds, are the first tree's."""
    return tf.nest.map_structure(
        lambda a, *b: function(a, *b) if a.dtype.is_floating else a, tree, *others
    )


def _gradients(tape, scaled_loss, weights, loss_scale):
    gradients = [
        # Embeddings give sparse slices; norms and sums need them whole. Weights that
        # the loss does not reach give None.
        tf.zeros_like(w) if g is None else tf.convert_to_tensor(g)
        for g, w in zip(tape.gradient(scaled_loss, weights), weights, strict=True)
    ]
    return [g / tf.cast(loss_scale, g.dtype) for g in gradients]
