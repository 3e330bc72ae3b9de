"""The paths of the server, as FastAPI describes and serves them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from detseg import __version__
from detseg.runtime.model import Model
from detseg.server.bodies import ADDRESS, FORM, read_images
from detseg.server.counters import CONTENT_TYPE
from detseg.server.guard import Guard
from detseg.server.service import Service
from detseg.server.settings import MAX_IMAGES, ServerSettings

_PAGE = Path(__file__).parent / "page"
_PAGE_TYPES = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src blob: data:; media-src blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_DRAWN = {"jpeg": (".jpg", "image/jpeg"), "png": (".png", "image/png")}
_FAULTS = {
    400: "The form or the JSON is damaged.",
    401: "The token is missing or wrong.",
    403: "Network addresses are not opened, or the request comes from another site.",
    408: "The request took too long to arrive.",
    413: "Too many bytes or pixels.",
    415: "A body that is compressed once more.",
    422: "No image that can be read, or a setting that is not allowed.",
    429: "Too many requests at a time.",
    500: "The server failed.",
    503: "The server is starting or stopping.",
}
_FAULT = {
    "type": "object",
    "properties": {"detail": {"type": "string"}},
    "required": ["detail"],
    "additionalProperties": False,
}
_IMAGE = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "description": "what the request called the image"},
        "height": {"type": "integer", "minimum": 1},
        "width": {"type": "integer", "minimum": 1},
    },
    "required": ["file", "height", "width"],
    "description": "an image, with what is in it as in results.jsonl of `detseg predict`",
}
_IMAGES = {"type": "object", "properties": {"images": {"type": "array", "items": _IMAGE}}, "required": ["images"]}


def make_app(model: Model, settings: ServerSettings) -> FastAPI:
    """The server of ``model``. It is ready once its lifespan has begun.

    Raises:
        ValueError: the model is not for images.
    """
    service = Service(model, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            service.start()
            yield
        finally:
            service.stop()

    # The pages that FastAPI makes of the description load scripts from elsewhere.
    app = FastAPI(
        title="detseg", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.add_middleware(Guard, service=service)
    app.add_exception_handler(RequestValidationError, _say_what_is_wrong)
    app.add_exception_handler(ClientDisconnect, _nobody_listens)
    _add_predictions(app, service)
    _add_reports(app, service)
    _add_page(app)
    return app


def _add_predictions(app: FastAPI, service: Service) -> None:
    lowest = service.model.confidence or 0.0
    # Not part of the types, in which FastAPI does not find what is local.
    setting: Any = Query(None, ge=lowest, le=1, description=f"boxes that score higher count, {lowest:g} to 1")

    @app.post(
        "/predict",
        summary="What is in images",
        response_class=JSONResponse,
        openapi_extra=_bodies(service.settings, several=True),
        responses={200: _content("application/json", _IMAGES), **_faults(_FAULTS)},
    )
    async def predict(request: Request, confidence: float | None = setting) -> JSONResponse:
        _require_known(request, service, "confidence")
        images = await read_images(request, service.settings, service.bytes_left, service.fetch)
        return JSONResponse({"images": await service.predict(images, confidence)})

    @app.post(
        "/draw",
        summary="An image with what is in it",
        response_class=Response,
        openapi_extra=_bodies(service.settings, several=False),
        responses={
            200: {
                "description": "The drawn image.",
                "content": {kind: {"schema": _BINARY} for _, kind in _DRAWN.values()},
            },
            **_faults(_FAULTS),
        },
    )
    async def draw(
        request: Request, confidence: float | None = setting, format: Literal["jpeg", "png"] = "jpeg"
    ) -> Response:
        _require_known(request, service, "confidence", "format")
        images = await read_images(request, service.settings, service.bytes_left, service.fetch)
        if len(images) > 1:
            raise HTTPException(422, f"one image is drawn at a time, got {len(images)}")
        suffix, media_type = _DRAWN[format]
        return Response(await service.draw(images[0], confidence, suffix), media_type=media_type)


def _add_reports(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the server runs")
    async def health() -> dict[str, str]:
        return {"status": "runs"}

    @app.get("/ready", summary="Whether it takes images", responses=_faults({503: _FAULTS[503]}))
    async def ready() -> dict[str, str]:
        if not service.works:
            raise HTTPException(503, "the server is starting or stopping")
        return {"status": "ready"}

    secret = _faults({401: _FAULTS[401], 403: _FAULTS[403]})

    @app.get("/model", summary="What it runs", responses=secret)
    async def model() -> dict[str, Any]:
        return {
            "task": service.model.task_name,
            "results": service.model.runner.kind.name,
            "classes": list(service.model.class_names),
            "lowest_confidence": service.model.confidence,
            "max_bytes": service.settings.max_bytes,
            "max_pixels": service.settings.max_pixels,
        }

    @app.get(
        "/metrics",
        summary="What it counts, for Prometheus",
        response_class=Response,
        responses={200: _content("text/plain", {"type": "string"}), **secret},
    )
    async def metrics() -> Response:
        return Response(service.counters.render(), headers={"Content-Type": CONTENT_TYPE})


def _add_page(app: FastAPI) -> None:
    def serve(path: str, name: str) -> None:
        content = (_PAGE / name).read_bytes()

        @app.get(path, include_in_schema=False)
        async def part() -> Response:
            return Response(content, media_type=_PAGE_TYPES[name], headers=_PAGE_HEADERS)

    serve("/", "page.html")
    serve("/page.css", "page.css")
    serve("/page.js", "page.js")


_BINARY = {"type": "string", "format": "binary"}


def _bodies(settings: ServerSettings, several: bool) -> dict[str, Any]:
    """What a request for a prediction may bring, as OpenAPI describes it."""
    files = {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": MAX_IMAGES if several else 1}
    form = {"type": "object", "properties": {"file": files}, "required": ["file"], "additionalProperties": False}
    content: dict[str, Any] = {
        **{f"image/{kind}": {"schema": _BINARY} for kind in ("jpeg", "png", "webp", "bmp", "tiff")},
        "application/octet-stream": {"schema": _BINARY},
        FORM: {"schema": form},
    }
    if settings.allow_url:
        content[ADDRESS] = {
            "schema": {
                "type": "object",
                "properties": {"url": {"type": "string"}},
                "required": ["url"],
                "additionalProperties": False,
            }
        }
    return {"requestBody": {"required": True, "content": content}}


def _content(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {media_type: {"schema": schema}}}


def _faults(told: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": text, **_content("application/json", _FAULT)} for status, text in told.items()}


def _require_known(request: Request, service: Service, *names: str) -> None:
    """Refuse settings that would be passed over: misspelled ones, and a confidence where there is none."""
    unknown = [name for name in request.query_params if name not in names]
    if unknown:
        raise HTTPException(422, f"there is no setting {', '.join(unknown)}; there is {' and '.join(names)}")
    if len(request.query_params.multi_items()) > len(request.query_params):
        raise HTTPException(422, "a setting is given several times; give each once")
    if "confidence" in request.query_params and service.model.confidence is None:
        raise HTTPException(422, f"only boxes have a confidence, this model is for {service.model.task_name}")


async def _say_what_is_wrong(request: Request, error: Exception) -> Response:
    """FastAPI's list of faults in the form of all others."""
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}, got {one['input']!r}" for one in error.errors()]
    return JSONResponse({"detail": "; ".join(told)}, 422)


async def _nobody_listens(request: Request, error: Exception) -> Response:
    """Whoever sent the request went away before it was complete."""
    return JSONResponse({"detail": "the request was broken off"}, 400)
