"""Several processes as one: they join, agree, leave together, and end with a clear message where one of them is lost.

Single process, many devices: nothing here is needed. Many processes find each other through `jax.distributed`: by
themselves under SLURM, Open MPI, Kubernetes and on Cloud TPUs (`--distributed`), or by a plain address:

    SEISVEL_COORDINATOR=10.0.0.1:4567 SEISVEL_PROCESS_COUNT=2 SEISVEL_PROCESS_INDEX=0 python -m seisvel_jax.train …

Light to import: jax comes in where processes join.
"""

import contextlib
import ctypes
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from seisvel_jax.errors import UserError, run_command
from seisvel_jax.logging import silence

if TYPE_CHECKING:
    from jax.sharding import Mesh

HEARTBEAT_SECONDS = 60
"""A process that has not been heard of for so long counts as lost. One that is killed is noticed at once where its
connections break with it; this is for machines that vanish, and for collectives that hang (NCCL)."""
JOIN_SECONDS = 300
"""How long the first processes wait for the last."""
LOST = (
    "another process of this run has ended or cannot be reached: its own log says why. Start all processes again: "
    "the work goes on from what is saved"
)


@contextlib.contextmanager
def together(distributed: bool = False) -> Iterator[None]:
    """Join the other processes, if there are any, for as long as this context is open; only the first one talks.

    `distributed` looks for a cluster; SEISVEL_COORDINATOR in the environment means the processes it names. A process
    that fails inside leaves at once with its message and exit code, so that the others notice instead of waiting.
    Raises UserError where the environment makes no sense or the others do not come.
    """
    if not _join(distributed):
        yield
        return
    import jax

    silence(jax.process_index() != 0)
    try:
        yield
    except BaseException as error:
        from seisvel_jax.training.signals import Interrupted

        if isinstance(error, Interrupted):  # all of them have agreed on it, and leave together
            raise
        _leave(error)


def _join(distributed: bool) -> bool:
    address = os.environ.get("SEISVEL_COORDINATOR", "")
    if not address and not distributed:
        return False
    import jax

    plain: dict[str, Any] = {}
    if address:
        count, index = _number("SEISVEL_PROCESS_COUNT"), _number("SEISVEL_PROCESS_INDEX")
        if not re.fullmatch(r"\S+:\d+", address):
            raise UserError(f"SEISVEL_COORDINATOR={address}: expected HOST:PORT of the first process")
        if not 0 <= index < count:
            raise UserError(f"SEISVEL_PROCESS_INDEX={index}: expected 0 to {count - 1} (SEISVEL_PROCESS_COUNT - 1)")
        plain = {"coordinator_address": address, "num_processes": count, "process_id": index}
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    _speak_when_aborted()
    try:
        jax.distributed.initialize(
            **plain, initialization_timeout=JOIN_SECONDS, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except ValueError as error:
        raise UserError(
            f"--distributed: no cluster of SLURM, Open MPI, Kubernetes or Cloud TPUs around this process ({error}): "
            "start it with srun or the like, or set SEISVEL_COORDINATOR, SEISVEL_PROCESS_COUNT and "
            "SEISVEL_PROCESS_INDEX"
        ) from error
    except RuntimeError as error:
        where = f" at {address}" if address else ""
        raise UserError(
            f"the other processes{where} did not join within {JOIN_SECONDS} s ({_first_line(error)}): start all of "
            "them, and check that they can reach this address"
        ) from error
    return jax.process_count() > 1


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise UserError(f"{name}={text}: expected a number; it goes with SEISVEL_COORDINATOR")
    return int(text)


def _leave(error: BaseException) -> NoReturn:
    """Say what went wrong as a command does, and end without waiting for the others at a barrier."""
    if lost_peer(error):
        error = UserError(LOST)

    def fail() -> None:
        raise error

    code: Any = 1
    try:
        run_command(fail)
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def lost_peer(error: BaseException) -> bool:
    """Whether this is what JAX raises where another process is gone."""
    texts = []
    link: BaseException | None = error
    while link is not None:
        if not isinstance(link, OSError):
            texts.append(str(link))
        link = link.__cause__ or link.__context__
    return bool(re.search(r"gloo|nccl|coordination ?service|heartbeat|sync_global_devices", " ".join(texts), re.I))


def _speak_when_aborted() -> None:
    """JAX's coordination service ends a process by abort() where another one is lost: let the last line be ours.

    Python's own handlers of SIGABRT never run, as abort() does not return to the interpreter.
    """
    global _when_aborted  # noqa: PLW0603

    def leave(number: int) -> None:
        words = f"error: aborted, with the reason above; most likely {LOST}\n"
        os.write(2, words.encode())
        os._exit(2)

    _when_aborted = ctypes.CFUNCTYPE(None, ctypes.c_int)(leave)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).signal(signal.SIGABRT, _when_aborted)


_when_aborted: Any = None
"""Kept, as the C library holds nothing but its address."""


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:200]


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    import jax

    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Go on when all processes have come here; each place has a `name` of its own."""
    import jax

    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices(name)


class Agreement:
    """A number on which all processes agree at the same step: the largest any of them gave the step before.

    The numbers travel beside the training step, so nobody waits for them. A single process agrees with itself at once.
    """

    def __init__(self, mesh: "Mesh") -> None:
        import jax
        import jax.numpy as jnp
        from jax.sharding import NamedSharding, PartitionSpec

        self._sharding = NamedSharding(mesh, PartitionSpec(("data", "member")))
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._largest = jax.jit(jnp.max, out_shardings=everywhere) if jax.process_count() > 1 else None
        self._asked: Any = None

    def __call__(self, number: int) -> int:
        """The number agreed on; 0 at the first call of several processes."""
        if self._largest is None:
            return number
        import jax

        mine = np.full(jax.local_device_count(), number, np.int32)
        asked, self._asked = self._asked, self._largest(jax.make_array_from_process_local_data(self._sharding, mine))
        return 0 if asked is None else int(asked)
