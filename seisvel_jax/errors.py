"""The one exception a user sees, and the frame every command runs in.

A message names the file, the value, what was expected and the cure; a traceback is a defect of ours.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from seisvel_jax.huge_pages import begin_again_with_huge_pages


class UserError(Exception):
    """Bad input or a bad environment: shown as one line, exit code 2."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, from a scheduler: what is open is closed and what is half written removed, as after Ctrl-C."""


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one acts at once
    raise Terminated


def _unraisable(unraisable: Any, otherwise: Callable[[Any], Any]) -> None:
    """Deliver once more a signal whose exception fell into a callback of the interpreter, such as a finaliser."""
    error = unraisable.exc_value
    if not isinstance(error, KeyboardInterrupt):
        otherwise(unraisable)
        return
    number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
    if number == signal.SIGTERM:
        signal.signal(number, _terminate)
    # A little later, and by another thread: raised from here it would be swallowed again.
    again = threading.Timer(0.02, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave with its exit code.

    0 done, 1 the command's own "no" (an unusable data set), 2 bad input, 130 interrupted (Ctrl-C), 143 by SIGTERM.
    """
    begin_again_with_huge_pages()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
        before = sys.unraisablehook
        sys.unraisablehook = lambda unraisable: _unraisable(unraisable, before)
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        _say(str(error))
        code = 2
    except KeyboardInterrupt as error:
        _say("interrupted; run the same command again to go on")
        code = 143 if isinstance(error, Terminated) else 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone: nothing is wrong. Keep the interpreter from flushing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        _say(describe_os_error(error))
        code = 2
    sys.exit(code)


def describe_os_error(error: OSError) -> str:
    """One line for the errors of a file system: what, where, and the cure."""
    cure = {
        errno.ENOSPC: "the disk is full: free some space or choose another place; what was there before is untouched",
        errno.EDQUOT: "the disk quota is used up: free some space or choose another place",
        errno.EROFS: "this place is read-only: choose another",
        errno.EACCES: "no permission: choose another place or change its permissions",
        errno.ENOENT: "no such file or folder: check the path",
        errno.ENOTDIR: "a file stands where a folder is needed: check the path",
        errno.EISDIR: "a folder stands where a file is needed: check the path",
    }.get(error.errno or 0, error.strerror or str(error))
    if error.errno is None and "requested and" in str(error):
        # What numpy says when it could not write a whole array: an OSError without errno or file.
        cure = f"an array could not be written whole ({error}): is the disk full? What was there before is untouched"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{cure}"


def _say(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
