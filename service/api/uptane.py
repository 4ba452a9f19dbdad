"""Both repositories as a device sees them: the Director's files are those of the device that is connected.

Files have plain names and versioned ones, so that clients with and without consistent snapshots find them. The next
root is asked for at every check; there is none, so that 404 must be cheap and have a body (reference: integration).
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.device_gate import BASE_PATH, peer_of
from service.api.repository import metadata_name, metadata_response
from service.application.director import Director
from service.application.repository import ImageRepository
from service.application.update_repositories import MetadataRole, RepositoryName


def uptane_routes(director: Director, repository: ImageRepository) -> list[Route]:
    """Return the routes of update metadata."""

    async def director_file(request: Request) -> Response:
        role, version = metadata_name(request.path_params["file"])
        device_id = peer_of(request.scope).device_id
        if role == MetadataRole.ROOT:
            return metadata_response((await repository.file(RepositoryName.DIRECTOR, role, version=version)).content)
        if role == MetadataRole.TIMESTAMP and version is None:
            return metadata_response(await director.timestamp(device_id))
        return metadata_response(await director.file(device_id, role, version=version))

    async def image_file(request: Request) -> Response:
        role, version = metadata_name(request.path_params["file"])
        return metadata_response((await repository.file(RepositoryName.IMAGE, role, version=version)).content)

    return [
        Route(f"{BASE_PATH}/uptane/director/{{file}}", director_file, methods=["GET"]),
        Route(f"{BASE_PATH}/uptane/image/{{file}}", image_file, methods=["GET"]),
    ]
