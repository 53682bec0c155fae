"""Graphs as examples, and batches of them as arrays of one size."""

import itertools
from dataclasses import dataclass

import numpy as np

from samkeras.data.padding import bucket

BUCKETS = (16, 24, 32, 48, 64, 128, 256)


@dataclass(frozen=True, eq=False, slots=True)
class Graph:
    """A graph with features of its nodes.

    Attributes:
        nodes: [node, feature], of numbers.
        edges: int32[2, edge], pairs of node indices; in one direction or in both, once
            or more often, makes no difference.
    """

    nodes: np.ndarray
    edges: np.ndarray


def as_array(graphs: list[Graph]) -> np.ndarray:
    """The graphs as object[graph], to be taken from by index as any examples are."""
    array = np.empty(len(graphs), object)
    array[:] = graphs
    return array


class GraphCollate:
    """Pads the graphs of a batch to one of few numbers of nodes.

    Args:
        buckets: these numbers, ascending; multiples of the last one for larger graphs.
            Default: 16 to 256, for molecules.
    """

    def __init__(self, buckets: tuple[int, ...] = BUCKETS):
        self._buckets = buckets

    def sizes(self, x: np.ndarray) -> np.ndarray:
        """The number of nodes of each graph: int32[graph]."""
        return np.fromiter((len(graph.nodes) for graph in x), "int32", len(x))

    def labels_per_example(self, y: np.ndarray) -> float:
        """1: PresentBinaryCrossentropy itself takes the mean over labels."""
        return 1.0

    def pad(
        self, x: np.ndarray, y: np.ndarray, size: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """A batch as arrays, whose first axis is the graph.

        Args:
            x: object[graph] of Graph, of at most `size` nodes each.
            y: float32[graph, task], NaN where a label is missing.
            size: the largest graph's number of nodes, or more.

        Returns:
            The inputs of `build_gcn`; the labels, float32[graph, task], 0 where
            missing; their weights, float32[graph, task], 1 where there is one and 0
            where it is missing.
        """
        size, counts = bucket(int(size), self._buckets), self.sizes(x)
        graph, node = _places(counts)
        nodes = np.zeros((len(x), size, x[0].nodes.shape[1]), "float32")
        nodes[graph, node] = np.concatenate([example.nodes for example in x])
        inputs = {
            "nodes": nodes,
            "adjacency": _normalized_adjacency(x, graph, node, size),
            "num_nodes": counts,
        }
        is_missing = np.isnan(y)
        labels = np.where(is_missing, 0, y).astype("float32")
        return inputs, labels, (~is_missing).astype("float32")


def _places(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The graph, and the place in it, of each of counts[graph] things in a row."""
    starts = np.cumsum(counts) - counts
    graph = np.repeat(np.arange(len(counts)), counts)
    return graph, np.arange(len(graph)) - starts[graph]


def _normalized_adjacency(
    x: np.ndarray, graph: np.ndarray, node: np.ndarray, size: int
) -> np.ndarray:
    """D^-1/2 (A + 2I) D^-1/2 of each graph, zero where padded: float32[graph, size,
    size]. What spektral.utils.gcn_filter makes of one A + I, for a batch at once.

    Flax's ogbg_molpcba adds self edges in its pipeline and in its layer again.

    Args:
        x: object[graph] of Graph.
        graph: the graph of each real node.
        node: its place in the graph.
        size: number of nodes to pad to.
    """
    adjacency = np.zeros((len(x), size, size), "float32")
    owner, _ = _places(np.fromiter((g.edges.shape[1] for g in x), "int64", len(x)))
    sender, receiver = np.concatenate([g.edges for g in x], axis=1)
    adjacency[owner, sender, receiver] = 1
    adjacency[owner, receiver, sender] = 1
    adjacency[graph, node, node] = 2
    degrees = adjacency.sum(axis=2)
    scales = 1 / np.sqrt(np.maximum(degrees, 1))
    adjacency *= scales[:, :, np.newaxis]
    adjacency *= scales[:, np.newaxis, :]
    return adjacency


def split_graphs(
    nodes: np.ndarray, num_nodes: np.ndarray, edges: np.ndarray, num_edges: np.ndarray
) -> list[Graph]:
    """Cuts many graphs' arrays into graphs.

    Args:
        nodes: [node, feature], graph after graph.
        num_nodes: [graph].
        edges: [edge, 2], graph after graph, pairs of indices in their graph.
        num_edges: [graph].
    """
    node_ends, edge_ends = (
        [0, *np.cumsum(counts).tolist()] for counts in (num_nodes, num_edges)
    )
    nodes, edges = nodes.astype("uint8"), edges.T.astype("int32")
    return [
        Graph(nodes[node_start:node_end], edges[:, edge_start:edge_end])
        for (node_start, node_end), (edge_start, edge_end) in zip(
            itertools.pairwise(node_ends), itertools.pairwise(edge_ends), strict=True
        )
    ]
