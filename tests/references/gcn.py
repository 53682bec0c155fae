"""The graph network of Flax's example ogbg_molpcba (examples/ogbg_molpcba/models.py,
with jraph's GraphConvolution), in its default configuration.

Edges are made undirected. Self edges are added by the pipeline and by the layer again:
A + 2I, divided by the roots of both nodes' degrees, with them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tests.references import Array, Weights
from tests.references.layers import (
    Dropout,
    binary_cross_entropies,
    block_names,
    dense,
    keep,
    layer_norm,
)

DROPOUT = 0.1


def logits(
    weights: Weights, graphs: dict[str, Array], dropout: Dropout = keep
) -> Array:
    """[graph, task] of graphs that are padded to one number of nodes.

    Args:
        graphs: "nodes", [graph, node, feature]; "adjacency", [graph, node, node],
            normalized; "num_nodes", int[graph], without padding.
    """
    x = dense(graphs["nodes"], weights, "embedding")
    for name in block_names(weights):
        y = x
        for part in ("mlp1", "mlp2"):
            y = dropout(jax.nn.relu(dense(y, weights, f"{name}_{part}")), DROPOUT)
        x = layer_norm(x + graphs["adjacency"] @ y, weights, f"{name}_norm")
    counts = graphs["num_nodes"][:, None]
    is_node = jnp.arange(x.shape[1]) < counts
    x = jnp.sum(x * is_node[..., None], 1) / jnp.maximum(counts, 1)
    return dense(x, weights, "outputs")


def as_batch(nodes: np.ndarray, edges: np.ndarray) -> dict[str, np.ndarray]:
    """One graph, [node, feature] and int[2, edge], for `logits`."""
    matrix = 2 * np.eye(len(nodes))
    for i, j in edges.T:
        matrix[i, j] = matrix[j, i] = 1
    degrees = matrix.sum(1)
    graph = {
        "nodes": nodes.astype("float64"),
        "adjacency": matrix / np.sqrt(np.outer(degrees, degrees)),
        "num_nodes": np.array(len(nodes)),
    }
    return {name: array[np.newaxis] for name, array in graph.items()}


def loss(
    weights: Weights,
    graphs: dict[str, Array],
    labels: Array,
    sample_weight: Array,
    dropout: Dropout = keep,
) -> tuple[Array, dict]:
    """The mean over labels, weighted."""
    losses = binary_cross_entropies(logits(weights, graphs, dropout), labels)
    return jnp.sum(losses * sample_weight) / sample_weight.sum(), {}
