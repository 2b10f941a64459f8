"""The agent's API: HTTP on a Unix socket that only its owner may open, served by aiohttp on a thread of its own.

Long requests answer with JSON lines: each line a progress, then one "outcome" or "error" line; an "alive" line every
few seconds tells a working agent from a hanging one. A client that goes away ends nothing: what was begun is finished.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reconciler.lock import StackLocked
from reconciler.model import InputError
from runtime.errors import EngineError, Unavailable

if TYPE_CHECKING:
    from aiohttp import web

BODY_LIMIT = 64 << 20
REQUEST_WORKERS = 16
"""Long requests at once; each stack works on one at a time anyway."""
ALIVE_EVERY = 5.0
_EVENTS_PAGE = 500

Report = Callable[[dict[str, Any]], None]
Model = TypeVar("Model", bound="BaseModel")


class ApplyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    desired: dict[str, Any]
    revision: str = Field("", max_length=1000)
    source: str = Field("", max_length=10_000)
    prune: bool = True
    wait: bool = True
    timeout: float = Field(600.0, ge=0, le=7 * 86_400)
    lock_wait: float = Field(0.0, ge=0, le=86_400)
    allow_deletions: bool = False
    refresh: bool = False
    expected: dict[str, Any] | None = None


class DestroyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    stack: str = Field(min_length=1, max_length=255)
    volumes: bool = False
    timeout: float = Field(600.0, ge=0, le=7 * 86_400)
    lock_wait: float = Field(0.0, ge=0, le=86_400)


class WakeBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    stack: str | None = Field(None, max_length=255)


class Api(Protocol):
    """What the server offers to the socket; every method may be called from several threads at once."""

    def version(self) -> dict[str, Any]: ...
    def status(self, stack: str | None) -> dict[str, Any]: ...
    def apply(self, body: ApplyBody, report: Report) -> dict[str, Any]: ...
    def destroy(self, body: DestroyBody, report: Report) -> dict[str, Any]: ...
    def wake(self, stack: str | None) -> None: ...
    def events(self, stack: str | None, after: int, limit: int) -> list[dict[str, Any]]: ...


class Server:
    """Serves `api` on the socket at `path` from `start` until `stop`. Raises Unavailable when it cannot listen."""

    def __init__(self, path: str, api: Api) -> None:
        self._path = path
        self._api = api
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._workers = ThreadPoolExecutor(REQUEST_WORKERS, thread_name_prefix="api-request")

    def start(self) -> None:
        self._thread.start()
        self._ready.wait(30.0)
        if self._failure is not None or not self._ready.is_set():
            raise Unavailable(f'cannot serve the agent\'s socket "{self._path}": {self._failure or "no answer"}')

    def stop(self) -> None:
        """Stop listening and remove the socket. Requests that run are not waited for; the work they began goes on."""
        if self._loop is not None and self._stopping is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout=5.0)
        self._workers.shutdown(wait=False, cancel_futures=True)

    # ---- the server's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        from aiohttp import web

        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        application = web.Application(client_max_size=BODY_LIMIT, middlewares=[web.middleware(_answer_errors)])
        application.add_routes(
            [
                web.get("/v1/version", self._version),
                web.get("/v1/status", self._status),
                web.post("/v1/apply", self._apply),
                web.post("/v1/destroy", self._destroy),
                web.post("/v1/wake", self._wake),
                web.get("/v1/events", self._events),
            ]
        )
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            # The agent's lock is held, so a socket file that lies here belongs to a dead agent.
            temporary = f"{self._path}.new"
            for stale in (temporary, self._path):
                with suppress(FileNotFoundError):
                    os.unlink(stale)
            site = web.UnixSite(runner, temporary, backlog=128)
            await site.start()
            os.chmod(temporary, 0o600)
            os.rename(temporary, self._path)
            self._ready.set()
            await self._stopping.wait()
        finally:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            # Closing a listening Unix socket makes asyncio unlink the name it was bound to, which is gone.
            await asyncio.wait_for(runner.cleanup(), 5.0)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        assert self._loop is not None
        return await self._loop.run_in_executor(self._workers, work)

    async def _version(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._in_thread(self._api.version))

    async def _status(self, request: web.Request) -> web.StreamResponse:
        stack = request.query.get("stack")
        return _json(await self._in_thread(lambda: self._api.status(stack)))

    async def _wake(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, WakeBody)
        await self._in_thread(lambda: self._api.wake(body.stack))
        return _json({})

    async def _apply(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, ApplyBody)
        return await self._stream(request, lambda report: self._api.apply(body, report))

    async def _destroy(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, DestroyBody)
        return await self._stream(request, lambda report: self._api.destroy(body, report))

    async def _stream(self, request: web.Request, work: Callable[[Report], dict[str, Any]]) -> web.StreamResponse:
        assert self._loop is not None
        loop = self._loop
        lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def put(line: dict[str, Any] | None) -> None:
            # The agent may stop serving while the work goes on; then nobody is left to be told.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(lines.put_nowait, line)

        def run() -> None:
            try:
                put({"kind": "outcome", "outcome": work(put)})
            except Exception as error:
                put({"kind": "error", **_describe(error)})
            finally:
                put(None)

        self._workers.submit(run)
        return await _send_lines(request, _until_none(lines))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        stack = request.query.get("stack")
        after = _number(request.query.get("after", "0"))
        follow = request.query.get("follow", "1") != "0"
        return await _send_lines(request, self._event_lines(stack, after, follow))

    async def _event_lines(self, stack: str | None, after: int, follow: bool) -> AsyncIterator[dict[str, Any] | None]:
        assert self._stopping is not None
        while not self._stopping.is_set():
            page = await self._in_thread(partial(self._api.events, stack, after, _EVENTS_PAGE))
            for item in page:
                after = max(after, int(item["id"]))
                yield item
            if not follow:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 0.25)
            yield None


async def _until_none(lines: asyncio.Queue[dict[str, Any] | None]) -> AsyncIterator[dict[str, Any] | None]:
    while True:
        try:
            line = await asyncio.wait_for(lines.get(), ALIVE_EVERY)
        except TimeoutError:
            yield None
            continue
        if line is None:
            return
        yield line


async def _send_lines(request: web.Request, lines: AsyncIterator[dict[str, Any] | None]) -> web.StreamResponse:
    """Each value a line; None means that there is no news, and becomes an "alive" line when the last line is old."""
    from aiohttp import web

    response = web.StreamResponse(headers={"Content-Type": "application/jsonlines"})
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    sent_at = loop.time()
    # A client that left is no failure of the work it asked for.
    with suppress(ConnectionError):
        async for line in lines:
            if line is None and loop.time() - sent_at < ALIVE_EVERY * 0.9:
                continue
            await response.write(json.dumps(line or {"kind": "alive"}).encode() + b"\n")
            sent_at = loop.time()
        await response.write_eof()
    return response


async def _body(request: web.Request, model: type[Model]) -> Model:
    from aiohttp import web

    data = await request.read()
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}".lstrip(": ") for item in error.errors()[:20]]
        text = json.dumps({"error": "bad request: " + "; ".join(problems), "class": "InvalidSpec"})
        raise web.HTTPBadRequest(text=text, content_type="application/json") from None


def _number(text: str) -> int:
    from aiohttp import web

    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise web.HTTPBadRequest(
            text='{"error": "bad request: after must be a number"}', content_type="application/json"
        )
    return int(text)


def _json(value: Any, status: int = 200) -> web.Response:
    from aiohttp import web

    return web.Response(text=json.dumps(value), status=status, content_type="application/json")


async def _answer_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    from aiohttp import web

    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.content_type == "application/json":
            raise
        return _json({"error": f"{error.reason}"}, error.status)
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception as error:
        return _json(_describe(error), 409 if isinstance(error, EngineError) else 500)


def _describe(error: BaseException) -> dict[str, Any]:
    """An error as a client can make it again; an unforeseen one is named without its inside."""
    if isinstance(error, StackLocked):
        holder = {"pid": error.holder.pid, "command": error.holder.command, "since": error.holder.since}
        return {"class": "StackLocked", "error": error.message, "stack": error.stack, "holder": holder}
    if isinstance(error, InputError):
        return {"class": "InputError", "error": str(error), "problems": [str(problem) for problem in error.problems]}
    if isinstance(error, EngineError):
        return {"class": type(error).__name__, "error": error.message, "hint": error.hint}
    return {"class": "EngineError", "error": f"the agent failed: {type(error).__name__}: {error}"}
