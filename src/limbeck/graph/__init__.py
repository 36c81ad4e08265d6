"""A model as data: its graph, and which of its units live and die together."""

from limbeck.graph.capture import Graph, Module, Node, Ref, Stored, capture
from limbeck.graph.coupling import Coupling, coupling, propagate

__all__ = ["Coupling", "Graph", "Module", "Node", "Ref", "Stored", "capture", "coupling", "propagate"]
