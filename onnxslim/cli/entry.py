"""Starts the command line and turns whatever goes wrong into one clear error and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage. Errors go to standard error as ``error: where: what``, an empty line, and
``hint: what to do``; standard output stays empty, with ``--json`` too. ONNXSLIM_TRACEBACK=1 shows where it came from.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from onnxslim.cli.application import app
from onnxslim.errors import OnnxslimError
from onnxslim.pipeline.collector import patient_collector
from onnxslim.report.namesake import HINT, namesake_version

PROGRAM = "onnxslim"
TRACEBACK = "ONNXSLIM_TRACEBACK"
COMPLETING = "_ONNXSLIM_COMPLETE"
INTERRUPTED = 130
"""What Typer answers where Ctrl-C was pressed inside a command."""

# Newer Typer has taken Click in under a private name. This class is public in all of them, and so are its bases.
WrongUsage: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        arguments: What stands behind the program's name; None: what this process was started with.
    """
    sys.exit(run(arguments))


@patient_collector()
def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 failed, 2 wrong usage."""
    command = typer.main.get_command(app)
    try:
        if COMPLETING not in os.environ:
            _warn_of_namesake()
        code = command.main(
            args=None if arguments is None else list(arguments), prog_name=PROGRAM, standalone_mode=False
        )
        sys.stdout.flush()
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except OnnxslimError as error:
        return _fail(error.what, error.where, error.hint, error.exit_code)
    except WrongUsage as error:
        what, hint = _usage(error, command)
        return _fail(what, error.ctx.command_path if error.ctx else None, hint, 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", None, "nothing was left half-written; start it again", 1)
    except BrokenPipeError:
        # Whoever read us has gone, as `| head` does. Python flushes standard output once more at exit: let it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _fail("out of memory", None, "close other programs, or use a machine with more memory", 1)
    except Exception as error:
        hint = f"please report it, with the model if you can and with what {TRACEBACK}=1 makes this command print"
        return _fail(f"bug in onnxslim: {type(error).__name__}: {_first_line(error)}", None, hint, 1)


def _fail(what: str, where: str | None, hint: str | None, code: int) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    text = Text.assemble(("error: ", "bold red"), f"{where}: " if where else "", what)
    if hint:
        text.append("\n\n").append("hint: ", "bold").append(hint)
    Console(stderr=True, soft_wrap=True, highlight=False).print(text)
    return code


def _usage(error: Any, command: Any) -> tuple[str, str]:
    """Return what is wrong, and the hint, with the nearest word that there is."""
    message = str(getattr(error, "message", "") or error.format_message())
    help_hint = f"{error.ctx.command_path if error.ctx else PROGRAM} --help shows how it is used"
    option = getattr(error, "option_name", None)
    if isinstance(option, str) and error.ctx is not None and "No such option" in message:
        known = [word for each in error.ctx.command.params for word in (*each.opts, *each.secondary_opts)]
        return f"there is no option {option}", _did_you_mean(option, known) + help_hint
    if message.startswith("No such command"):
        word = message.split("'")[1]
        known = list(command.commands)
        return f"there is no command {word}", _did_you_mean(word, known) + f"the commands are: {', '.join(known)}"
    text = error.format_message().rstrip(".")
    return text[:1].lower() + text[1:], help_hint


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}? " if close else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]


def _warn_of_namesake() -> None:
    version = namesake_version()
    if version is not None:
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"warning: the distribution onnxslim {version}, another project, is installed in the same environment and "
            f"has the same import name\n\nhint: {HINT}",
            style="yellow",
        )
