"""seisvel_jax: seismic shot gathers in, P-wave velocity models out, in JAX and Flax.

`from seisvel_jax import load; load("RUN").predict(gathers)` is the short way in; the commands are
`python -m seisvel_jax.{inspect,simulate,train,predict,evaluate,demo}`.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Lazy: `python -m seisvel_jax.predict --help` must not wait for jax, flax and orbax to import.
    if name == "load":
        from seisvel_jax.inference.pretrained import load

        return load
    raise AttributeError(f"module 'seisvel_jax' has no attribute {name!r}")
