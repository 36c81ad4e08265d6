"""A model as data: its graph, and which of its units live and die together."""

from limbeck.graph.capture import Graph, Inputs, Module, Node, Ref, Stored, arguments, capture
from limbeck.graph.coupling import Coupling, coupling, propagate

__all__ = ["Coupling", "Graph", "Inputs", "Module", "Node", "Ref", "Stored", "arguments", "capture", "coupling", "propagate"]
