"""One host's share of a command's batches: `--shard I N`. What shards finish waits in one folder for a last look."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from seisvel_jax.errors import UserError
from seisvel_jax.logging import chunks, say

if TYPE_CHECKING:
    from seisvel_jax.inference.submission import Finished

ShardOption = Annotated[tuple[int, int], tyro.conf.arg(metavar="I N")]
"""The option `--shard I N` of a command, `(0, 1)` where it is not given."""
THEN = "done; when all shards are, the same command without --shard writes the file"
"""What a shard says at its end."""


@dataclass(frozen=True)
class Shard:
    """Batch `index`, `index + count`, `index + 2 count`...: whole ones, so that each is the same in every division.

    The shards know nothing of each other. When all are through, the same command without `--shard` finds every sample
    finished and writes the file. Raises UserError for numbers that are no share.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(f"--shard {self.index} {self.count}: expected I N with 0 <= I < N")

    def __str__(self) -> str:
        return f"shard {self.index} of {self.count}"

    @property
    def is_all(self) -> bool:
        """Whether this is all of the work: such a command writes the file, a true share does not."""
        return self.count == 1

    def lock(self, output: Path) -> str:
        """The name of the lock beside `output`: two shards may work side by side, but not one twice."""
        return f".{output.name}.lock" if self.is_all else f".{output.name}.{self.index}_{self.count}.lock"

    def batches(self, count: int, size: int) -> list[range]:
        """The indices that are this share of `count` samples, taken `size` at a time."""
        return list(chunks(count, size))[self.index :: self.count]


def remaining(batches: list[range], finished: "Finished") -> list[range]:
    """Those of `batches` in which a sample is not `finished`, saying how many samples of them are done."""
    to_do = [batch for batch in batches if not all(index in finished for index in batch)]
    wanted = sum(len(batch) for batch in batches)
    done = wanted - sum(len(batch) for batch in to_do)
    if done:
        say(f"{finished.folder}: {done} of {wanted} samples are done already, going on from there")
    return to_do
