"""Starts the command line and turns whatever goes wrong into one clear error and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage. Errors go to standard error as ``error: where: what``, an empty line, and
``hint: what to do``; standard output stays empty, with ``--json`` too. ONNXSLIM_TRACEBACK=1 shows where it came from.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from onnxslim.cli.application import app
from onnxslim.cli.output import warn
from onnxslim.errors import OnnxslimError, did_you_mean
from onnxslim.installation import NAMESAKE, NAMESAKE_HINT, installed
from onnxslim.pipeline.gc_pause import patient_collector
from onnxslim.printable import printable

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
    _prepare_streams()
    before = _heed_requests_to_stop()
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
        _drop_standard_output()  # whoever read us has gone, as `| head` does
        return 1
    except OSError as error:
        _drop_standard_output()
        reason = error.strerror or str(error)
        return _fail(reason, error.filename, "is there room on the disk, and can standard output be written?", 1)
    except MemoryError:
        return _fail("out of memory", None, "close other programs, or use a machine with more memory", 1)
    except Exception as error:
        message = (str(error).strip() or "no message").splitlines()[0]
        hint = f"please report it, with the model if you can and with what {TRACEBACK}=1 makes this command print"
        return _fail(f"bug in onnxslim: {type(error).__name__}: {message}", None, hint, 1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepare_streams() -> None:
    """Let no character be an error where standard output is ASCII, and a closed stream take nothing amiss.

    What libraries log stays off standard error.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # a closed stream's number would go to the next file that is opened, and what is printed into that file
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name in ("onnx_ir", "onnx"):  # what they warn of comes back as an error of ours, or is none
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _heed_requests_to_stop() -> dict[int, Any]:
    """Treat a request to stop (SIGTERM, or a terminal that closes) as Ctrl-C, so that nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        return {}

    def interrupt(number: int, _: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup has it
    return {number: signal.signal(number, interrupt) for number in heeded}


def _drop_standard_output() -> None:
    """Python flushes standard output once more at exit: let it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(what: str, where: str | None, hint: str | None, code: int) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    place = f"{printable(where)}: " if where else ""
    text = Text.assemble(("error: ", "bold red"), place, printable(what))
    if hint:
        text.append("\n\n").append("hint: ", "bold").append(printable(hint))
    Console(stderr=True, soft_wrap=True, highlight=False).print(text)
    return code


def _usage(error: Any, command: Any) -> tuple[str, str]:
    """Return what is wrong, and the hint, with the nearest word that there is."""
    message = str(getattr(error, "message", "") or error.format_message())
    help_hint = f"{error.ctx.command_path if error.ctx else PROGRAM} --help shows how it is used"
    option = getattr(error, "option_name", None)
    if isinstance(option, str) and error.ctx is not None and "No such option" in message:
        words = [
            word for parameter in error.ctx.command.params for word in (*parameter.opts, *parameter.secondary_opts)
        ]
        return f"there is no option {option}", did_you_mean(option, words) + help_hint
    if message.startswith("No such command"):
        word = message.split("'")[1]
        known = list(command.commands)
        return f"there is no command {word}", did_you_mean(word, known) + f"the commands are: {', '.join(known)}"
    text = error.format_message().rstrip(".")
    return text[:1].lower() + text[1:], help_hint


def _warn_of_namesake() -> None:
    version = installed(NAMESAKE)
    if version is not None:
        what = f"the distribution onnxslim {version}, another project, is installed in the same environment"
        warn(f"{what} and has the same import name", NAMESAKE_HINT)
