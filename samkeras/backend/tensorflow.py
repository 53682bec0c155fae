"""The train step on TensorFlow; keras fuses `steps_per_execution` there itself."""

import contextlib
import functools
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from samkeras.step import SPARSE_IN_GROUPS, shift_seeds


class _Pass(NamedTuple):
    """What a pass over a batch gives.

    Args:
        loss: its mean over the examples, scalar.
        y_pred: predictions.
        updates: pairs of a variable that was assigned and its new value.
        gradients: of the loss, one per trainable weight, unscaled, zero where weights
            are pruned.
        reached: which of the weights the loss depends on, bools.
        raw: a variable that is read past keras, a trainable weight if there is one; or
            None.
    """

    loss: Any
    y_pred: Any
    updates: list
    gradients: list
    reached: list[bool]
    raw: keras.Variable | None = None


class _RecordingScope(keras.StatelessScope):
    """Remembers which variables are assigned in it, instead of assigning them.

    As where TensorFlow assigns variables, no gradient goes through the new value to
    what it was made of; a weight's gradient is that of all values that it had.

    Args:
        tape: what records the gradients.
        variables, weights: the trainable variables and their values.
        state: pairs of another variable and its value.
    """

    def __init__(self, tape, variables, weights, state):
        pairs = [*zip(variables, weights, strict=True)]
        super().__init__(state_mapping=[*pairs, *state], collect_losses=True)
        self._tape = tape
        self._values = {id(variable): [value] for variable, value in pairs}
        self._assigned = {}

    @property
    def assigned(self):
        """The variables that were assigned, in the order of their first time."""
        return list(self._assigned.values())

    def values_of(self, weight):
        """All values that a trainable weight had, tensors."""
        return self._values[id(weight)]

    def add_update(self, update):
        variable, value = update
        value = tf.stop_gradient(value)
        if id(variable) in self._values:
            self._tape.watch(value)
            self._values[id(variable)].append(value)
        self._assigned[id(variable)] = variable
        super().add_update((variable, value))


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
        self._build_for(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.trainable_variables
        weights = _values_of(variables)
        step = self.optimizer.iterations
        loss_scale = self.optimizer.scale_loss(tf.ones(()))

        if self.m_sharpness is None:
            share = self._share(data)
            first, sam_gradients = self._passes(
                weights, self._state(), data, step, share
            )
        else:
            share = _share_of(_count_examples(data))
            first, sam_gradients = self._grouped_passes(weights, data, step)
        # Not before all passes are done: each starts from the state before the first.
        for variable, value in first.updates:
            variable.assign(value)
        self._track_loss(first.loss, share, data)

        is_due = None
        if self.perturbation is not None:
            is_due = self._gradient_metrics.is_due(step)
        # The weights as they are now: a layer may have assigned its own.
        gradients, statistics = self._final_gradients(
            _values_of(variables), first.gradients, sam_gradients, step, is_due
        )
        # The optimizer sums the replicas' gradients, which are all the same here. As in
        # plain keras it leaves alone the weights that the loss does not reach, unless
        # l2 decays them.
        factor = loss_scale / num_replicas()
        gradients = [
            g * tf.cast(factor, g.dtype) if is_reached or self._l2 is not None else None
            for g, is_reached in zip(gradients, first.reached, strict=True)
        ]
        self.optimizer.apply(gradients, variables)
        logs = self.compute_metrics(x, y, first.y_pred, sample_weight=sample_weight)
        if statistics:
            logs = {**logs, **self._gradient_metrics.update(statistics)}
        return logs

    def _build_for(self, data):
        """Makes the variables of a step before it reads them; keras makes them when it
        first calls a layer."""
        if not all(layer.built for layer in self._flatten_layers()):
            self._symbolic_build(data_batch=data)
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def _state(self):
        """The model's other variables, each with its value."""
        variables = self.non_trainable_variables
        return [*zip(variables, _values_of(variables), strict=True)]

    def _passes(self, weights, state, data, step, share):
        """Both passes on a batch, or on a replica's part of it.

        Args:
            state: pairs of a variable and the value at which every pass finds it.
            share: the part's share of the gradients that are summed over the replicas;
                None to leave them the part's own.

        Returns:
            The first pass, with its gradients summed, and the gradients at w + epsilon.
        """
        first = self._pass(weights, state, data)
        gradients = _sum_over_replicas(first.gradients, share)
        raw = first.raw
        if (
            raw is not None
            and raw.trainable
            and (num_replicas() > 1 or self.m_sharpness)
        ):
            raise ValueError(
                "m_sharpness, and several devices, need weights that are read through "
                f"keras. Received: {raw.path}, which is read past it, as by a TFSMLayer"
            )

        def gradients_at(epsilon):
            perturbed = [w + e for w, e in zip(weights, epsilon, strict=True)]
            values = []
            if raw is not None and num_replicas() == 1:
                trainable = self.trainable_variables
                values = [*zip(trainable, perturbed, strict=True), *state]
            with _assigned(values):
                again = self._pass(perturbed, state, data)
            return _sum_over_replicas(again.gradients, share)

        sam_gradients = self._perturb(gradients, gradients_at, step)
        return first._replace(gradients=gradients), sam_gradients

    def _grouped_passes(self, weights, data, step):
        """As `_passes`, with an epsilon of each group of `m_sharpness` examples. Loss,
        gradients and the model's new state are averaged over the groups and replicas;
        what else is assigned, such as metrics, each group updates in its turn."""
        if any(isinstance(t, tf.SparseTensor) for t in tf.nest.flatten(data)):
            raise ValueError(SPARSE_IN_GROUPS)
        size = self.m_sharpness
        num_examples = _count_examples(data)
        # A loop takes all groups but the last one, which may be smaller.
        num_looped = tf.maximum(num_examples - 1, 0) // size
        context = tf.distribute.get_replica_context()
        # Groups have numbers over all replicas, whose parts are equal but the last one.
        first_group = context.replica_id_in_sync_group * (num_looped + 1)
        with _own_statistics(self):
            loss, y_pred, own, others = self._forward_effects(
                weights, _slice(data, 0, size)
            )
        variables = self.non_trainable_variables
        reached = []

        def passes(number, values, group):
            """A group's part of the averages, the new values of what is not the
            model's own, and the predictions."""
            number += first_group
            # Each group draws its own random numbers, whatever replica it is on.
            shifted = shift_seeds(variables, _values_of(variables), number)
            state = [
                *zip(variables, shifted, strict=True),
                *zip(others, values, strict=True),
            ]
            with _own_statistics(self):
                first, sam_gradients = self._passes(weights, state, group, step, None)
            reached[:] = first.reached
            new = {id(v): value for v, value in [*state, *first.updates]}
            new_state = shift_seeds(own, [new[id(v)] for v in own], -number)
            share = _count_examples(group) / num_examples
            averaged = (first.loss, new_state, first.gradients, sam_gradients)
            averaged = _map_floats(lambda t: t * tf.cast(share, t.dtype), averaged)
            return averaged, [new[id(v)] for v in others], first.y_pred

        def add(sums, more):
            return _map_floats(tf.add, more, sums)

        def body(number, sums, values, parts):
            group = _slice(data, number * size, size)
            more, values, y_pred = passes(number, values, group)
            parts = [
                part.write(number, leaf)
                for part, leaf in zip(parts, tf.nest.flatten(y_pred), strict=True)
            ]
            return number + 1, add(sums, more), values, parts

        sums = (loss, _values_of(own), weights, weights)
        sums = _map_floats(tf.zeros_like, sums)
        parts = [
            tf.TensorArray(
                leaf.dtype, num_looped, element_shape=[None, *leaf.shape[1:]]
            )
            for leaf in tf.nest.flatten(y_pred)
        ]
        _, sums, values, parts = tf.while_loop(
            lambda number, *_: number < num_looped,
            body,
            (0, sums, _values_of(others), parts),
        )
        last = _slice(data, num_looped * size, None)
        more, values, last_pred = passes(num_looped, values, last)
        y_pred = tf.nest.flatten(last_pred)
        if tf.get_static_value(num_looped) != 0:  # nothing to concatenate, eagerly
            y_pred = [
                tf.concat([part.concat(), leaf], 0)
                for part, leaf in zip(parts, y_pred, strict=True)
            ]
        loss, new_state, *gradients = add(sums, more)
        share = _share_of(num_examples)
        new_state = _map_floats(
            lambda value: _sum_over_replicas([value], share)[0], new_state
        )
        gradients, sam_gradients = (_sum_over_replicas(g, share) for g in gradients)
        first = _Pass(
            loss,
            tf.nest.pack_sequence_as(last_pred, y_pred),
            [*zip(own + others, new_state + values, strict=True)],
            gradients,
            reached,
        )
        return first, sam_gradients

    def _forward_effects(self, weights, data):
        """What a first pass would do, without doing it: tensors like its loss and
        predictions, and the variables that it assigns, first those to average over
        groups and then the others."""
        assigned = []

        def trace():
            with tf.GradientTape() as tape:
                scope = _RecordingScope(
                    tape, self.trainable_variables, weights, self._state()
                )
                with scope:
                    y_pred, loss = self._forward(data)
            assigned.extend(scope.assigned)
            return loss, y_pred

        own = self.variables
        if tf.executing_eagerly():
            loss, y_pred = trace()
        else:
            # In a graph of its own, so that nothing of it runs.
            graph = tf.function(trace, autograph=False).get_concrete_function()
            loss, y_pred = graph.structured_outputs
            if self._compile_loss is not None:
                # Keras counts an output's loss once for each batch there.
                own = own + [v for m in self._compile_loss.metrics for v in m.variables]
        is_own = {id(variable) for variable in own}
        own = [v for v in assigned if id(v) in is_own]
        others = [v for v in assigned if id(v) not in is_own]
        return tf.zeros((), loss.dtype), y_pred, own, others

    def _forward(self, data):
        """Predictions and loss of a batch in training."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        training = {"training": True} if self._call_has_training_arg else {}
        y_pred = self(x, **training)
        loss = self._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )
        # Keras divides a replica's loss by the number of replicas, because the
        # optimizer sums their gradients. Here a replica's is its examples' mean.
        return y_pred, loss * num_replicas()

    def _pass(self, weights, state, data):
        """One pass at `weights`, in place of the model's, and from `state`, pairs of a
        variable and its value; see `_Pass`. Nothing that keras makes is changed."""
        variables = self.trainable_variables
        loss_scale = self.optimizer.scale_loss(tf.ones(()))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            scope = _RecordingScope(tape, variables, weights, state)
            with scope:
                y_pred, loss = self._forward(data)
            scaled_loss = loss * tf.cast(loss_scale, loss.dtype)
        read = {id(v) for v in tape.watched_variables()}
        raw = [v for v in self.variables if id(v.value) in read]
        raw.sort(key=lambda v: not v.trainable)
        sources = [
            [*scope.values_of(v), v.value]
            if id(v.value) in read
            else scope.values_of(v)
            for v in variables
        ]
        gradients = _gradients(tape, scaled_loss, sources, loss_scale)
        reached = [g is not None for g in gradients]
        gradients = [
            tf.zeros_like(w) if g is None else g
            for g, w in zip(gradients, weights, strict=True)
        ]
        updates = [(v, scope.get_current_value(v)) for v in scope.assigned]
        return _Pass(
            loss, y_pred, updates, self._mask(gradients), reached, next(iter(raw), None)
        )

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
            weights = _values_of(self.trainable_variables)
            return self._pass(weights, self._state(), batch).gradients

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
    arrays = (array for array in tf.nest.flatten(data) if array is not None)
    return tf.shape(next(arrays))[0]


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
    """Examples from `start` on, at most `size` of them, or all with None."""

    def take(array):
        if array is None:
            return None
        array = tf.convert_to_tensor(array)
        if size is None:
            return array[start:]
        # XLA does not know the length of a slice from and to a tensor.
        return tf.gather(array, start + tf.range(tf.minimum(size, tf.shape(array)[0])))

    return tf.nest.map_structure(take, data)


def _map_floats(function, tree, *others):
    """Maps the floating point leaves; integers, such as seeds, are the first tree's."""
    return tf.nest.map_structure(
        lambda a, *b: function(a, *b) if a.dtype.is_floating else a, tree, *others
    )


def _gradients(tape, scaled_loss, sources, loss_scale):
    """The gradient of each list of tensors, summed and unscaled; None where the loss
    does not reach it."""

    def add_up(parts):
        # Embeddings give sparse slices; norms and sums need them whole.
        parts = [tf.convert_to_tensor(g) for g in parts if g is not None]
        return tf.add_n(parts) / tf.cast(loss_scale, parts[0].dtype) if parts else None

    return [add_up(parts) for parts in tape.gradient(scaled_loss, sources)]


def _values_of(variables):
    return [tf.convert_to_tensor(v.value) for v in variables]


@contextlib.contextmanager
def _assigned(values):
    """Has variables themselves hold other values, pairs of both; then what they held
    before."""
    before = [(variable, tf.identity(variable.value)) for variable, _ in values]
    for variable, value in values:
        variable.assign(value)
    try:
        yield
    finally:  # an eager pass may be interrupted
        for variable, value in before:
            variable.assign(value)
