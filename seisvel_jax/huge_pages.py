"""Memory in pages of 2 MB, for a command on Linux: a training step on a CPU takes a third less time.

XLA asks for its hundreds of megabytes anew at every step and gives them back; in pages of 4 kB the kernel then spends
a third of all time on page faults. glibc 2.35 and later asks for huge pages where GLIBC_TUNABLES says so, which is read
only when a process begins.
"""

import os
import sys
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb=1"
"""malloc marks its memory with madvise (glibc manual, Memory Allocation Tunables)."""
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def begin_again_with_huge_pages() -> None:
    """Replace this process, a `python -m seisvel_jax.NAME` that has only begun, by itself with huge pages.

    Returns where that changes nothing or the user has set GLIBC_TUNABLES. The process keeps its number.
    """
    if not (wanted(dict(os.environ)) and started_as_a_command()):
        return
    try:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "GLIBC_TUNABLES": TUNABLE})
    except OSError:
        return  # it works as well without, only slower


def wanted(environment: dict[str, str], kernel: Path = KERNEL) -> bool:
    """Whether this kernel and C library give huge pages to those who ask, and nobody has said how to allocate."""
    if not sys.platform.startswith("linux") or "GLIBC_TUNABLES" in environment:
        return False
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        recent = name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= (2, 35)
        return recent and "[madvise]" in kernel.read_text()
    except (OSError, ValueError):
        return False


def started_as_a_command() -> bool:
    """Whether this is `python -m seisvel_jax.NAME`, and not pytest, a notebook or a program that imports us."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.startswith("seisvel_jax.")
