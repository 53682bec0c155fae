"""The graph network of Flax's example ogbg_molpcba (examples/ogbg_molpcba/models.py,
with jraph's GraphConvolution), in its default configuration.

Edges are made undirected. Self edges are added by the pipeline and by the layer again:
A + 2I, divided by the roots of both nodes' degrees, with them.
"""

import numpy as np

from tests.references import Weights
from tests.references.layers import dense, layer_norm, relu


def logits(
    weights: Weights, nodes: np.ndarray, edges: np.ndarray, num_blocks: int = 5
) -> np.ndarray:
    """One graph, [node, feature] and int[2, edge], to float64[task]."""
    adjacency = normalized_adjacency(len(nodes), edges)
    x = dense(nodes.astype("float64"), weights, "embedding")
    for block in range(1, num_blocks + 1):
        y = x
        for layer in ("mlp1", "mlp2"):
            y = relu(dense(y, weights, f"block{block}_{layer}"))
        x = layer_norm(x + adjacency @ y, weights, f"block{block}_norm")
    return dense(x.mean(0), weights, "outputs")


def normalized_adjacency(num_nodes: int, edges: np.ndarray) -> np.ndarray:
    matrix = 2 * np.eye(num_nodes)
    for i, j in edges.T:
        matrix[i, j] = matrix[j, i] = 1
    degrees = matrix.sum(1)
    return matrix / np.sqrt(np.outer(degrees, degrees))
