"""The physics: acoustic waves through a velocity model. Needs nothing but jax and numpy."""
