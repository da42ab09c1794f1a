"""Writes files atomically: into hidden folders beside their targets, from which they are renamed into place together.

A rename replaces a file in one step (POSIX, rename(2)), and files are flushed to disk first, so after a kill or a power
cut there is either the old or the new file. Hidden folders are locked while in use. Those of killed runs are not, and
the next run that writes the same file removes them.
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
except ImportError:  # Windows has no advisory locks: hidden folders of killed runs stay there
    fcntl = None  # type: ignore[assignment]  # where it is used, it is asked for first

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that stop a run, which are deferred while files are renamed, and hidden folders made and removed."""


@dataclasses.dataclass
class Placement:
    """Files that are renamed into place together, once all of them are written. Made by `placing`."""

    folders: dict[pathlib.Path, tuple[pathlib.Path, int | None]] = dataclasses.field(default_factory=dict)
    """The hidden folder of each target, and the handle by which it is locked."""
    pairs: list[tuple[pathlib.Path, pathlib.Path]] = dataclasses.field(default_factory=list)
    """(written file, final path) in the order of the renames."""
    after: list[Callable[[], None]] = dataclasses.field(default_factory=list)
    """Called after all renames."""

    def folder(self, path: pathlib.Path) -> pathlib.Path:
        """Return the hidden folder beside `path`, which is removed at the end in any case.

        Raises:
            OutputError: `path` is not a file, or is not writable.
        """
        target = followed(path)
        if target not in self.folders:
            with signals_deferred():  # no interruption between a folder and its entry here
                self.folders[target] = _hidden_folder(target)
        return self.folders[target][0]

    def place(self, file: pathlib.Path, path: pathlib.Path, *, mode: int | None = None) -> None:
        """Flush `file` to disk, and schedule its rename to `path`.

        Args:
            file: A file in a hidden folder.
            path: The final path; links are followed.
            mode: Permissions of a new file; those of a replaced file are kept.

        Raises:
            OutputError: The disk is full.
        """
        target = followed(path)
        with _os_errors(path):
            mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else mode
            if mode is not None:
                file.chmod(mode)
            flush(file)
        self.pairs.append((file, target))

    def remove_folders(self) -> None:
        """Remove the hidden folders."""
        with signals_deferred():
            while self.folders:
                _, (folder, lock) = self.folders.popitem()
                shutil.rmtree(folder, ignore_errors=True)
                if lock is not None:
                    os.close(lock)


@contextlib.contextmanager
def placing() -> Iterator[Placement]:
    """Yield a placement, whose files are renamed at the end; if the body raises, none is.

    Raises:
        OutputError: A file could not be renamed.
    """
    placement = Placement()
    try:
        yield placement
        with signals_deferred():
            for file, target in placement.pairs:
                with _os_errors(target):
                    os.replace(file, target)
            for folder in {target.parent for _, target in placement.pairs}:
                flush(folder)
            for step in placement.after:
                step()
    finally:
        try:
            placement.remove_folders()
        except BaseException:  # a signal came before it was deferred
            placement.remove_folders()
            raise


@contextlib.contextmanager
def writing(path: pathlib.Path, placement: Placement | None = None) -> Iterator[pathlib.Path]:
    """Yield a file to write, which is renamed to `path` at the end, or together with the files of `placement`.

    Raises:
        OutputError: The path is not writable.
    """
    with placing() if placement is None else contextlib.nullcontext(placement) as chosen:
        file = chosen.folder(path) / f"written{path.suffix[:16]}"
        with _os_errors(path):
            yield file
        chosen.place(file, path)


def check_place(path: pathlib.Path) -> None:
    """Check that a file can be written at `path`.

    Raises:
        OutputError: `path` is a folder, a device or a pipe, or is not writable.
    """
    with placing() as placement:
        placement.folder(path)


def is_utf8(path: pathlib.Path) -> bool:
    """Return whether a path is valid UTF-8, as models and ONNX Runtime require."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


def followed(path: pathlib.Path) -> pathlib.Path:
    """Return the final target of a link, which need not exist; any other path is returned as absolute.

    Raises:
        OutputError: The target is a folder, a device or a pipe, links form a cycle, or the path is not UTF-8.
    """
    if not is_utf8(path):
        raise OutputError("its path is no UTF-8, and ONNX takes no other", where=path, hint="choose another name")
    try:
        target = path.resolve() if path.is_symlink() else path.absolute()
        kind = target.stat().st_mode
    except FileNotFoundError:
        return target
    except NotADirectoryError:
        return target  # reported when the hidden folder is made
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links form a cycle; ValueError: a zero byte
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OutputError(f"cannot be written: {reason}", where=path, hint="choose another name") from error
    if stat.S_ISDIR(kind):
        raise OutputError("would have the name of a folder", where=path, hint="name a file")
    if not stat.S_ISREG(kind):
        raise OutputError("is a device or a pipe, which a file would replace", where=path, hint="name a file")
    return target


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer Ctrl-C and other stop signals to the end of the body. Has an effect in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def record(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    try:
        for number in SIGNALS:
            signal.signal(number, record)
        yield
    finally:
        try:
            restore()
        except BaseException:  # raised by a handler that is back: the others are not yet
            restore()
            raise
        for number in received[:1]:
            signal.raise_signal(number)


def flush(path: pathlib.Path) -> None:
    """Flush a file, or the names in a folder, to disk, if the file system supports it."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _hidden_folder(path: pathlib.Path) -> tuple[pathlib.Path, int | None]:
    """Make a hidden folder beside `path`, remove those of killed runs, and return it and its lock."""
    if not path.parent.is_dir():
        raise OutputError(
            f"cannot be written: there is no folder {path.parent}", where=path, hint="make it first, or choose another"
        )
    prefix = f".onnxslim-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}-"
    with _os_errors(path):
        _sweep(path.parent, prefix)
        return _locked_folder(path.parent, prefix)


def _locked_folder(parent: pathlib.Path, prefix: str) -> tuple[pathlib.Path, int | None]:
    """Return a new folder and its lock; retry if another run removes the folder before it is locked."""
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
    """Lock a folder and return True; False: another process holds the lock; None: the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sweep(parent: pathlib.Path, prefix: str) -> None:
    """Remove the unlocked hidden folders, left by killed runs."""
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
def _os_errors(path: pathlib.Path) -> Iterator[None]:
    """Turn an OSError in the body into an OutputError with the path."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            where=path,
            hint="is the folder there and writable, and is there room on the disk?",
        ) from error
