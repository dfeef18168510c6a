"""The solvers that `benchmarks/propagate.py` compares, one file each, behind one interface (solver.py)."""
