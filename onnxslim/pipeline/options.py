"""The options of a pass, read off the fields of its dataclass, and passes with options as ``-p`` takes them.

`onnxslim.pipeline.recipe` tells the syntax.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from onnxslim.errors import BadOptionValue, ExtensionError, OnnxslimError, UnknownOption, UsageError, did_you_mean
from onnxslim.pipeline.discovery import find_pass
from onnxslim.pipeline.interface import Pass

NONE = "none"
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
TYPE_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    tuple[str, ...]: "names joined by +",
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a pass, read off a field of its dataclass."""

    name: str
    type_name: str
    """What the value is, in words: ``number``, ``one of magnitude, taylor``, ``names joined by +``."""
    default: Any
    """A JSON value, as a recipe would spell it."""
    help: str
    choices: tuple[str, ...] = ()
    type: Any = dataclasses.field(default=str, repr=False)
    """The Python type: bool, int, float, str, an enum, or tuple[str, ...]."""
    optional: bool = False
    """Whether ``none`` is a value too."""


def options_of(pass_class: type[Pass]) -> tuple[Option, ...]:
    """Return the options of a pass in the order of its fields.

    Raises:
        ExtensionError: A field is not declared as `Pass` asks for: a bug in the pass.
    """
    hints = typing.get_type_hints(pass_class, include_extras=True)
    return tuple(_option(pass_class, field, hints[field.name]) for field in dataclasses.fields(pass_class))


def option_values(step: Pass) -> dict[str, Any]:
    """Return every option of `step` with its value, as JSON and TOML spell it (enums by value, tuples as lists)."""
    return {field.name: _plain(getattr(step, field.name)) for field in dataclasses.fields(step)}


def changed_options(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the options in `after` with another value than in `before`, joined by colons, with short numbers."""
    changed = [(name, value) for name, value in after.items() if before.get(name) != value]
    return ":".join(f"{name}={f'{value:.3g}' if isinstance(value, float) else value}" for name, value in changed)


def make_pass(name: str, values: Mapping[str, Any], *, where: str = "-p") -> Pass:
    """Return the pass `name` with options given as JSON values: the inverse of `option_values`.

    Raises:
        UnknownPass, UnknownOption, BadOptionValue: With `where` in front.
    """
    pass_class = _find(name, where)
    options = {option.name: option for option in options_of(pass_class)}
    known = {key: _option_named(name, options, key, where) for key in values}
    return _build(pass_class, {key: _from_json(known[key], value, where) for key, value in values.items()}, where)


Choice = TypeVar("Choice", bound=enum.Enum)


def read_choice(kind: type[Choice], text: str, option: str) -> Choice:
    """Return the member of an enumeration that the value of an option of the command line names.

    Raises:
        BadOptionValue: There is no such member.
    """
    words = [str(member.value) for member in kind]
    if text not in words:
        choices = " or ".join((", ".join(words[:-1]), words[-1]))
        raise BadOptionValue(f"{option.lstrip('-')} cannot be {text!r}", where=option, hint=choices)
    return kind(text)


def parse_passes(text: str, *, where: str = "-p") -> tuple[Pass, ...]:
    """Return the passes that ``name:option=value:option=value,name`` asks for, in the order as written.

    Raises:
        UnknownPass: Nothing of that name is installed.
        UnknownOption: The pass has no such option; the hint lists those that it has.
        BadOptionValue: The value is not of the option's type, or out of its range.
        UsageError: The text is empty, or has an empty place where a name belongs.
    """
    return tuple(_parse_pass(part.strip(), where) for part in text.split(","))


def format_passes(passes: Iterable[Pass]) -> str:
    """Return what to write behind ``-p`` to get `passes`; options that have their default are left out."""
    return ",".join(_format_pass(step) for step in passes)


def _option(pass_class: type[Pass], field: dataclasses.Field[Any], hint: Any) -> Option:
    place = f"{pass_class.__name__}.{field.name}"
    if typing.get_origin(hint) is not typing.Annotated:
        raise _undeclared(pass_class, f"{place} must be annotated as Annotated[type, 'help']")
    kind, text = typing.get_args(hint)[:2]
    optional = typing.get_origin(kind) in (typing.Union, types.UnionType)
    if optional:
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        raise _undeclared(pass_class, f"{place} has no default: a pass must run without options")
    choices = tuple(map(_choice, kind)) if isinstance(kind, enum.EnumMeta) else ()
    if not choices and kind not in TYPE_NAMES:
        raise _undeclared(pass_class, f"{place}: {kind} is no type that an option can have")
    name = f"one of {', '.join(choices)}" if choices else TYPE_NAMES[kind]
    return Option(field.name, f"{name}, or none" if optional else name, _plain(default), text, choices, kind, optional)


def _undeclared(pass_class: type[Pass], what: str) -> ExtensionError:
    return ExtensionError(
        what, where=f"the pass {pass_class.__name__}", hint="declare its options as onnxslim.Pass says"
    )


def _find(name: str, where: str) -> type[Pass]:
    if not name:
        raise UsageError("the name of a pass is missing", where=where, hint="write for example -p simplify,quant")
    try:
        return find_pass(name)
    except UsageError as error:
        error.where = where
        raise


def _parse_pass(text: str, where: str) -> Pass:
    name, *parts = text.split(":")
    pass_class = _find(name, where)
    options = {option.name: option for option in options_of(pass_class)}
    values: dict[str, Any] = {}
    for part in _with_colons(parts, options):
        key, equals, value = part.partition("=")
        option = _option_named(name, options, key, where)
        if key in values:
            raise BadOptionValue(f"{name}:{key} is given twice", where=where, hint="give it once")
        if not equals and option.type is not bool:
            raise BadOptionValue(f"{name}:{key} needs a value", where=where, hint=_accepted(option))
        values[key] = _from_text(option, value if equals else TRUE[0], f"{where} {name}:{key}")
    return _build(pass_class, values, where)


def _with_colons(parts: Sequence[str], options: Mapping[str, Option]) -> list[str]:
    """Return the options as text; what belongs to one is together again: 2:4, or names such as onnx::Conv_1."""
    joined: list[str] = []
    for part in parts:
        before, equals, _ = joined[-1].partition("=") if joined else ("", "", "")
        textual = equals and before in options and options[before].type in (str, tuple[str, ...])
        if textual and "=" not in part and part not in options:
            joined[-1] += f":{part}"
        else:
            joined.append(part)
    return joined


def _option_named(name: str, options: Mapping[str, Option], key: str, where: str) -> Option:
    if key in options:
        return options[key]
    what = f"the pass {name} has no option {key!r}"
    hint = _hint(key, tuple(options), f"{name} has the options") if options else f"{name} has no options"
    raise UnknownOption(what, where=where, hint=hint)


def _build(pass_class: type[Pass], values: Mapping[str, Any], where: str) -> Pass:
    try:
        return pass_class(**values)
    except OnnxslimError as error:
        error.where = error.where or where
        raise
    except ValueError as error:  # how a dataclass says that a value is out of range
        hint = f"see onnxslim passes {pass_class.name}"
        raise BadOptionValue(str(error), where=f"{where} {pass_class.name}", hint=hint) from None


def _from_text(option: Option, text: str, where: str) -> Any:
    """Return the value that stands behind an equals sign."""
    if option.optional and text == NONE:
        return None
    plain = unquote(text)
    if option.choices:
        return _chosen(option, plain, where)
    if option.type is bool and plain.lower() in TRUE + FALSE:
        return plain.lower() in TRUE
    if option.type is str:
        return plain
    if option.type == tuple[str, ...]:
        names = tuple(unquote(part) for part in text.split("+")) if text else ()
        if all(names):
            return names
    if option.type in (int, float):
        try:
            number = option.type(plain)
        except ValueError:
            raise _bad(option, text, where) from None
        if option.type is int or math.isfinite(number):
            return number
    raise _bad(option, text, where)


def _from_json(option: Option, value: Any, where: str) -> Any:
    """Return the value that a JSON or TOML value stands for."""
    where = f"{where} {option.name}"
    if option.optional and (value is None or value == NONE):
        return None
    if option.choices and isinstance(value, str):
        return _chosen(option, value, where)
    if option.type is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if option.type in (bool, int, str) and type(value) is option.type:
        return value
    names = isinstance(value, list | tuple) and all(isinstance(name, str) and name for name in value)
    if option.type == tuple[str, ...] and names:
        return tuple(value)
    raise _bad(option, json.dumps(value, default=str), where)


def _chosen(option: Option, text: str, where: str) -> Any:
    for member in option.type:
        if _choice(member) == text:
            return member
    raise BadOptionValue(f"{option.name} cannot be {text!r}", where=where, hint=_hint(text, option.choices, "choose"))


def _bad(option: Option, text: str, where: str) -> BadOptionValue:
    return BadOptionValue(f"{option.name} cannot be {text!r}", where=where, hint=_accepted(option))


def _accepted(option: Option) -> str:
    return f"{option.name} is {option.help}: {option.type_name}"


def _hint(word: str, known: Sequence[str], lead: str) -> str:
    return f"{did_you_mean(word, known)}{lead} {', '.join(known)}"


def _format_pass(step: Pass) -> str:
    words = [step.name]
    for option in options_of(type(step)):
        value = _plain(getattr(step, option.name))
        if value != option.default:
            words.append(f"{option.name}={_as_text(option, value)}")
    return ":".join(words)


def _as_text(option: Option, value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "+".join(_escaped(item) for item in value)
    if isinstance(value, str):
        # Text that happens to be "none" must not read as no value.
        return "%6Eone" if option.optional and value == NONE else _escaped(value)
    return repr(value)


def _escaped(text: str) -> str:
    return quote(text, safe="/").replace("~", "%7E")


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return _choice(value)
    return list(value) if isinstance(value, tuple) else value


def _choice(member: enum.Enum) -> str:
    return member.value if isinstance(member.value, str) else member.name.lower()
