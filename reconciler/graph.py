"""The dependency graph of a desired state: its order, its cycles, and pictures of it.

networkx is imported when a graph is built and not before: a plan with nothing to do needs no graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from reconciler.model import Desired, InputError, Key, Need, Problem, Resource

if TYPE_CHECKING:
    import networkx


class ResourceGraph:
    """An edge leads from a resource to what needs it, so that topological order is the order of creation."""

    def __init__(self, resources: Mapping[Key, Resource]) -> None:
        import networkx

        self.resources = resources
        self.digraph: networkx.DiGraph[Key] = networkx.DiGraph()
        self.digraph.add_nodes_from(resources)
        for key, resource in resources.items():
            for need in edges_of(resource, resources):
                self.digraph.add_edge(need.key, key, condition=need.condition)

    def layers(self) -> list[list[Key]]:
        """Resources that may be made at the same time, layer by layer; raises InputError for a cycle."""
        import networkx

        try:
            return [sorted(layer) for layer in networkx.topological_generations(self.digraph)]
        except networkx.NetworkXUnfeasible:
            raise InputError(self.find_cycles()) from None

    def find_cycles(self) -> list[Problem]:
        """One problem for each knot of resources that wait for each other, with a shortest chain through it."""
        import networkx

        problems = []
        for knot in networkx.strongly_connected_components(self.digraph):
            first = min(knot)
            if len(knot) == 1 and not self.digraph.has_edge(first, first):
                continue
            chain = self._shortest_chain(first, knot)
            text = " -> ".join(map(str, chain))
            marks = [f"{key} at {mark}" for key in chain[:-1] if (mark := self.resources[key].mark)]
            where = f" ({', '.join(marks)})" if marks else ""
            problems.append(Problem(f"resources wait for each other: {text}{where}", self.resources[first].mark))
        return sorted(problems, key=str)

    def _shortest_chain(self, first: Key, knot: set[Key]) -> list[Key]:
        """In the direction in which people read it: each name needs the next."""
        import networkx

        if self.digraph.has_edge(first, first):
            return [first, first]
        inside = self.digraph.subgraph(knot).reverse(copy=False)
        chains = [networkx.shortest_path(inside, follower, first) for follower in sorted(inside.successors(first))]
        return [first, *min(chains, key=len)]


def edges_of(resource: Resource, resources: Mapping[Key, Resource]) -> list[Need]:
    """The needs that are met by resources of the same stack, each key once, its image included."""
    needs = {need.key: need for need in resource.needs if need.key in resources}
    if resource.key.kind in ("service", "job") and isinstance(resource.spec, dict):
        image = Key("image", str(resource.spec.get("image")))
        if image in resources and image not in needs:
            needs[image] = Need(image)
    return list(needs.values())


def build(desired: Desired) -> ResourceGraph:
    return ResourceGraph(desired.resources)


def ordered(desired: Desired) -> list[list[Key]]:
    """Layers in order of creation; reversed, they are the order of removal. Raises InputError for a cycle."""
    return build(desired).layers()


def order_removal(needs: Mapping[Key, Iterable[Key]]) -> list[Key]:
    """Dependants before what they need. Edges that close a circle order nothing: what is removed may stem from
    several generations, whose edges together need not be free of cycles."""
    order: list[Key] = []
    state: dict[Key, bool] = {}
    for root in sorted(needs):
        stack: list[tuple[Key, bool]] = [(root, False)]
        while stack:
            key, finished = stack.pop()
            if finished:
                order.append(key)
                state[key] = True
            elif key not in state:
                state[key] = False
                stack.append((key, True))
                stack += [(needed, False) for needed in sorted(needs[key], reverse=True) if needed in needs]
    return order[::-1]


# ---- pictures ---------------------------------------------------------------------------------------------------


def render(desired: Desired, form: str = "text") -> str:
    """`text` (a tree of needs), `mermaid` or `dot`."""
    draw = {"text": draw_text, "mermaid": draw_mermaid, "dot": draw_dot}.get(form)
    if draw is None:
        raise InputError([Problem(f'no graph format "{form}" (text, mermaid, dot or svg)')])
    graph = build(desired)
    graph.layers()
    return draw(graph)


def draw_text(graph: ResourceGraph) -> str:
    """What nothing else needs stands at the left, what it needs below it; a repeated subtree is drawn once."""
    lines: list[str] = []
    drawn: set[Key] = set()
    roots = sorted(key for key in graph.digraph if graph.digraph.out_degree(key) == 0)
    for root in sorted(roots, key=lambda key: (key.kind not in ("service", "job"), key)):
        todo = [(root, "", "", "")]
        while todo:
            key, lead, branch, note = todo.pop()
            needed = sorted(graph.digraph.predecessors(key))
            again = key in drawn and bool(needed)
            lines.append(f"{lead}{branch}{key}{note}{' …' if again else ''}")
            if again:
                continue
            drawn.add(key)
            below = lead + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
            for number, other in reversed(list(enumerate(needed))):
                condition = graph.digraph.edges[other, key]["condition"]
                mark = "" if condition == "exists" else f" ({condition})"
                todo.append((other, below, "└─ " if number == len(needed) - 1 else "├─ ", mark))
    return "\n".join(lines)


def draw_mermaid(graph: ResourceGraph) -> str:
    names = {key: f"n{number}" for number, key in enumerate(sorted(graph.digraph))}
    lines = ["graph LR", *(f'  {name}["{_plain(str(key))}"]' for key, name in names.items())]
    for needed, key, data in sorted(graph.digraph.edges(data=True), key=lambda edge: (edge[1], edge[0])):
        label = "" if data["condition"] == "exists" else f"|{data['condition']}|"
        lines.append(f"  {names[key]} -->{label} {names[needed]}")
    return "\n".join(lines)


def draw_dot(graph: ResourceGraph) -> str:
    lines = ["digraph stack {", "  rankdir=LR;", "  node [shape=box, fontname=sans];"]
    lines += [f'  "{_plain(str(key))}";' for key in sorted(graph.digraph)]
    for needed, key, data in sorted(graph.digraph.edges(data=True), key=lambda edge: (edge[1], edge[0])):
        label = "" if data["condition"] == "exists" else f' [label="{data["condition"]}"]'
        lines.append(f'  "{_plain(str(key))}" -> "{_plain(str(needed))}"{label};')
    return "\n".join([*lines, "}"])


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', "'")
