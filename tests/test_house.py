"""The house rules that a machine can check: floors, names, first lines, honest files."""

from __future__ import annotations

import ast
import collections
import pathlib
import re
import subprocess
import sys

import networkx as nx
import onnx.defs
import pytest
from zoo import ROOT

from onnxslim.ops.signatures import signatures

FLOORS = {
    name: number
    for number, name in enumerate(
        (
            "onnxslim.printable",
            "onnxslim.arrays",
            "onnxslim.chunks",
            "onnxslim.toml",
            "onnxslim.errors",
            "onnxslim.diagnostic",
            "onnxslim.installation",
            "onnxslim.foreign_code",
            "onnxslim.extensions",
            "onnxslim.ort",
            "onnxslim.model",
            "onnxslim.ops",
            "onnxslim.analysis",
            "onnxslim.rewrite",
            "onnxslim.autodiff",
            "onnxslim.runtime",
            "onnxslim.units",
            "onnxslim.data",
            "onnxslim.observe",
            "onnxslim.fit",
            "onnxslim.train",
            "onnxslim.checks",
            "onnxslim.quality",
            "onnxslim.metrics",
            "onnxslim.pipeline",
            "onnxslim.passes",
            "onnxslim.commands",
            "onnxslim.report",
            "onnxslim.api",
            "onnxslim.cli",
            "onnxslim.__main__",
            "onnxslim.testing",
            "onnxslim",
        )
    )
}
"""docs/concepts/how-a-model-goes-through.md draws them. A module may import from its own floor and from those below."""

FORBIDDEN_NAMES = re.compile(r"(util|helper|common|misc|manager)s?$")
LONGEST = 450


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("onnxslim", *parts) if parts[0] == "passes" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sorted([*(ROOT / "onnxslim").rglob("*.py"), *(ROOT / "passes").rglob("*.py")])
MODULES = {module_name(path): path for path in SOURCES}


def floor(module: str) -> int:
    while module not in FLOORS:
        module = module.rpartition(".")[0]
    return FLOORS[module]


def imports(path: pathlib.Path) -> set[str]:
    """Return the modules of ours that a file imports when it is imported, or later."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if names <= MODULES.keys() else names | {node.module}
    return {name for name in found if name in MODULES}


def test_no_module_imports_from_a_floor_above_its_own() -> None:
    upward = [
        f"{name} -> {imported}"
        for name, path in MODULES.items()
        for imported in imports(path)
        if floor(imported) > floor(name)
    ]
    assert not upward


def test_what_only_tests_use_is_imported_by_nothing_else() -> None:
    proofs = {name for name in MODULES if name.startswith("onnxslim.testing")}
    assert proofs
    assert not [name for name, path in MODULES.items() if name not in proofs and imports(path) & proofs]


def test_no_two_modules_import_each_other() -> None:
    graph = nx.DiGraph((name, imported) for name, path in MODULES.items() for imported in imports(path) - {name})
    assert not [circle for circle in nx.strongly_connected_components(graph) if len(circle) > 1]


def test_the_engine_names_no_pass() -> None:
    passes = {path.stem for path in (ROOT / "passes").iterdir() if not path.stem.startswith("_")}
    for path in (ROOT / "onnxslim").rglob("*.py"):
        named = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not any(name and name.startswith("onnxslim.passes") for name in named), path
    assert passes


def test_a_file_is_about_one_thing_and_says_so_in_its_first_line() -> None:
    assert not [path for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not [path for path in SOURCES if len(path.read_text().splitlines()) > LONGEST], "what second thing moved in?"
    assert not [path for path in SOURCES if FORBIDDEN_NAMES.search(path.stem)]


def test_a_class_name_stands_for_one_class() -> None:
    places = collections.defaultdict(list)
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}


def test_onnx_runtime_is_imported_in_one_place_which_silences_it() -> None:
    importing = re.compile(r"^\s*(import|from) onnxruntime\b", re.MULTILINE)
    assert [name for name, path in MODULES.items() if importing.search(path.read_text())] == ["onnxslim.ort"]


def test_files_hold_no_paths_of_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    private = re.compile(r"/(home|root|Users|work)/\w|/tmp/\w")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in {".onnx", ".npz"} or not path.is_file() or path == pathlib.Path(__file__).resolve():
            continue
        found = private.search(path.read_text(errors="replace"))
        assert not found, f"{name}: {found and found[0]}"


def test_no_module_needs_an_extra_to_be_imported() -> None:
    code = """
import importlib, sys
sys.modules.update(dict.fromkeys(("jinja2", "markupsafe", "matplotlib", "onnxsim", "PIL")))
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
    names = sorted(MODULES.keys() - {"onnxslim.__main__"})
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_errors_say_what_to_do() -> None:
    errors = ast.parse((ROOT / "onnxslim" / "errors.py").read_text())
    names = {node.name for node in ast.walk(errors) if isinstance(node, ast.ClassDef)}
    silent = [
        f"{module}:{node.lineno}"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        if isinstance(node.exc.func, ast.Name) and node.exc.func.id in names
        if not any(keyword.arg == "hint" for keyword in node.exc.keywords)
    ]
    assert not silent


NODES = ("Node", "node", "make_node", "Step", "op")
"""What builds a node of a model, a node of a file, a node of a layer that is timed alone, or one of a builder."""
WORDS = {
    "onnxslim.model.constants": {"Constant"},  # what it is to the file format: an initializer by another name
    "onnxslim.report": {"Size"},  # the title of a column
}
"""Names of ops that stand outside of onnxslim/ops, and where nodes are built, for another reason."""


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def builders(tree: ast.Module) -> set[str]:
    """Return the functions that build a node whose op is a parameter of theirs."""
    return {
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and called(call) in {*NODES, "add"}
        if any(isinstance(argument, ast.Name) and argument.id == "op_type" for argument in call.args)
    }


def named_ops(tree: ast.Module, build: set[str], ops: set[str]) -> set[str]:
    """Return the ops that are named by literals that are no op of a node that is built."""
    built: set[int] = set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) in build):
        first = [*call.args, *(part for each in call.args if isinstance(each, ast.Tuple) for part in each.elts)]
        built |= {id(argument) for argument in first}
    texts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in ops and id(node) not in built | texts
    }


def test_names_of_ops_stand_where_ops_are_described_and_where_nodes_are_built() -> None:
    """What an op is, is said in onnxslim/ops, in rules and in targets; everything else asks for traits and readers."""
    ops = {schema.name for schema in onnx.defs.get_all_schemas_with_history()} | {op for _, op in signatures()}
    trees = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
    build = {*NODES, *(name for tree in trees.values() for name in builders(tree))}
    found = {
        name: left
        for name, tree in trees.items()
        if not name.startswith("onnxslim.ops")
        if (left := named_ops(tree, build, ops) - next((WORDS[key] for key in WORDS if name.startswith(key)), set()))
    }
    assert not found


def test_a_name_of_an_op_is_found_where_no_node_is_built() -> None:
    tree = ast.parse('x = node.op_type == "Conv"\ny = ir.Node("", "Relu", [x])\nz = f"{x} is no Gemm"\nadd("Mul", y)')
    assert named_ops(tree, {"Node", "add"}, {"Conv", "Relu", "Gemm", "Mul"}) == {"Conv"}
    assert builders(ast.parse("def add(self, op_type): return ir.Node('', op_type, [])")) == {"add"}
