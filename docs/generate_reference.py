"""Writes docs/reference/ from the code: passes, command line, report, recipes, errors.

Run it as ``python docs/generate_reference.py``. The pages are committed, so that they can be read without running
anything; a test compares them with what the code says.
``--check`` changes nothing and exits with 1 where a page is out of date.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import itertools
import pathlib
import sys
import textwrap
import typing
from typing import Any

import typer

import onnxslim
from onnxslim import errors
from onnxslim.cli.application import app
from onnxslim.commands.bench import Benchmark
from onnxslim.commands.catalogue import PassEntry, describe_pass
from onnxslim.commands.channel_groups import Grouping
from onnxslim.commands.compare import Comparison
from onnxslim.commands.doctor import Machine
from onnxslim.commands.inspect import Inspection
from onnxslim.commands.placement import ModelPlacement
from onnxslim.commands.sensitivity import ModelSensitivity
from onnxslim.commands.train import Training
from onnxslim.pipeline.discovery import pass_names
from onnxslim.pipeline.recipe import RECIPE_KEYS
from onnxslim.pipeline.records import Report
from onnxslim.report.catalogue import shown
from onnxslim.runtime.statistics import Interval

FOLDER = pathlib.Path(__file__).resolve().parent / "reference"
GENERATED = "<!-- Written by docs/generate_reference.py from the code: change the code, then run that. -->\n"


def pages() -> dict[str, str]:
    """Return every page of the reference by file name."""
    return {
        "passes.md": passes_page(),
        "command-line.md": command_page(),
        "report.md": report_page(),
        "recipe.md": recipe_page(),
        "errors.md": errors_page(),
        "api.md": api_page(),
    }


def passes_page() -> str:
    """Return the page of all passes."""
    parts = [
        "# Passes",
        "The passes of onnxslim, as `onnxslim passes` lists them. `-p` takes passes separated by commas, with options "
        "after colons: `-p prune:ratio=0.5:align=16,quant`.",
        "An *exact* pass keeps the outputs, up to rounding; otherwise it is rolled back. A *lossy* pass changes them, "
        "and is rolled back if the loss exceeds the budget (`--max-drop`).",
        *(pass_section(describe_pass(name)) for name in pass_names(ours=True)),
    ]
    return page(parts)


def pass_section(entry: PassEntry) -> str:
    """Return what one pass says about itself, and its options."""
    parts = [f"## {entry.name}", f"*{entry.kind}* — {entry.summary}"]
    if entry.description:
        parts.append(entry.description)
    if entry.needs:
        parts.append(f"Needs, and adds before itself: {', '.join(entry.needs)}.")
    if entry.after:
        parts.append(f"Runs after: {', '.join(entry.after)}.")
    rows = [(f"`{each.name}`", each.type, f"`{shown(each.default)}`", each.help) for each in entry.options]
    parts.append(table(("option", "value", "default", "what it means"), rows) if rows else "It has no options.")
    return "\n\n".join(parts)


def command_page() -> str:
    """Return the page of the command line."""
    command: Any = typer.main.get_command(app)
    parts = [
        "# Command line",
        "Standard output holds data only: tables, or JSON with `--json`. Progress, warnings and errors go to standard "
        "error. `NO_COLOR` is respected. `onnxslim --install-completion` installs completion of commands, options and "
        "passes in the shell.",
        table(
            ("exit code", "meaning"),
            [
                ("0", "done"),
                ("1", "failed, interrupted, or the budget was missed"),
                ("2", "wrong usage: see the hint, or `--help`"),
            ],
        ),
        "Errors have the form `error: where: what is wrong`, an empty line, and `hint: what to do`. With `--json` they "
        "are the same text on standard error, and standard output stays empty. `ONNXSLIM_TRACEBACK=1` shows the "
        "traceback.",
    ]
    for name, each in command.commands.items():
        parts.append(f"## onnxslim {name}")
        parts.append(help_text(each.help))
        rows = [parameter_row(parameter) for parameter in each.params if parameter.name != "help"]
        parts.append(table(("option", "default", "what it means"), rows))
    return page(parts)


def help_text(text: str) -> str:
    """Return the help of a command, with its examples as code."""
    description, _, examples = inspect.cleandoc(text).partition("[bold]Example")
    lines = [line for line in examples.splitlines()[1:] if line]
    return f"{description.strip()}\n\n```sh\n" + "\n".join(lines) + "\n```"


def parameter_row(parameter: Any) -> tuple[str, str, str]:
    """Return the row of an option or argument."""
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`", "", parameter.help or ""
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    default = parameter.default
    plain = default in (None, False) or callable(default)
    return names, "" if plain else f"`{default}`", parameter.help or ""


def report_page() -> str:
    """Return the page of the report and of what the other commands print with --json."""
    parts = [
        "# The report and other JSON",
        "`onnxslim optimize --report FILE` writes this object, `--json` prints it, and `result.report` is the same in "
        "Python. The keys are a contract: they stay, and later versions may add others.",
        "A value that could not be measured is `null`, with the reason under the key without its unit: "
        '`"energy_mj": null, "energy_reason": "no RAPL counters here"`. A reason that nobody needs is left out. An '
        "*interval* is an object with `value`, `low` and `high`, the ends being those of a 95 % interval; an accuracy "
        "is a plain number, with its interval as `[low, high]` beside it under `accuracy_interval`. There are no NaN "
        "and no infinities.",
        "## optimize",
        *record_tables(Report),
    ]
    for name, kind in (
        ("train", Training),
        ("bench", Benchmark),
        ("compare", Comparison),
        ("inspect", Inspection),
        ("inspect --groups", Grouping),
        ("inspect --placement", ModelPlacement),
        ("inspect --sensitivity", ModelSensitivity),
        ("doctor", Machine),
    ):
        parts += [f"## {name} --json", *record_tables(kind, known=Report)]
    parts += ["## passes --json", "A list of these; with a name, one of them.", *record_tables(PassEntry)]
    return page(parts)


def record_tables(kind: Any, known: Any = None) -> list[str]:
    """Return the table of a dataclass and of all those inside it, without those that `known` holds too."""
    skipped = set(inner_records(known)) if known else set()
    result = []
    for each in inner_records(kind):
        if each in skipped:
            continue
        hints = typing.get_type_hints(each, include_extras=True)
        said = attribute_docs(each)
        fields = [field for field in dataclasses.fields(each) if not field.name.endswith("_reason")]
        rows = [field_row(field, hints[field.name], said.get(field.name, "")) for field in fields]
        result.append(f"**{each.__name__}**: {(each.__doc__ or '').splitlines()[0]}")
        result.append(table(("key", "value", "what it means"), rows))
    return result


def inner_records(kind: Any) -> list[Any]:
    """Return `kind` and the dataclasses inside it, each once, outer ones first."""
    found = [kind]
    for record in found:
        for hint in typing.get_type_hints(record).values():
            for each in flattened(hint):
                if dataclasses.is_dataclass(each) and each not in (*found, Interval):
                    found.append(each)
    return found


def flattened(hint: Any) -> list[Any]:
    """Return the types that a hint is made of."""
    return [hint] + [each for argument in typing.get_args(hint) for each in flattened(argument)]


def attribute_docs(kind: Any) -> dict[str, str]:
    """Return the strings that stand below the fields of a dataclass in its source, as one line each."""
    return {name: (said[:1].lower() + said[1:]).rstrip(".") for name, _, said in attributes(kind)}


def attributes(kind: Any) -> list[tuple[str, str, str]]:
    """Return name, type or value, and the string below each public attribute that the source of a class declares."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = []
    for statement, after in itertools.zip_longest(definition.body, definition.body[1:]):
        text = ""
        if isinstance(statement, ast.AnnAssign):
            target, hint = statement.target, statement.annotation
            if isinstance(hint, ast.Subscript) and ast.unparse(hint.value) == "Annotated":
                assert isinstance(hint.slice, ast.Tuple)
                hint, text = hint.slice.elts[0], ast.literal_eval(hint.slice.elts[1])
            shown = ast.unparse(hint) + (f" = {ast.unparse(statement.value)}" if statement.value else "")
        elif isinstance(statement, ast.Assign):
            target, shown = statement.targets[0], ast.unparse(statement.value)
        else:
            continue
        if isinstance(after, ast.Expr):
            text = " ".join(ast.literal_eval(after.value).split()).replace("``", "`")
        if isinstance(target, ast.Name) and not target.id.startswith("_"):
            found.append((target.id, shown, text))
    return found


def field_row(field: dataclasses.Field[Any], hint: Any, said: str) -> tuple[str, str, str]:
    """Return the row of one key; `said` is what stands below the field in the source."""
    if typing.get_origin(hint) is typing.Annotated:
        hint, said = typing.get_args(hint)[:2]
    words = type_words(hint)
    if field.default is None:
        words = words.removesuffix("or null") + "or left out"
    return f"`{field.name}`", words, said


def type_words(hint: Any) -> str:
    """Return a type as JSON words."""
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        return " or ".join([type_words(each) for each in arguments if each is not type(None)] + ["null"])
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = [type_words(each) for each in arguments if each is not Ellipsis]
        return f"list of {inner[0]}" if Ellipsis in arguments else f"[{', '.join(inner)}]"
    if arguments and origin is not None and "Mapping" in str(origin):
        return f"object of {type_words(arguments[1])}"
    if arguments:
        return " or ".join(type_words(each) for each in arguments)
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any", Interval: "interval"}
    return words.get(hint) or hint.__name__


def recipe_page() -> str:
    """Return the page of recipes and of the -p syntax."""
    import onnxslim.pipeline.recipe

    text = inspect.cleandoc(onnxslim.pipeline.recipe.__doc__ or "").replace("``", "`")
    words = {
        "seed": "the seed of the one random generator; a whole number",
        "max_drop": "the budget, a fraction from 0 to 1",
        "confidence": "how sure it must be that the budget holds, from 0.5 to 1; without it the estimate decides",
        "passes": "one table a pass, in order, or text as behind `-p`",
    }
    rows = [(f"`{key}`", words[key]) for key in RECIPE_KEYS]
    parts = [
        "# Recipes and -p",
        code_blocks(text),
        table(("key", "what it means"), rows),
        "`--recipe FILE` reads a recipe; `-p`, `--max-drop` and `--seed` win over what it says. Values: numbers; "
        "`true` and `false` (alone, `:option` is true); words; names joined by `+`, in TOML a list; and, for an option "
        'that may have no value, `none`, in TOML `"none"`. Options that are not named have their defaults.',
    ]
    return page(parts)


def code_blocks(text: str) -> str:
    """Return reStructuredText paragraphs as Markdown: what is indented behind a double colon is a block."""
    lines, inside = [], False
    for line in text.splitlines():
        indented = line.startswith("    ")
        if indented and not inside:
            lines.append("```toml")
        if inside and line and not indented:
            while not lines[-1]:
                lines.pop()
            lines += ["```", ""]
        inside = indented or (inside and not line)
        lines.append(line[4:] if inside else line[:-1] if line.endswith("::") else line)
    return "\n".join(lines)


def errors_page() -> str:
    """Return the page of all errors with their exit codes."""
    rows = [
        (f"`{name}`", f"`{each.__base__.__name__}`", str(each.exit_code), (each.__doc__ or "").splitlines()[0])
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, errors.OnnxslimError)
    ]
    parts = [
        "# Errors",
        "The errors that onnxslim raises on purpose are `onnxslim.OnnxslimError` with `what`, `where` and `hint`; the "
        "exit code is that of the command line. Any other exception is a bug, and is reported as one.",
        "```text\n" + errors.__doc__.split("\n\n")[1] + "\n```",
        table(("error", "is a", "exit code", "meaning"), rows),
    ]
    return page(parts)


def api_page() -> str:
    """Return the page of the public names of Python, with their docstrings."""
    names = [name for name in onnxslim.__all__ if name not in ("__version__", "errors")]
    parts = [
        "# Python API",
        "The names that `onnxslim` exports; they are imported when they are first used. All errors are in "
        "`onnxslim.errors`, see [errors](errors.md).",
        *(api_section(name, getattr(onnxslim, name)) for name in names),
    ]
    return page(parts)


def api_section(name: str, member: Any) -> str:
    """Return the docstring of a function or class, and the public attributes and methods of a class."""
    parts = [f"## {name}", code_fence(inspect.getdoc(member) or "")]
    declared = attributes(member) if isinstance(member, type) else []
    if declared:
        parts.append(table(("attribute", "declared as", "meaning"), [(f"`{a}`", f"`{b}`", c) for a, b, c in declared]))
    for key, method in vars(member).items() if isinstance(member, type) else ():
        function = method.__func__ if isinstance(method, classmethod | staticmethod) else method
        function = method.fget if isinstance(method, property) else function
        if inspect.isfunction(function) and not key.startswith("_") and function.__doc__:
            parts += [f"**{name}.{key}**", code_fence(inspect.getdoc(function) or "")]
    return "\n\n".join(parts)


def code_fence(text: str) -> str:
    """Return text as it is written, in a fixed font."""
    return f"```text\n{text}\n```"


def table(head: tuple[str, ...], rows: list[Any]) -> str:
    """Return a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def page(parts: list[str]) -> str:
    """Return a whole page."""
    return GENERATED + "\n" + "\n\n".join(parts) + "\n"


def main() -> int:
    """Write the pages, or check them, and return the exit code."""
    parser = argparse.ArgumentParser(description="Writes docs/reference/ from the code.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail where a page is out of date")
    check = parser.parse_args().check
    stale = []
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    print(f"{'out of date' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
