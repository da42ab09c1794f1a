"""Functions of the user, named as ``module:function``."""

from __future__ import annotations

import functools
import importlib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from onnxslim.errors import BadOptionValue
from onnxslim.foreign_code import foreign_code

FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def names_function(text: str) -> bool:
    """Return whether `text` has the form ``module:function`` (a URL does not)."""
    return FORM.fullmatch(text) is not None


def module_file(text: str) -> pathlib.Path | None:
    """Return the file of the module in ``module:function`` if it is in the current directory, else None."""
    place = pathlib.Path(*text.partition(":")[0].split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def import_function(text: str, option: str) -> Callable[..., Any]:
    """Return the function that an option names, ``module:function``; the module may be in the current directory.

    Raises:
        BadOptionValue: The form is wrong, the module cannot be imported, or it has no such function.
    """
    if not names_function(text):
        hint = "for example: mymodule:myfunction"
        raise BadOptionValue(f"{text!r} does not read module:function", where=option, hint=hint)
    where = f"{option} {text}"
    module_name, _, path = text.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        with foreign_code(where):
            found: Any = importlib.import_module(module_name)
            for name in path.split("."):
                found = getattr(found, name)
    except ModuleNotFoundError as error:
        hint = f"modules are looked for in {here} too"
        raise BadOptionValue(f"there is no module {error.name!r}", where=where, hint=hint) from error
    except AttributeError as error:
        hint = "check the name behind the colon"
        raise BadOptionValue(f"the module {module_name} has no {path!r}", where=where, hint=hint) from error
    except BadOptionValue:
        raise
    except Exception as error:  # the user's module may raise any exception on import
        what = f"importing {module_name} raised {type(error).__name__}: {error}"
        hint = "import the module by itself to see where that comes from"
        raise BadOptionValue(what, where=where, hint=hint) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        hint = "name a function, or something else that can be called"
        raise BadOptionValue(f"{path!r} is no function", where=where, hint=hint)
    return found if isinstance(found, type) else guarded(found, where)


def guarded(function: Callable[..., Any], where: str) -> Callable[..., Any]:
    """Return a function that is called as foreign code, and so is the iterator that it may return."""

    @functools.wraps(function, updated=())
    def call(*arguments: Any) -> Any:
        with foreign_code(where):
            result = function(*arguments)
        return _guarded_items(result, where) if isinstance(result, Iterator) else result

    return call


def _guarded_items(items: Iterator[Any], where: str) -> Iterator[Any]:
    while True:
        with foreign_code(where):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
