"""Modal on 127.0.0.1: enough of its API for the genuine client and the genuine container entry point.

The client's uploads are kept; a call starts a process that sees them and nothing else of this repository, with
the volumes at their places, read-only where they were asked for so. What a container writes on a volume is seen by
others only once it commits. A container that leaves without an answer is started again with the same input. Images are
not built (the container has this environment's packages), and nothing knows about GPUs.
"""

import asyncio
import base64
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web
from google.protobuf import empty_pb2
from grpclib import GRPCError, Status
from grpclib.server import Server
from modal_container import ROOT, Container
from modal_proto import api_grpc, api_pb2
from modal_volume import carry_over

LATEST_BUILDER = "2025.06"


class Service(api_grpc.ModalClientBase):
    """See the module. `folder` is for everything it keeps; `calls` counts requests by name."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None):
        self.folder = folder
        self.environment = environment or {}
        self.calls: Counter[str] = Counter()
        self.images: dict[str, Any] = {}
        self.mounts: dict[str, dict[str, tuple[str, int]]] = {}
        self.files: dict[str, bytes] = {}
        self.functions: dict[str, Any] = {}
        self.definitions: dict[str, Any] = {}
        self.gpus: dict[str, list[str]] = {}
        self.options: dict[str, Any] = {}
        self.volumes: dict[str, str] = {}
        self.function_calls: dict[str, list[dict]] = {}
        self.inputs: dict[str, dict] = {}
        self.answers: list[tuple[str, int]] = []
        self.containers: list[Container] = []
        self.commits: Counter[str] = Counter()
        self.on_commit: Any = None
        self.number = 0
        self.lock = threading.Lock()

    def place(self, volume_id: str) -> Path:
        """The committed contents of a volume."""
        place = self.folder / "volumes" / self.volumes[volume_id.partition(".")[0]]
        place.mkdir(parents=True, exist_ok=True)
        return place

    def named(self, name: str) -> Path:
        """The committed contents of the volume `name`."""
        place = self.folder / "volumes" / name
        place.mkdir(parents=True, exist_ok=True)
        return place

    def new_id(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}-{self.number:06d}"

    # ---- the client's side ----

    async def client_hello(self, request):
        return api_pb2.ClientHelloResponse(image_builder_version=LATEST_BUILDER)

    async def environment_get_or_create(self, request):
        settings = api_pb2.EnvironmentSettings(image_builder_version=LATEST_BUILDER, webhook_suffix="")
        metadata = api_pb2.EnvironmentMetadata(name="main", settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    async def app_create(self, request):
        return api_pb2.AppCreateResponse(app_id="ap-1", app_page_url="http://127.0.0.1/app", app_logs_url="")

    async def app_publish(self, request):
        self.function_ids = dict(request.function_ids)
        return api_pb2.AppPublishResponse(url="http://127.0.0.1/app")

    async def image_get_or_create(self, request):
        image_id = self.new_id("im")
        self.images[image_id] = request.image
        done = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)
        metadata = api_pb2.ImageMetadata(image_builder_version=LATEST_BUILDER, python_version_info="Python 3.12.1")
        return api_pb2.ImageGetOrCreateResponse(image_id=image_id, result=done, metadata=metadata)

    async def mount_batched_check_existence(self, request):
        missing = [name for name in request.sha256_hex_hashes if name not in self.files]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def mount_put_file(self, request):
        if request.data or request.sha256_hex == hashlib.sha256(b"").hexdigest():
            assert hashlib.sha256(request.data).hexdigest() == request.sha256_hex
            self.files[request.sha256_hex] = request.data
        return api_pb2.MountPutFileResponse(exists=request.sha256_hex in self.files)

    async def mount_get_or_create(self, request):
        mount_id = self.new_id("mo")
        self.mounts[mount_id] = {file.filename: (file.sha256_hex, file.mode) for file in request.files}
        return api_pb2.MountGetOrCreateResponse(
            mount_id=mount_id, handle_metadata=api_pb2.MountHandleMetadata(content_checksum_sha256_hex="0" * 64)
        )

    async def volume_get_or_create(self, request):
        known = {name: volume_id for volume_id, name in self.volumes.items()}
        volume_id = known.get(request.deployment_name) or self.new_id("vo")
        self.volumes[volume_id] = request.deployment_name
        metadata = api_pb2.VolumeMetadata(version=request.version, name=request.deployment_name)
        return api_pb2.VolumeGetOrCreateResponse(volume_id=volume_id, version=request.version, metadata=metadata)

    async def volume_list_files2(self, request):
        path = self.place(request.volume_id) / request.path.strip("/")
        if not path.exists():
            raise GRPCError(Status.NOT_FOUND, "No such file or directory")
        found = sorted(path.iterdir()) if path.is_dir() else [path]
        kinds = api_pb2.FileEntry
        entries = [
            kinds(
                path=str(file.relative_to(self.place(request.volume_id))),
                type=kinds.FileType.DIRECTORY if file.is_dir() else kinds.FileType.FILE,
                size=file.stat().st_size,
            )
            for file in found
        ]
        return [api_pb2.VolumeListFiles2Response(entries=entries)]

    async def volume_get_file2(self, request):
        path = self.place(request.volume_id) / request.path.strip("/")
        if not path.is_file():
            raise GRPCError(Status.NOT_FOUND, "No such file")
        size = path.stat().st_size
        assert size < 8 << 20
        name = base64.urlsafe_b64encode(str(path).encode()).decode()
        return api_pb2.VolumeGetFile2Response(get_urls=[f"{self.http}/{name}"], size=size, start=0, len=size)

    def handle(self, function_id: str) -> Any:
        """What the client is told about a function."""
        return api_pb2.FunctionHandleMetadata(
            function_name=self.functions[function_id]["name"],
            function_type=api_pb2.Function.FUNCTION_TYPE_FUNCTION,
            definition_id=f"de-{function_id}",
            web_url=self.functions[function_id].get("url", ""),
            supported_input_formats=[api_pb2.DATA_FORMAT_PICKLE],
            supported_output_formats=[api_pb2.DATA_FORMAT_PICKLE],
        )

    async def function_precreate(self, request):
        function_id = self.new_id("fu")
        self.functions[function_id] = {"name": request.function_name}
        if request.webhook_config.type:
            self.functions[function_id]["url"] = f"http://127.0.0.1/{request.function_name}"
        return api_pb2.FunctionPrecreateResponse(function_id=function_id, handle_metadata=self.handle(function_id))

    async def function_create(self, request):
        function_id = request.existing_function_id
        ranked = [r.function for r in request.function_data.ranked_functions]
        definition = request.function if request.HasField("function") else ranked[0]
        self.definitions[function_id] = definition
        options = ranked or [definition]
        self.gpus[function_id] = [gpu_name(one.resources.gpu_config) for one in options]
        whole = api_pb2.FunctionData(
            ranked_functions=[api_pb2.FunctionData.RankedFunction(rank=0, function=one) for one in options]
        )
        return api_pb2.FunctionCreateResponse(
            function_id=function_id,
            function=definition,
            function_data=whole,
            handle_metadata=self.handle(function_id),
        )

    async def function_bind_params(self, request):
        bound = self.new_id("fu")
        self.functions[bound] = dict(self.functions[request.function_id])
        self.definitions[bound] = self.definitions[request.function_id]
        self.options[bound] = request.function_options
        self.gpus[bound] = [gpu_name(request.function_options.resources.gpu_config)]
        return api_pb2.FunctionBindParamsResponse(bound_function_id=bound, handle_metadata=self.handle(bound))

    # ---- calls ----

    async def function_map(self, request):
        call_id = self.new_id("fc")
        self.function_calls[call_id] = []
        put = [self.put(request.function_id, call_id, item) for item in request.pipelined_inputs]
        return api_pb2.FunctionMapResponse(function_call_id=call_id, pipelined_inputs=put, max_inputs_outstanding=100)

    async def function_put_inputs(self, request):
        put = [self.put(request.function_id, request.function_call_id, item) for item in request.inputs]
        return api_pb2.FunctionPutInputsResponse(inputs=put)

    def put(self, function_id, call_id, item):
        """Take an input: a container is started for it."""
        input_id = self.new_id("in")
        one = {"id": input_id, "function": function_id, "call": call_id, "idx": item.idx, "input": item.input}
        self.inputs[input_id] = one
        self.start(one)
        return api_pb2.FunctionPutInputsResponseItem(idx=item.idx, input_id=input_id, input_jwt=input_id)

    def start(self, one: dict) -> None:
        """Start a container for an input."""
        container = Container(self, one)
        self.containers.append(container)
        threading.Thread(target=container.run, daemon=True).start()

    async def function_get_outputs(self, request):
        done = self.function_calls[request.function_call_id]
        first = int(request.last_entry_id.partition("-")[0] or 0) if request.last_entry_id else 0
        deadline = time.monotonic() + min(request.timeout, 5)
        while len(done) <= first and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        items = [api_pb2.FunctionGetOutputsItem(**item) for item in done[first:]]
        last = f"{first + len(items)}-0"
        waiting = [i for i in self.inputs.values() if i["call"] == request.function_call_id]
        return api_pb2.FunctionGetOutputsResponse(
            outputs=items,
            idxs=[item.idx for item in items],
            last_entry_id=last,
            num_unfinished_inputs=len(waiting) - len(done),
        )

    async def function_call_from_id(self, request):
        return api_pb2.FunctionCallFromIdResponse(function_call_id=request.function_call_id, num_inputs=1)

    # ---- the container's side ----

    def container(self, task_id: str) -> Container:
        return next(c for c in self.containers if c.task_id == task_id)

    async def function_get_inputs(self, request):
        container = self.container(request.function_id.split(".")[1])
        one = container.one
        item = api_pb2.FunctionGetInputsItem(
            input_id=one["id"],
            input=one["input"],
            function_call_id=one["call"],
            attempt_token="attempt",
            function_call_invocation_type=api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
        )
        return api_pb2.FunctionGetInputsResponse(inputs=[item])

    async def function_put_outputs(self, request):
        for item in request.outputs:
            one = self.inputs[item.input_id]
            one["done"] = True
            self.function_calls[one["call"]].append(
                {
                    "result": item.result,
                    "idx": one["idx"],
                    "input_id": one["id"],
                    "data_format": item.data_format,
                    "input_started_at": item.input_started_at,
                    "output_created_at": item.output_created_at,
                }
            )
            self.answers.append((self.functions[one["function"]]["name"], item.result.status))
        return empty_pb2.Empty()

    async def task_result(self, request):
        self.answers.append((request.result.exception, request.result.status))
        return empty_pb2.Empty()

    async def volume_commit(self, request):
        name, _, task_id = request.volume_id.partition(".")
        container = self.container(task_id)
        if container.modes[name] == "ro":  # the client asks for all its volumes when a container ends
            return api_pb2.VolumeCommitResponse()
        with self.lock:
            container.before[name] = carry_over(container.copies[name], self.place(name), container.before[name])
        self.commits[self.volumes[name]] += 1
        if self.on_commit is not None:
            self.on_commit(container, self.volumes[name])
        return api_pb2.VolumeCommitResponse()

    async def volume_reload(self, request):
        name, _, task_id = request.volume_id.partition(".")
        container = self.container(task_id)
        with self.lock:
            container.before[name] = carry_over(self.place(name), container.copies[name], container.before[name])
        return empty_pb2.Empty()

    # ---- running ----

    def __enter__(self) -> "Service":
        ready = threading.Event()
        self.loop = asyncio.new_event_loop()

        async def serve() -> None:
            self.server = Server([self])
            await self.server.start("127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{self.server._server.sockets[0].getsockname()[1]}"
            pages = web.Application()
            pages.router.add_get("/{name}", self.download)
            self.runner = web.AppRunner(pages)
            await self.runner.setup()
            site = web.TCPSite(self.runner, "127.0.0.1", 0)
            await site.start()
            self.http = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
            ready.set()

        def run() -> None:
            asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(serve())
            self.loop.run_forever()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        assert ready.wait(20)
        return self

    def __exit__(self, *error: Any) -> None:
        for container in self.containers:
            container.stop()

        async def close() -> None:
            self.server.close()
            await self.server.wait_closed()
            await self.runner.cleanup()

        asyncio.run_coroutine_threadsafe(close(), self.loop).result(20)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(20)
        self.loop.close()

    async def download(self, request):
        return web.FileResponse(base64.urlsafe_b64decode(request.match_info["name"]).decode())

    def client_environment(self) -> dict[str, str]:
        """For a client process."""
        return {
            **os.environ,
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": "ak-nobody",
            "MODAL_TOKEN_SECRET": "as-nothing",
            "MODAL_CONFIG_PATH": str(self.folder / "no-config.toml"),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        }

    def modal(self, *words: str | Path) -> subprocess.CompletedProcess:
        """`modal WORDS` in the repository."""
        return subprocess.run(
            [sys.executable, "-m", "modal", *map(str, words)],
            env=self.client_environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=1200,
        )


def gpu_name(config: Any) -> str:
    """`A100-80GB` or `H100:2`; empty without one."""
    return config.gpu_type + (f":{config.count}" if config.count > 1 else "")


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


NOTHING = {"AppHeartbeat", "AppClientDisconnect", "ContainerHello", "FunctionFinishInputs", "ContainerLog"}


def _make(name: str) -> Any:
    """The method of the service for a request: ours where there is one, else 'not implemented'."""

    async def method(self: Service, stream: Any) -> None:
        request = await stream.recv_message()
        self.calls[name] += 1
        ours = getattr(self, _snake(name), None)
        if ours is not None:
            answer = await ours(request)
        elif name in NOTHING:
            answer = empty_pb2.Empty()
        elif name == "ContainerHeartbeat":
            answer = api_pb2.ContainerHeartbeatResponse()
        elif name == "AppGetLogs":
            await asyncio.sleep(2)
            answer = []
        else:
            raise GRPCError(Status.UNIMPLEMENTED, name)
        for one in answer if isinstance(answer, list) else [answer]:
            await stream.send_message(one)

    return method


for _name in list(vars(api_grpc.ModalClientBase)):
    if _name[0].isupper():
        setattr(Service, _name, _make(_name))
Service.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
