"""Decides which nodes run in int8 and which tensors get a scale, so that no int8 op lies alone among floats.

Contractions pay by themselves. All others join only where the tensors around them are int8 anyway: an addition between
two float ops gains less than its QuantizeLinear and DequantizeLinear cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.analysis.linear_layer import label
from onnxslim.model.nesting import nested_graphs, nodes_within
from onnxslim.ops.families.control_flow import branches
from onnxslim.pipeline.interface import Note, left_alone
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import EVERYTHING, Selection

from .codes import QuantCode
from .scales import Scale
from .site import QuantSite, SiteFinder
from .table import Int8Table, Role

LEFT = "left in float"

Sites = Mapping[ir.Node, QuantSite]
"""Sites by their nodes, in topological order."""


@dataclasses.dataclass(frozen=True)
class ScaleGroup:
    """Tensors that share one scale, because between them values are only moved."""

    source: ir.Value
    """The tensor whose values the others have."""
    members: tuple[ir.Value, ...]
    """All of them, `source` first."""


@dataclasses.dataclass(frozen=True)
class TensorScales:
    """The scale of each quantized tensor, and a finer one of those that some sites make or read in more bits."""

    usual: Mapping[ir.Value, Scale]
    finer: Mapping[ir.Value, Scale] = dataclasses.field(default_factory=dict)
    wide: frozenset[str] = frozenset()
    """Sites that compute on the finer ones, by their keys."""

    def of(self, site: QuantSite, value: ir.Value) -> Scale:
        """Return the scale on which a site makes or reads a tensor."""
        return (self.finer if site.key in self.wide else self.usual)[value]


@dataclasses.dataclass(frozen=True)
class QuantPlan:
    """The nodes that run in int8, and the tensors that are quantized."""

    sites: tuple[QuantSite, ...]
    groups: tuple[ScaleGroup, ...]
    left: tuple[Note, ...]
    """Nodes that stay float, each with the reason."""
    last: frozenset[ir.Node] = frozenset()
    """Nodes of sites that are no contraction, and in front of none: their results go to the outputs."""
    wide: frozenset[str] = frozenset()
    """Sites whose activations have more bits, by their keys."""
    wide_scales: Mapping[str, Scale] = dataclasses.field(default_factory=dict)
    """Scales of more bits for the sources of all groups, by their names, where there are such sites."""

    @property
    def pays(self) -> bool:
        """Whether something runs in int8 that is worth it by itself."""
        return any(site.product is not None or site.row.required for site in self.sites)

    @property
    def sources(self) -> dict[ir.Value, str]:
        """For each quantized tensor the name of the source of its group."""
        return {member: group.source.name or "" for group in self.groups for member in group.members}

    def scales(self, choice: Mapping[str, Scale]) -> TensorScales:
        """Return the scale of each quantized tensor; `choice` holds those of the sources of groups, by their names."""
        usual, finer = (
            {member: scales[name] for member, name in self.sources.items()} if scales else {}
            for scales in (choice, self.wide_scales)
        )
        return TensorScales(usual, finer, self.wide)


def sites_of(plan: QuantPlan) -> dict[str, list[QuantSite]]:
    """Return each site by itself, by its key, as `layers_of` returns those of layers."""
    return {site.key: [site] for site in plan.sites}


def layers_of(plan: QuantPlan) -> dict[str, list[QuantSite]]:
    """Return the sites of each layer by its key, in the order of the graph.

    An op between two products belongs to the last product in front of it; what nothing precedes, to the first behind.
    """
    layers: dict[str, list[QuantSite]] = {}
    owners: dict[ir.Value, str] = {}
    order: dict[str, int] = {}
    waiting: list[QuantSite] = []
    for site in plan.sites:
        if site.is_contraction:
            key = site.key
            order[key] = len(order)
            layers[key] = [*waiting, site]
            waiting = []
        else:
            before = [owners[value] for value in site.operands() if value in owners]
            if not before:
                waiting.append(site)
                continue
            key = max(before, key=order.__getitem__)
            layers[key].append(site)
        owners.update(dict.fromkeys((*site.node.outputs, *site.results), key))
    return layers


def make_plan(
    model: ir.Model,
    table: Int8Table,
    *,
    selection: Selection = EVERYTHING,
    float_values: Mapping[str, Reason] | None = None,
    float_nodes: Mapping[ir.Node, Reason] | None = None,
) -> QuantPlan:
    """Return which nodes and tensors of the main graph become int8.

    The model is in canonical form, with the types of its values known. `float_values` (tensors, by name) and
    `float_nodes` cannot be quantized, or shall not, for these reasons.
    """
    finder = SiteFinder(table, selection, float_values or {})
    sites: dict[ir.Node, QuantSite] = {}
    reasons: dict[ir.Node, Reason] = {}
    absorbed: set[ir.Node | None] = set()
    for node in model.graph:
        if node in absorbed:
            continue
        found = (float_nodes or {}).get(node) or finder.site(node)
        if isinstance(found, QuantSite):
            sites[node] = found
            absorbed.add(found.clamp)
        else:
            reasons[node] = found
    while dropped := ({} if table.everywhere else _isolated(sites)) | _partly_float(sites):
        for node in dropped:
            del sites[node]
        reasons |= dropped
    absorbed = {site.clamp for site in sites.values()}
    left = tuple(
        left_alone(label(node), reason, action=LEFT)
        for node, reason in reasons.items()
        if node not in absorbed and _makes_floats(node) and branches(node) is None
    )
    left += _in_loops(model, table)
    before = _before_contractions(sites)
    last = frozenset(node for node, site in sites.items() if node not in before and not site.is_contraction)
    return QuantPlan(tuple(sites.values()), _groups(sites), left, last)


def products_within(graph: ir.Graph, table: Int8Table) -> list[ir.Node]:
    """Return the products of a graph and of those nested in it that a target may run in int8."""
    rows = ((node, table.row(node)) for node in nodes_within(graph))
    return [node for node, row in rows if row is not None and row.role is Role.CONTRACTION]


def _in_loops(model: ir.Model, table: Int8Table) -> tuple[Note, ...]:
    """Return a note on each product in the body of a loop: what it reads there cannot be made an output, and seen. What
    a branch reads can, and branches are models of their own."""
    return tuple(
        left_alone(label(node), Reason(QuantCode.NESTED, (holder.op_type,)), action=LEFT)
        for holder in model.graph
        if branches(holder) is None
        for graph in nested_graphs(holder)
        for node in products_within(graph, table)
    )


def _makes_floats(node: ir.Node) -> bool:
    """Whether `node` computes on floats at all: integers (shapes, indices) are no loss."""
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
    return any(value.dtype in floats for value in node.outputs)


def _readers(value: ir.Value, sites: Sites) -> list[QuantSite | None]:
    """Return the site of each node that reads `value`, None for those that read it as floats."""
    found = ((sites.get(use.node), use.idx) for use in value.uses())
    return [site if site is not None and index in site.data_indices else None for site, index in found]


def _result_readers(site: QuantSite, sites: Sites) -> list[QuantSite | None]:
    return [reader for value in site.results for reader in _readers(value, sites)]


def _isolated(sites: Sites) -> dict[ir.Node, Reason]:
    """Return the arithmetic and movement sites that would lie alone among floats, and why."""
    producers = {value: site for site in sites.values() for value in site.results}
    behind, before = _with_int8_inputs(sites, producers), _before_contractions(sites)
    reasons: dict[ir.Node, Reason] = {}
    for node, site in sites.items():
        if site.is_contraction:
            continue
        readers = _result_readers(site, sites)
        enclosed = bool(readers) and None not in readers
        quantized = [operand in producers for operand in site.operands()]
        from_input = site.row.role is Role.MOVEMENT and all(value.is_graph_input() for value in site.operands())
        outputs = [value.name or "" for value in (*node.outputs, *site.results) if value.is_graph_output()]
        if outputs:
            reasons[node] = Reason(QuantCode.MODEL_OUTPUT, values=tuple(dict.fromkeys(outputs)))
        elif not ((all(quantized) and quantized) or ((any(quantized) or from_input or site.row.residual) and enclosed)):
            reasons[node] = Reason(QuantCode.AMONG_FLOATS)
        elif site.row.accumulates and _rounds_for_itself(site, quantized, sites):
            reasons[node] = Reason(QuantCode.FLOAT_OPERAND)
        elif site.row.scores and node not in before:
            reasons[node] = Reason(QuantCode.SCORES)
        elif node not in behind and node not in before:
            reasons[node] = Reason(QuantCode.NOTHING_BEHIND)
    return reasons


def _rounds_for_itself(site: QuantSite, quantized: Sequence[bool], sites: Sites) -> bool:
    """Whether it would read a float tensor of the size of its result that nothing else reads in int8."""
    shapes = [value.shape for value in site.node.outputs if value.shape is not None]
    return any(
        not int8 and operand.shape in shapes and [reader for reader in _readers(operand, sites) if reader] == [site]
        for operand, int8 in zip(site.operands(), quantized, strict=True)
    )


def _with_int8_inputs(sites: Sites, producers: Mapping[ir.Value, QuantSite]) -> set[ir.Node]:
    """Return the sites that give int8 whatever follows: they must, or all that they read comes from such sites."""
    found: set[ir.Node] = set()
    for node, site in sites.items():
        makers = [producers.get(operand) for operand in site.operands()]
        passed_on = all(maker is not None and maker.node in found for maker in makers)
        if site.row.required or (passed_on and not site.is_contraction):
            found.add(node)
    return found


def _before_contractions(sites: Sites) -> set[ir.Node]:
    """Return the sites in front of some contraction."""
    found: set[ir.Node] = set()
    for node, site in reversed(list(sites.items())):
        readers = filter(None, _result_readers(site, sites))
        if any(reader.is_contraction or reader.node in found for reader in readers):
            found.add(node)
    return found


def _partly_float(sites: Sites) -> dict[ir.Node, Reason]:
    """Return the contractions whose weight is shared with one that stays float: one initializer, one decision."""
    weights = {node: site.product.weight for node, site in sites.items() if site.product is not None}
    shared = {weight for weight in set(weights.values()) if any(use.node not in sites for use in weight.uses())}
    return {
        node: Reason(QuantCode.WEIGHT_OF_FLOAT_NODE, values=(weight.name or "",))
        for node, weight in weights.items()
        if weight in shared
    }


def _groups(sites: Sites) -> tuple[ScaleGroup, ...]:
    """Return the tensors that need a scale. Movement has one input, so that its tensors form trees."""
    sources: dict[ir.Value, ir.Value] = {}
    for site in sites.values():
        for operand in site.operands():
            sources.setdefault(operand, operand)
        for result in site.results:
            if site.row.role is Role.MOVEMENT:
                sources[result] = sources[site.operands()[0]]
            elif site.row.required or site.row.role is Role.ARITHMETIC or any(_readers(result, sites)):
                sources[result] = result
    members: dict[ir.Value, list[ir.Value]] = {}
    for value, source in sources.items():
        members.setdefault(source, []).append(value)
    return tuple(ScaleGroup(source, tuple(values)) for source, values in members.items())
