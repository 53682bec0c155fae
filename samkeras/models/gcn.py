"""Graph convolutional networks (Kipf and Welling 2017) that classify graphs."""

from typing import Any

import keras
from keras import layers, ops

from samkeras.model import SAMModel
from samkeras.models.common import logits, scale_width
from samkeras.models.normalization import LayerNorm

Tensor = Any

HIDDEN, DEPTH, DROPOUT = 256, 5, 0.1


def build_gcn(
    num_features: int,
    num_outputs: int,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
    dropout: float = DROPOUT,
) -> SAMModel:
    """Graph convolutions with skip connections, and the mean over a graph's nodes.

    Inputs are a dict of graphs that are padded to one number of nodes: `nodes`,
    float32[graph, node, feature]; `adjacency`, float32[graph, node, node], normalized
    and with self edges that count twice, zero where padded; `num_nodes`, int32[graph],
    the real ones, which come first.

    Args:
        num_features: features of a node, taken as numbers.
        num_outputs: outputs of a graph, not scaled.
        width_mult: factor of the hidden size, 256.
        depth: number of graph convolutions. None (default): 5.
        dropout: rate, within the convolutions. Default 0.1.

    Returns:
        An uncompiled SAMModel with logits as outputs. Kernels start lecun-normal.
    """
    hidden = scale_width(HIDDEN, width_mult)
    nodes = keras.Input((None, num_features), name="nodes")
    adjacency = keras.Input((None, None), name="adjacency")
    num_nodes = keras.Input((), dtype="int32", name="num_nodes")
    x = layers.Dense(hidden, kernel_initializer="lecun_normal", name="embedding")(nodes)
    for number in range(1, (depth or DEPTH) + 1):
        x = _convolution_block(x, adjacency, hidden, dropout, f"block{number}")
    x = NodeMean(name="pool")(x, num_nodes)
    inputs = {"nodes": nodes, "adjacency": adjacency, "num_nodes": num_nodes}
    return SAMModel(inputs, logits(x, num_outputs))


@keras.saving.register_keras_serializable(package="samkeras")
class NeighbourSum(layers.Layer):
    """Sums the neighbours' vectors: float[graph, node, feature], weighted by
    adjacency[graph, node, neighbour], to the same shape.

    A matrix product, for molecules are small: it costs a few percent of what the
    layers between do, and less on any backend than gathering edge by edge.
    """

    def call(self, nodes, adjacency):
        return ops.matmul(adjacency, nodes)


@keras.saving.register_keras_serializable(package="samkeras")
class NodeMean(layers.Layer):
    """The mean over each graph's first num_nodes nodes: float[graph, node, feature]
    to [graph, feature]; 0 for a graph without nodes."""

    def call(self, nodes, num_nodes):
        counts = num_nodes[:, None, None]
        # keras counts in int64 on TensorFlow where floats are of 64 bits.
        numbers = ops.arange(ops.shape(nodes)[1], dtype="int32")
        is_node = numbers[None, :, None] < counts
        total = ops.sum(ops.where(is_node, nodes, ops.zeros_like(nodes)), axis=1)
        return total / ops.cast(ops.maximum(num_nodes, 1)[:, None], nodes.dtype)


def _convolution_block(
    x: Tensor, adjacency: Tensor, hidden: int, dropout: float, name: str
) -> Tensor:
    y = x
    for number in (1, 2):
        y = layers.Dense(
            hidden,
            "relu",
            kernel_initializer="lecun_normal",
            name=f"{name}_mlp{number}",
        )(y)
        y = layers.Dropout(dropout, name=f"{name}_dropout{number}")(y)
    y = NeighbourSum(name=f"{name}_neighbours")(y, adjacency)
    x = layers.add([x, y])
    return LayerNorm(name=f"{name}_norm")(x)
