"""What to do to a model, as text: the ``-p`` syntax and recipes in TOML. Both read a pass's options off its fields.

``prune:ratio=0.5:align=16,quant:exclude=conv1+fc`` names two passes with options. Everything that separates, or that a
shell would eat, is written as percent escapes inside a value (``conv%2B1``); a colon in a name or text
(``onnx::Conv_1``, ``2:4``) may stay where no option of the pass is called what follows it. In TOML the same is::

    seed = 0
    max_drop = 0.01

    [passes.prune]
    ratio = 0.5
    align = 16

    [passes.quant]
    exclude = ["conv1", "fc"]

or the one line ``passes = "prune:ratio=0.5:align=16,quant:exclude=conv1+fc"``.
"""

from __future__ import annotations

import dataclasses
import json
import numbers
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxslim.errors import RecipeError, UsageError, did_you_mean
from onnxslim.pipeline.interface import Pass
from onnxslim.pipeline.options import NONE, format_passes, make_pass, option_values, parse_passes
from onnxslim.toml import tomllib

RANGES: Mapping[str, tuple[str, type[numbers.Real], Callable[[Any], bool], str]] = {
    "seed": ("the seed", numbers.Integral, lambda seed: seed >= 0, "a whole number, 0 or more"),
    "max_drop": ("the budget", numbers.Real, lambda drop: 0 <= drop <= 1, "a fraction from 0 to 1: 0.01 is one point"),
    "confidence": ("the confidence", numbers.Real, lambda sure: 0.5 <= sure < 1, "from 0.5 to 1, 1 excluded: 0.95"),
}
"""Numbers that hold for all passes: their titles, types and ranges, these in words as well."""
RECIPE_KEYS = (*RANGES, "passes")
NAMING = 'write passes = "quant,prune", or a table [passes.quant] for each pass'


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Passes with their options, the budget and the seed (None: not said)."""

    passes: tuple[Pass, ...]
    max_drop: float | None = None
    seed: int | None = None
    confidence: float | None = None
    """How sure it must be that the budget holds."""


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: There is no such file, it is no TOML, or it has a key or a value that means nothing.
        UnknownPass, UnknownOption, BadOptionValue: As for `parse_passes`, with the file and the table in front.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise RecipeError(
                "the recipe cannot be read: it is a folder, a device or a pipe", where=path, hint="name a TOML file"
            )
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError("there is no such recipe", where=path, hint="check the path given to --recipe") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"the recipe cannot be read: {error}", where=path, hint="a recipe is a TOML file") from None
    return read_recipe(text, where=str(path))


def read_recipe(text: str, *, where: str = "recipe") -> Recipe:
    """Return the recipe that `text` holds; `where` names it in errors, which are those of `load_recipe`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        place = f"{where}:{line[1]}" if line else where
        raise RecipeError(f"this is no TOML: {error}", where=place, hint="see docs/reference/recipe.md") from None
    except (RecursionError, ValueError) as error:  # tables within tables; integers of thousands of digits
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        hint = "see docs/reference/recipe.md"
        raise RecipeError(f"this recipe cannot be read: {reason}", where=where, hint=hint) from None
    for key in table:
        if key not in RECIPE_KEYS:
            raise RecipeError(
                f"no key {key!r} in a recipe",
                where=where,
                hint=f"{did_you_mean(key, RECIPE_KEYS)}a recipe has {', '.join(RECIPE_KEYS)}",
            )
    if "passes" not in table:
        raise RecipeError("the recipe names no passes", where=where, hint=NAMING)
    settings = {key: table[key] for key in RANGES if key in table}
    for key, value in settings.items():
        check_range(key, value, f"{where}: {key}", RecipeError)
    return Recipe(_recipe_passes(table["passes"], where), **settings)


def check_range(key: str, value: object, where: str, error: type[UsageError]) -> None:
    """Raise `error` where a number for all passes is none, or out of its range."""
    title, kind, fits, words = RANGES[key]
    if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):
        raise error(f"{title} cannot be {value!r}", where=where, hint=words)


def to_toml(recipe: Recipe) -> str:
    """Return `recipe` as TOML with every option spelled out, so that a run can be repeated by a later version."""
    settings = {key: getattr(recipe, key) for key in RANGES}
    lines = [f"{key} = {value}" for key, value in settings.items() if value is not None]
    names = [step.name for step in recipe.passes]
    if len(set(names)) < len(names):  # a table can be written only once
        lines.append(f"passes = {_toml(format_passes(recipe.passes))}")
    else:
        for step in recipe.passes:
            lines += ["", f"[passes.{step.name}]"]
            lines += [f"{key} = {_toml(value)}" for key, value in option_values(step).items()]
    return "\n".join(lines).strip() + "\n"


def _recipe_passes(value: Any, where: str) -> tuple[Pass, ...]:
    if isinstance(value, str):
        return parse_passes(value, where=f"{where}: passes")
    if not isinstance(value, dict) or not all(isinstance(options, dict) for options in value.values()):
        raise RecipeError("passes must be text, or one table a pass", where=f"{where}: passes", hint=NAMING)
    return tuple(make_pass(name, options, where=f"{where}: [passes.{name}]") for name, options in value.items())


def _toml(value: Any) -> str:
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, str):  # TOML's basic strings are JSON's, but that DEL must be escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
