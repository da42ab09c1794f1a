"""Free memory, checked before large allocations: a process that takes too much is killed."""

from __future__ import annotations

import contextlib
import pathlib
import resource

CGROUP = pathlib.Path("/sys/fs/cgroup")
PROC = pathlib.Path("/proc")


def free_bytes() -> int | None:
    """Return the bytes that this process may still allocate: the least of machine, control group and own limit.

    Returns:
        Bytes, or None if none of the limits is known, as on systems other than Linux.
    """
    known: list[int] = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = dict(line.split(":", 1) for line in (PROC / "meminfo").read_text().splitlines())
        known.append(int(lines["MemAvailable"].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        limit_bytes, used_bytes = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        known.append(int(limit_bytes) - int(used_bytes))
    with contextlib.suppress(OSError, ValueError):
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int((PROC / "self" / "statm").read_text().split()[0])
            known.append(limit - pages * resource.getpagesize())
    return max(0, min(known)) if known else None
