"""Velocity models in, a data set out: what `python -m seisvel_jax.simulate` runs."""
