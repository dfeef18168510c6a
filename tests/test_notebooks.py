"""The notebooks run from top to bottom on a tiny run, and each pair says the same."""

import dataclasses
import warnings
from pathlib import Path

import jupytext
import pytest
from training_support import CONFIG, quick_compilation, write_data

from seisvel_jax.config import replace
from seisvel_jax.train import train

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
PAIRS = sorted(NOTEBOOKS.glob("*.py"))


@pytest.mark.parametrize("script", PAIRS, ids=lambda p: p.stem)
def test_pairs_say_the_same(script):
    as_script, as_notebook = jupytext.read(script), jupytext.read(script.with_suffix(".ipynb"))
    cells = [[(c.cell_type, c.source) for c in notebook.cells] for notebook in (as_script, as_notebook)]
    assert cells[0] == cells[1], f"run: jupytext --to ipynb --update {script}"


def test_quickstart_runs(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    data = write_data(tmp_path / "data")
    config = dataclasses.replace(replace(CONFIG, data__path=str(data)), steps=2)
    with quick_compilation():
        train(config, tmp_path / "run")
    monkeypatch.setenv("SEISVEL_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("SEISVEL_DATA", str(data))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel draws inline
    notebook = jupytext.read(NOTEBOOKS / "quickstart.py")
    with warnings.catch_warnings():
        # The client's own event loop and kernel handling warn on some Python versions; the cells run in the kernel.
        warnings.simplefilter("ignore")
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "MAPE of this sample" in text
    assert "2 members with weights" in text
    pictures = [o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
