"""How much memory may still be taken, so that it is asked for before it is: a process that takes too much is killed."""

from __future__ import annotations

import contextlib
import pathlib
import resource

CGROUP = pathlib.Path("/sys/fs/cgroup")
PROC = pathlib.Path("/proc")


def free_bytes() -> int | None:
    """Return how many bytes this process may still take: of the machine, its control group and its own limit.

    Returns:
        The least of what is known; None where nothing is, as on systems other than Linux.
    """
    known: list[int] = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = dict(line.split(":", 1) for line in (PROC / "meminfo").read_text().splitlines())
        known.append(int(lines["MemAvailable"].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        most, taken = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        known.append(int(most) - int(taken))
    with contextlib.suppress(OSError, ValueError):
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int((PROC / "self" / "statm").read_text().split()[0])
            known.append(limit - pages * resource.getpagesize())
    return max(0, min(known)) if known else None
