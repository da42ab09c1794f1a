"""The documentation says what the code does: the reference is fresh, links lead somewhere, examples are understood."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import typer
from zoo import ROOT

import onnxslim
from onnxslim.cli.application import app
from onnxslim.pipeline.options import parse_passes
from onnxslim.pipeline.recipe import read_recipe

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def generator() -> ModuleType:
    return script("generate_reference")


def test_the_picture_of_the_architecture_is_that_of_the_code(monkeypatch):
    drawing = script("draw_architecture")
    monkeypatch.setattr("sys.argv", ["draw_architecture.py", "--check"])
    assert drawing.main() == 0, "run python docs/draw_architecture.py"
    shown = re.findall(r"`(\w+)`", (DOCS / "architecture.md").read_text(encoding="utf-8").partition("| package |")[2])
    assert set(shown) >= {path.name for path in (ROOT / "onnxslim").iterdir() if (path / "__init__.py").exists()}


def test_packages_that_import_each_other_are_not_drawn():
    drawing = script("draw_architecture")
    graph = drawing.dependencies()
    graph.add_edge("model", "cli")
    with pytest.raises(ValueError, match="import each other"):
        drawing.floors(graph)


def test_every_public_name_has_a_docstring():
    for name in set(onnxslim.__all__) - {"__version__"}:
        assert getattr(onnxslim, name).__doc__, name


def test_the_reference_is_what_the_code_says():
    for name, text in generator().pages().items():
        written = (DOCS / "reference" / name).read_text(encoding="utf-8")
        assert written == text, f"docs/reference/{name} is out of date: run python docs/generate_reference.py"


def test_the_generator_writes_what_is_missing_and_checks_without_writing(tmp_path, monkeypatch, capsys):
    module = generator()
    monkeypatch.setattr(module, "FOLDER", tmp_path / "reference")
    monkeypatch.setattr("sys.argv", ["generate_reference.py", "--check"])
    assert module.main() == 1
    assert list((tmp_path / "reference").iterdir()) == []
    monkeypatch.setattr("sys.argv", ["generate_reference.py"])
    assert module.main() == 0
    assert "written: passes.md" in capsys.readouterr().out
    assert module.main() == 0
    assert "written: nothing" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            found += [line for line in block.splitlines() if line.startswith("onnxslim ")]
    return found


@pytest.mark.parametrize("text", sorted(set(commands())))
def test_every_command_in_the_docs_is_understood(text: str):
    command = typer.main.get_command(app)
    name, *arguments = shlex.split(text, comments=True)[1:]
    context = command.commands[name].make_context(name, arguments)
    for passes in context.params.get("passes") or ():
        assert parse_passes(passes)


def test_every_recipe_in_the_docs_is_understood():
    blocks = [block for page in PAGES for block in re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]
    assert len(blocks) >= 2
    for block in blocks:
        assert read_recipe(block).passes
