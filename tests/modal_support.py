"""What the tests of modal_train.py share. Importing it skips them where Modal's client is not installed."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

modal = pytest.importorskip("modal", reason="the client of Modal is not installed: pip install -e '.[modal]'")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
modal_train: Any = importlib.import_module("modal_train")
can_make_containers = importlib.import_module("modal_container").can_make_containers
SOURCE: str = importlib.import_module("modal_container").SOURCE
Service = importlib.import_module("modal_service").Service
TINY_CONFIG = "from training_support import CONFIG as config\n"
containers = pytest.mark.skipif(not can_make_containers(), reason="no user namespaces here: unshare -rm is refused")
# Modal says so whenever `.local()` runs a function that has volumes.
MARKS = [
    pytest.mark.filterwarnings("ignore:The .* function is executing locally:UserWarning"),
    pytest.mark.usefixtures("programs", "own_argv"),
]
