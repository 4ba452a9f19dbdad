"""The device API of the virtual service: the real one's paths and gate, with the device's word in TLS's place.

A device attests by objects: evidence that nobody encodes. Everything else is the JSON of the real device API.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache

from device_sim.network.ports import UnreachableError
from device_sim.update.uptane import ARTIFACT_PATH, DIRECTOR_PATH
from protocol.document import parse_document
from protocol.identity import DeviceId
from protocol.messages import ActionReport
from protocol.updates import Order
from service.application.attestation_round import Outcome
from service.application.identity import CertificateRefusedError
from service.domain.attestation import Appraisal
from service.domain.errors import ConflictError, InvalidError, NotFoundError, ServiceError
from simulation.admission import Shown
from simulation.clock import VirtualClock
from simulation.devices.network import Answer
from simulation.driving import drive
from simulation.errors import ServiceDownError
from simulation.images import Catalogue
from simulation.service import Service

POLL_PATH = "/device/v1/poll"
REPORTS_PATH = "/device/v1/reports"
MANIFEST_PATH = "/device/v1/manifest"
TIMESTAMP = "timestamp.json"
OK, NO_CONTENT, PARTIAL, BAD_REQUEST, FORBIDDEN, NOT_FOUND, CONFLICT = 200, 204, 206, 400, 403, 404, 409


class DeviceApi:
    """Answers devices as long as the service runs.

    Args:
        clock: the virtual time.
        catalogue: lengths of artifacts.
        service: returns the process that runs, or None.
    """

    def __init__(self, clock: VirtualClock, catalogue: Catalogue, service: Callable[[], Service | None]) -> None:
        self._clock = clock
        self._lengths = {image.sha256: image.length for image in catalogue.images}
        self._service = service
        self._not_after: dict[str, datetime] = {}  # of each device's certificate, which its TLS stack holds

    def serve(self, device_id: DeviceId, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Answer one request.

        Raises:
            ServiceDownError: nobody listens.
        """
        service = self._running()
        try:
            self._admit(service, device_id)
            return self._route(service, device_id, f"{method} {path}", body, headers)
        except ServiceError as error:
            return _problem(error)

    def is_quiet(self, device_id: DeviceId, held: tuple[str, Order] | None) -> bool:
        """Say whether a device that was just answered would be answered again, and that there is nothing new for it."""
        service = self._service()
        return service is not None and not service.has_word_for(device_id, held)

    def heard(self, device_id: DeviceId, at_seconds: float) -> None:
        """Note that a device has polled, at a time of the scenario."""
        service = self._service()
        if service is not None:
            service.presence.heard(device_id, self._clock.at(at_seconds))

    def attest(self, device_id: DeviceId, shown: Shown) -> Outcome:
        """Give a device a nonce and judge what it shows over it.

        Raises:
            UnreachableError: nobody listens.
        """
        try:
            admission = self._running().admission
        except ServiceDownError as error:
            raise UnreachableError(str(error)) from error
        nonce = drive(admission.nonce(device_id))
        if isinstance(nonce, Appraisal):
            return Outcome(device_id, nonce, None, None)
        outcome = drive(admission.attest(device_id, nonce.nonce, shown))
        if outcome.issued is not None:
            self._not_after[device_id] = outcome.issued.not_after
        return outcome

    def _running(self) -> Service:
        service = self._service()
        if service is None:
            raise ServiceDownError("expected a service that runs, found none")
        return service

    def _admit(self, service: Service, device_id: DeviceId) -> None:
        # The steps of `service.api.device_gate`: time, then standing; reach is the same for all paths here.
        now = self._clock.now()
        not_after = self._not_after.get(device_id)
        if not_after is None or now >= not_after:
            raise CertificateRefusedError("certificate: expected one in force, found none")
        service.standings.check(device_id)
        service.presence.heard(device_id, now)

    def _route(
        self, service: Service, device_id: DeviceId, request: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        if request == f"GET {POLL_PATH}":
            return Answer(OK, service.poll(device_id).model_dump_json().encode())
        if request == f"POST {REPORTS_PATH}":
            drive(service.reports.report(device_id, parse_document(body, ActionReport)))
            return Answer(NO_CONTENT)
        if request == f"POST {MANIFEST_PATH}":
            drive(service.manifests.take_alone(device_id, body))
            return Answer(NO_CONTENT)
        if request.startswith(f"GET {DIRECTOR_PATH}"):
            return _director(service, device_id, request.rpartition("/")[2])
        if request.startswith(f"GET {ARTIFACT_PATH}"):
            return self._artifact(request.rpartition("/")[2], headers)
        raise NotFoundError(f"expected a path of the device API, found {request[:80]}")

    def _artifact(self, sha256: str, headers: Mapping[str, str]) -> Answer:
        length = self._lengths.get(sha256)
        if length is None:
            raise NotFoundError(f"artifact: expected one that is listed, found {sha256[:16]}")
        first, _, last = headers["Range"].removeprefix("bytes=").partition("-")
        count = min(int(last), length - 1) - int(first) + 1
        content = {"content-range": f"bytes {first}-{int(first) + count - 1}/{length}"}
        return Answer(PARTIAL, _part(count), content)


@lru_cache(maxsize=64)
def _part(count: int) -> bytes:
    """Return what every artifact is made of; devices that fetch at once share it."""
    return bytes(count)


def _director(service: Service, device_id: DeviceId, file: str) -> Answer:
    if file == TIMESTAMP:
        return Answer(OK, drive(service.director.timestamp(device_id)))
    version, _, role = file.removesuffix(".json").partition(".")
    return Answer(OK, drive(service.director.file(device_id, role, version=int(version))))


_STATUS: tuple[tuple[type[ServiceError], int], ...] = (
    (CertificateRefusedError, FORBIDDEN),
    (NotFoundError, NOT_FOUND),
    (ConflictError, CONFLICT),
    (InvalidError, BAD_REQUEST),
)


def _problem(error: ServiceError) -> Answer:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), CONFLICT)
    return Answer(status, json.dumps({"detail": str(error)}).encode())
