"""A container of the stand-in for Modal (modal_service.py): a process with a file system of its own."""

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from modal_proto import api_pb2
from modal_volume import carry_over

if TYPE_CHECKING:
    from modal_service import Service

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "/root"
"""Where Modal's containers have the uploaded source, and begin: fixed by Modal's client, whoever the user is."""

# A root of its own: everything of the machine, but the repository hidden, the uploads as source, and the volumes.
CONTAINER = r"""
set -e
new=$1 uploads=$2 repository=$3 prefix=$4 base=$5 source=$6; shift 6
for entry in /* /.[!.]*; do
  name=${entry#/}
  if [ -L "$entry" ]; then ln -s "$(readlink "$entry")" "$new/$name"
  elif [ -d "$entry" ] && [ "$entry" != "$source" ]; then mkdir -p "$new/$name"; mount --rbind "$entry" "$new/$name"; fi
done
case "$base" in "$source"/*)
  inner=${base#"$source"}
  mkdir -p "$uploads$inner"; mount --rbind "$base" "$uploads$inner"
esac
mkdir -p "$new$source"; mount --rbind "$uploads" "$new$source"
while [ "$1" != -- ]; do
  mkdir -p "$new$1"; mount --bind "$2" "$new$1"
  if [ "$3" = ro ]; then mount -o remount,bind,ro "$new$1"; fi
  shift 3
done
shift
mkdir -p "$uploads/../hidden"
case "$prefix" in "$repository"/*)
  inner=${prefix#"$repository"/}
  mkdir -p "$uploads/../hidden/$inner"; mount --rbind "$prefix" "$uploads/../hidden/$inner"
esac
mount --rbind "$uploads/../hidden" "$new$repository"
exec chroot "$new" /bin/sh -c 'cd "$0" && exec "$@"' "$source" "$@"
"""


def can_make_containers() -> bool:
    """Whether this machine lets us mount and chroot in a namespace of our own."""
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


class Container:
    """A process for one input."""

    def __init__(self, service: "Service", one: dict):
        self.service, self.one = service, one
        self.task_id = service.new_id("ta")
        self.folder = service.folder / "containers" / self.task_id
        self.definition = service.definitions[one["function"]]
        self.name = service.functions[one["function"]]["name"]
        self.modes = {m.volume_id: "ro" if m.read_only else "rw" for m in self.definition.volume_mounts}
        self.copies = {name: self.folder / name for name in self.modes}
        self.before: dict[str, dict[str, tuple[int, int]]] = {}
        self.process: subprocess.Popen | None = None
        self.stopped = False

    def unpack(self) -> Path:
        """What was uploaded for this function."""
        uploads = self.folder / "uploads"
        for mount_id in self.definition.mount_ids:
            for name, (digest, _) in self.service.mounts[mount_id].items():
                assert name.startswith(f"{SOURCE}/"), f"{name}: uploaded to a place that this container does not have"
                path = uploads / name.removeprefix(f"{SOURCE}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.service.files[digest])
        return uploads

    def run(self) -> None:
        """Run to the end; once more where it ended without an answer, as after a preemption."""
        service, uploads = self.service, self.unpack()
        for name, copy in self.copies.items():
            copy.mkdir()
            with service.lock:  # not in the middle of a commit
                self.before[name] = carry_over(service.place(name), copy, {})
        definition = api_pb2.Function()
        definition.CopyFrom(self.definition)
        own = {name: f"{name}.{self.task_id}" for name in self.modes}
        for mount in definition.volume_mounts:
            mount.volume_id = own[mount.volume_id]
        for dependency in definition.object_dependencies:
            dependency.object_id = own.get(dependency.object_id, dependency.object_id)
        objects = [api_pb2.Object(object_id=i, function_handle_metadata=service.handle(i)) for i in service.functions]
        objects += [
            api_pb2.Object(object_id=i, volume_metadata=api_pb2.VolumeMetadata(version=2, name=service.volumes[n]))
            for n, i in own.items()
        ]
        known = {o.object_id for o in objects}
        others = [d.object_id for d in definition.object_dependencies if d.object_id not in known]
        objects += [api_pb2.Object(object_id=i) for i in others]
        arguments = api_pb2.ContainerArguments(
            task_id=self.task_id,
            function_id=f"{self.one['function']}.{self.task_id}",
            app_id="ap-1",
            function_def=definition,
            environment_name="main",
            app_layout=api_pb2.AppLayout(objects=objects, function_ids=service.function_ids),
        )
        (self.folder / "arguments").write_bytes(arguments.SerializeToString())
        root = self.folder / "root"
        root.mkdir()
        binds: list[str] = []
        for mount in self.definition.volume_mounts:
            binds += [mount.mount_path, str(self.copies[mount.volume_id]), self.modes[mount.volume_id]]
        paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": SOURCE,
            # -S: no .pth files, through which an editable installation would reach into the repository.
            "PYTHONPATH": ":".join([SOURCE, *paths]),
            "MODAL_SERVER_URL": service.url,
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(self.folder / "arguments"),
            "MODAL_TASK_ID": self.task_id,
            "MODAL_IS_REMOTE": "1",
            "MODAL_IMAGE_ID": self.definition.image_id,
            "JAX_PLATFORMS": "cpu",
            **service.environment,
        }
        words = ["unshare", "-rm", "/bin/bash", "-c", CONTAINER, "container", root, uploads, ROOT, sys.prefix]
        words += [sys.base_prefix, SOURCE]
        words += [*binds, "--", sys.executable, "-S", "-m", "modal._container_entrypoint"]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(list(map(str, words)), env=environment, stdout=log, stderr=log)
            self.process.wait()
        if not self.one.get("done") and not self.stopped:
            attempts = sum(c.one is self.one for c in service.containers)
            if attempts > 3:
                failed = api_pb2.GenericResult(
                    status=api_pb2.GenericResult.GENERIC_STATUS_FAILURE, exception=f"container left: {self.log}"
                )
                service.function_calls[self.one["call"]].append(
                    {"result": failed, "idx": self.one["idx"], "input_id": self.one["id"]}
                )
                return
            service.start(self.one)

    @property
    def log(self) -> str:
        """What it has printed."""
        return (self.folder / "log").read_text(errors="replace")

    def preempt(self) -> None:
        """As Modal does when it takes a machine away."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        self.stopped = True
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
