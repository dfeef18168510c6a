"""What a door may answer."""

from collections.abc import Callable
from typing import Any


def refused(use: Callable[[], Any], lines: int = 1) -> bool:
    """Whether `use` raised the error that users see, in one line; anything else goes through."""
    from seisvel_jax.errors import UserError

    try:
        use()
    except UserError as error:
        message = str(error)
        assert message.strip() and message.count("\n") < lines, f"a message of several lines: {message!r}"
        return True
    except OSError as error:
        # `run_command` says these in one line. These are of the file system's doing, not of our reading.
        from seisvel_jax.errors import describe_os_error

        assert describe_os_error(error), error
        if error.errno is None:
            raise
        return True
    return False
