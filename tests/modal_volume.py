"""A volume of the stand-in for Modal (modal_service.py): a folder, of which each container has a copy."""

import shutil
from pathlib import Path


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file under a folder; folders too, so that empty ones are not lost."""
    found = {}
    for path in folder.rglob("*"):
        stat = path.lstat()
        found[str(path.relative_to(folder))] = (0, 0) if path.is_dir() else (stat.st_size, stat.st_mtime_ns)
    return found


def carry_over(source: Path, target: Path, before: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Do to `target` what was done to `source` since it was as in `before`; how `source` is now."""
    now = listing(source)
    for name in sorted(now):
        if before.get(name) == now[name]:
            continue
        if (source / name).is_dir():
            (target / name).mkdir(parents=True, exist_ok=True)
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
    for name in sorted(before.keys() - now.keys(), reverse=True):
        path = target / name
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        else:
            path.unlink(missing_ok=True)
    return now
