"""Damaged and hostile files into every door: each is read, or refused in one line; no traceback, hang or flood.

    python tests/fuzz.py --inputs 10000 [--seed 0] [--only npy checkpoint ...]

hypothesis draws what is done to good files: cuts, flipped bits, headers that lie, huge shapes, NaN, links out of the
tree, pipes, odd names, swapped files, JSON with other values (with and without renewed checksums), overrides of the
command line. The same seed gives the same inputs. Exit code 0: nothing was found. The doors are in tests/fuzzing.
"""

import argparse
import contextlib
import io
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from fuzzing.doors import DOORS
    from fuzzing.running import fuzz

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(DOORS), default=list(DOORS))
    options = parser.parse_args()
    warnings.simplefilter("error")
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # thousands of copies: no work for a disk
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=in_memory))
    begun = time.monotonic()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            found = fuzz(options.inputs, options.seed, options.only, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"seed {options.seed}: {found.inputs.total()} inputs in {time.monotonic() - begun:.0f} s, "
        f"peak memory {peak:.0f} MiB, slowest {found.slowest[0]:.1f} s of computing ({found.slowest[1]}), "
        f"{len(found.problems)} problems"
    )
    for problem in found.problems:
        print(f"PROBLEM {problem}")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
