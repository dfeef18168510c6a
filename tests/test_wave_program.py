"""What XLA makes of the time loop: a copy of a whole field in every step costs a third of the speed, and no number."""

import os
import re
import subprocess
import sys

import pytest

PROGRAM = """
import dataclasses, sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp
from seisvel_jax.survey import Boundary, openfwi
from seisvel_jax.wave.medium import layout_of
from seisvel_jax.wave.plan import make_plan
from seisvel_jax.wave.propagate import _run
from seisvel_jax.wave.scheme import Scheme
from seisvel_jax.wave.spread import Spread

survey = openfwi()
if sys.argv[1] == "pml":
    survey = dataclasses.replace(survey, boundary=Boundary("pml", 100.0, (690.0, 690.0)))
plan = make_plan(survey, 4500.0, Scheme(order=4))
lanes = int(sys.argv[2])
program = jax.jit(lambda v, p: _run(v, p, spread=Spread(2, 5, lanes, 2)))
velocity = jax.ShapeDtypeStruct((2, *survey.grid.shape), jnp.float32)
print(layout_of(plan, lanes).total)
print(program.lower(velocity, dataclasses.replace(plan, nt=0, record_start=0, readout=None)).compile().as_text())
"""


@pytest.mark.parametrize("boundary", ["pml", "openfwi"])
@pytest.mark.parametrize("lanes", [1, 2])
def test_the_time_loop_copies_no_field(boundary, lanes):
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, boundary, str(lanes)],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    total, text = ran.stdout.split("\n", 1)
    loops = [
        body for body in re.split(r"\n(?=%|ENTRY)", text) if not body.startswith("ENTRY") and "gather_fusion" in body
    ]
    assert loops
    found = [line.strip() for body in loops for line in body.splitlines() if f"f32[{total}]{{0}} copy(" in line]
    # One chunk's three buffers of zeros are made outside the loop over time, but inside the one over chunks.
    assert [line for line in found if "broadcast" not in line] == []
