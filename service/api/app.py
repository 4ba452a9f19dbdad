"""The operator API as an ASGI app. To add an area, add its router to `_ROUTERS` and its use cases to `Services`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from service.api import (
    approvals,
    artifacts,
    audit,
    catalog,
    claims,
    deltas,
    device_attributes,
    devices,
    documents,
    events,
    fleet,
    images,
    issuance,
    issuing_ca,
    learned_states,
    model_health,
    operators,
    products,
    releases,
    repository,
    revocation,
    rollout_explanations,
    rollouts,
    sbom,
    telemetry,
    transparency,
)
from service.api.problems import PROBLEM_RESPONSES, Problem, add_problem_handlers
from service.api.services import Services

BASE_PATH = "/api/v1"
MAX_BODY_BYTES = 17 * 1024 * 1024  # an image package of 16 MiB, and what stands around it
_ROUTERS: Sequence[APIRouter] = (
    fleet.router,
    products.router,
    claims.router,
    catalog.router,
    devices.router,
    device_attributes.router,
    approvals.router,
    artifacts.router,
    images.router,
    documents.router,
    deltas.router,
    sbom.router,
    repository.router,
    revocation.router,
    transparency.router,
    issuance.router,
    issuing_ca.router,
    releases.router,
    rollouts.router,
    rollout_explanations.router,
    telemetry.router,
    learned_states.router,
    model_health.router,
    events.router,
    operators.router,
    audit.router,
)


def operator_app(services: Services) -> FastAPI:
    """Make the operator API."""
    app = FastAPI(
        title="tinyfleet",
        version="1",
        summary="Security and over-the-air updates for fleets of microcontrollers that run TinyML models.",
        openapi_url=f"{BASE_PATH}/openapi.json",
        docs_url=f"{BASE_PATH}/docs",
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        responses=PROBLEM_RESPONSES,
        max_body_size=MAX_BODY_BYTES,
    )
    app.state.services = services
    add_problem_handlers(app)
    for router in _ROUTERS:
        app.include_router(router, prefix=BASE_PATH)
    app.include_router(fleet.plain_router)
    app.include_router(revocation.public_router)
    app.include_router(transparency.public_router)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    schema = FastAPI.openapi(app)
    schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    return schema


def _operation_id(route: APIRoute) -> str:
    return route.name
