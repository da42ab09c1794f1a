"""Writes files whole or not at all: in hidden folders beside their targets, then all of them renamed into place.

A rename replaces a file in one step (POSIX, rename(2)): whoever looks finds the old file or the new one, after a kill
or a power cut as well: what is renamed was flushed to the disk before. Hidden folders are locked while they are in use;
those of runs that were killed are not, and the next run that writes the same file removes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from onnxslim.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows has no advisory locks: nothing is swept there
    fcntl = None  # type: ignore[assignment]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What may stop a run; held back while files are renamed."""


@dataclasses.dataclass
class Placement:
    """Files that take their places together, once all of them are written. Made by `placing`."""

    stack: contextlib.ExitStack
    folders: dict[pathlib.Path, pathlib.Path] = dataclasses.field(default_factory=dict)
    """The hidden folder of each target."""
    pairs: list[tuple[pathlib.Path, pathlib.Path]] = dataclasses.field(default_factory=list)
    """What was written, and where it shall lie, in the order of the renames."""
    after: list[Callable[[], None]] = dataclasses.field(default_factory=list)
    """What is to be done when all of them have their places."""

    def folder(self, path: pathlib.Path) -> pathlib.Path:
        """Return the hidden folder beside `path`, which is removed in any case.

        Raises:
            OutputError: `path` is no file, or nothing can be written there.
        """
        target = followed(path)
        if target not in self.folders:
            self.folders[target] = self.stack.enter_context(_hidden_folder(target))
        return self.folders[target]

    def place(self, file: pathlib.Path, path: pathlib.Path, *, mode: int | None = None) -> None:
        """Let `file` lie at `path` when all is written; its bytes are flushed to the disk here.

        Args:
            file: In a hidden folder.
            path: Its place. Where that is a link, what the link points to.
            mode: Permissions of a file that is new; one that is replaced hands its own on.

        Raises:
            OutputError: The disk is full.
        """
        target = followed(path)
        with _naming(path):
            mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else mode
            if mode is not None:
                file.chmod(mode)
            flush(file)
        self.pairs.append((file, target))


@contextlib.contextmanager
def placing() -> Iterator[Placement]:
    """Yield a placement; what it was given is renamed into place at the end, and nothing is where the body raises.

    Raises:
        OutputError: A file could not be renamed.
    """
    with contextlib.ExitStack() as stack:
        placement = Placement(stack)
        yield placement
        with signals_held_back():
            for file, target in placement.pairs:
                with _naming(target):
                    os.replace(file, target)
            for folder in {target.parent for _, target in placement.pairs}:
                flush(folder)
            for step in placement.after:
                step()


@contextlib.contextmanager
def writing(path: pathlib.Path, placement: Placement | None = None) -> Iterator[pathlib.Path]:
    """Yield a file to write, which is renamed to `path` at the end, or together with all that `placement` holds.

    Raises:
        OutputError: Nothing can be written there.
    """
    with contextlib.ExitStack() as stack:
        chosen = placement or stack.enter_context(placing())
        file = chosen.folder(path) / f"written{path.suffix[:16]}"
        with _naming(path):
            yield file
        chosen.place(file, path)


def check_place(path: pathlib.Path) -> None:
    """Check that a file can be written at `path`.

    Raises:
        OutputError: It is a folder, a device or a pipe, or nothing can be written there.
    """
    with _hidden_folder(followed(path)):
        pass


def is_utf8(path: pathlib.Path) -> bool:
    """Whether a path can be written in a model, and be opened by ONNX Runtime."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


def followed(path: pathlib.Path) -> pathlib.Path:
    """Return what a link points to in the end, whether it is there or not; all else as it is, absolute.

    Raises:
        OutputError: It is a folder, a device or a pipe, links point at each other, or its path is no UTF-8.
    """
    if not is_utf8(path):
        raise OutputError("its path is no UTF-8, and ONNX takes no other", where=path, hint="choose another name")
    try:
        target = path.resolve() if path.is_symlink() else path.absolute()
        kind = target.stat().st_mode
    except FileNotFoundError:
        return target
    except NotADirectoryError:
        return target  # making the hidden folder says so
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle; ValueError: a zero byte
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OutputError(f"cannot be written: {reason}", where=path, hint="choose another name") from error
    if stat.S_ISDIR(kind):
        raise OutputError("would have the name of a folder", where=path, hint="name a file")
    if not stat.S_ISREG(kind):
        raise OutputError("is a device or a pipe, which a file would replace", where=path, hint="name a file")
    return target


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Deliver Ctrl-C and requests to stop when the body is through. Only the main thread can be asked to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in received[:1]:
            signal.raise_signal(number)


def flush(path: pathlib.Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; file systems that cannot say so are believed."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _hidden_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a hidden folder beside `path`, locked; it is removed in any case, and so are those of killed runs."""
    if not path.parent.is_dir():
        raise OutputError(
            f"cannot be written: there is no folder {path.parent}", where=path, hint="make it first, or choose another"
        )
    prefix = f".onnxslim-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}-"
    folder = lock = None
    try:
        with _naming(path):
            folder, lock = _locked_folder(path.parent, prefix)
            _sweep(path.parent, prefix)
        yield folder
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked_folder(parent: pathlib.Path, prefix: str) -> tuple[pathlib.Path, int | None]:
    """Make a folder and lock it; between the two another run may take it for one that was left, and remove it."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        if fcntl is None:
            return folder, None
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        if _lock(lock) is not False and os.path.exists(folder):
            return folder, lock
        os.close(lock)


def _lock(handle: int) -> bool | None:
    """Lock a folder. False: somebody else has; None: the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sweep(parent: pathlib.Path, prefix: str) -> None:
    """Remove the folders that runs which were killed have left."""
    if fcntl is None:
        return
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                if _lock(handle):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Turn what the system says into an error that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            where=path,
            hint="is the folder there and writable, and is there room on the disk?",
        ) from error
