"""Pictures over HTTP: one patched pipeline, and several threads that draw with it at a time.

    python examples/server.py --port 8000
    curl -o circle.png 'http://127.0.0.1:8000/generate?prompt=a+red+circle&seed=1'

It needs `pip install fastapi uvicorn` besides. The weights are there once. Each thread has a
request of its own (`autocache.request`), which it uses for one picture after another, so that
pictures are those of a server that draws them in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import queue
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Annotated, Any

import torch
import uvicorn
from diffusers import DiffusionPipeline
from fastapi import FastAPI, HTTPException, Query, Response
from pydantic import BaseModel, Field

import autocache


class Asked(BaseModel):
    """What a client asks for."""

    prompt: str = Field(max_length=500)
    seed: int = Field(0, ge=0, lt=2**63, description="of the noise that the picture starts from")
    steps: int = Field(28, ge=1, le=100)
    guidance: float = Field(1.0, ge=1, le=20, description="above 1 adds a pass without the prompt")


def draw(pipe: Any, asked: Asked) -> bytes:
    """A picture as PNG."""
    image = pipe(
        prompt=asked.prompt,
        negative_prompt="" if asked.guidance > 1 else None,
        true_cfg_scale=asked.guidance,
        num_inference_steps=asked.steps,
        height=64,
        width=64,
        max_sequence_length=24,
        generator=torch.Generator().manual_seed(asked.seed),
    ).images[0]
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


class Pool:
    """Threads that draw, and a queue of so many pictures that wait for one."""

    def __init__(self, pipe: Any, threads: int, waiting: int) -> None:
        self._jobs: queue.Queue[tuple[Asked, Future[bytes]] | None] = queue.Queue(waiting)
        self._threads = [threading.Thread(target=self._work, args=(pipe,)) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Pictures that nobody draws yet."""
        return self._jobs.qsize()

    def submit(self, asked: Asked) -> Future[bytes]:
        """Raises queue.Full when too many are waiting."""
        future: Future[bytes] = Future()
        self._jobs.put_nowait((asked, future))
        return future

    def close(self) -> None:
        """Let the threads end after what they draw and what waits."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, pipe: Any) -> None:
        with autocache.request(pipe) as own:
            while (job := self._jobs.get()) is not None:
                asked, future = job
                if not future.set_running_or_notify_cancel():
                    continue  # The client has gone.
                try:
                    future.set_result(draw(own, asked))
                except BaseException as error:
                    future.set_exception(error)


def service(pipe: Any, threads: int, waiting: int) -> FastAPI:
    """The application for a patched pipeline."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.pool = Pool(pipe, threads, waiting)
        yield
        await asyncio.to_thread(app.state.pool.close)

    app = FastAPI(title="autocache", lifespan=lifespan)

    @app.get("/generate", response_class=Response)
    async def generate(asked: Annotated[Asked, Query()]) -> Response:
        """A picture as PNG; 503 when too many are waiting."""
        try:
            drawn = app.state.pool.submit(asked)
        except queue.Full:
            again = {"Retry-After": "1"}
            raise HTTPException(503, "too many pictures are waiting", again) from None
        return Response(await asyncio.wrap_future(drawn), media_type="image/png")

    @app.get("/stats")
    def stats() -> dict[str, Any]:
        """What was computed and skipped since the start, in all threads together."""
        told = autocache.stats(pipe).to_dict()
        told.pop("steps")
        return {**told, "threads": threads, "waiting": app.state.pool.waiting}

    return app


def main() -> None:
    """Load the pipeline, patch it and serve."""
    parser = argparse.ArgumentParser(description="Pictures over HTTP, with caching")
    parser.add_argument("--model", default=autocache.demo.path(), help="a pipeline, or its folder")
    parser.add_argument("--strategy", default="auto", help="a strategy or a profile's file")
    parser.add_argument("--threads", type=int, default=2, help="pictures drawn at a time")
    parser.add_argument("--waiting", type=int, default=16, help="pictures that may wait")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    options = parser.parse_args()

    pipe = DiffusionPipeline.from_pretrained(options.model)
    pipe.to(options.device).set_progress_bar_config(disable=True)
    autocache.patch(pipe, options.strategy)
    app = service(pipe, options.threads, options.waiting)
    uvicorn.run(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
