"""The house's rooms: who may import whom (docs/architecture.md). Read from the source, so lazy imports count too."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "seisvel_jax"
FREE = {"arrays", "errors", "files", "logging", "survey"}
COMMANDS = {
    "inspect",
    "simulate",
    "train",
    "predict",
    "evaluate",
    "demo",
    "pack",
    "refine",
    "sample",
    "train_diffusion",
}
MAY_IMPORT = {
    "arrays": set(),
    "errors": {"huge_pages"},
    "huge_pages": set(),
    "files": {"errors"},
    "logging": {"errors"},
    "survey": {"arrays", "errors", "files"},
    "wave": {"arrays", "survey", "errors"},
    "earth": {"arrays", "survey", "errors"},
    "inversion": FREE | {"wave", "earth"},
    "data": FREE | {"wave", "earth"},
    "simulation": FREE | {"wave", "earth", "data"},
    "models": FREE,
    "diffusion": FREE | {"models", "wave"},
    "calibration": FREE,
    "metrics": FREE,
    "plotting": FREE | {"metrics"},
    "config": FREE | {"data", "models", "training", "diffusion"},
    "training": FREE | {"wave", "earth", "inversion", "data", "models", "diffusion", "metrics", "config"},
    "inference": FREE
    | {"wave", "data", "models", "metrics", "training", "config", "inversion", "plotting", "diffusion", "calibration"},
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("seisvel_jax.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_import_directions(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        assert imports_of(path) <= {"inference"}
        return
    found = imports_of(path) - {room}
    if room in COMMANDS:
        assert not found & (COMMANDS - {"simulate", "train", "predict", "evaluate"})
        return
    assert room in MAY_IMPORT, f"{room} is a new room: say in this table what it may import"
    assert found <= MAY_IMPORT[room], f"{path} imports {found - MAY_IMPORT[room]}"


def test_wave_needs_only_jax_and_numpy():
    for path in (PACKAGE / "wave").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                assert module.split(".")[0] in {
                    "jax",
                    "numpy",
                    "math",
                    "dataclasses",
                    "functools",
                    "typing",
                    "collections",
                    "warnings",
                    "seisvel_jax",
                }, f"{path} imports {module}"
