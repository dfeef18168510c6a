"""The solver's page is a program, and it runs."""

import re
from pathlib import Path

import numpy as np
from training_support import quick_compilation

PAGE = Path(__file__).resolve().parents[1] / "docs" / "solver.md"


def test_the_code_of_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names: dict = {}
    with quick_compilation():
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    assert names["gathers"].shape == (1, 2, 300, 50)
    assert names["gradient"].shape == (1, 40, 51) and names["of_the_wavelet"].shape == (300,)
    assert names["frames"].shape == (1, 2, 11, 40, 51) and names["energy"].shape == (1, 40, 51)
    for name in ("gathers", "gradient", "of_the_wavelet", "scattered", "product", "frames", "energy"):
        assert np.isfinite(names[name]).all() and np.abs(names[name]).max() > 0, name
    # The model is faster below: the gradient of a slow start asks for more velocity somewhere.
    assert float(names["gradient"].min()) < 0
