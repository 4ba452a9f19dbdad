"""What a virtual device believes: the Director's decision and the Image repository's lists, as data.

Verified, by the protocol's own functions, in the order of `device_sim.update.uptane`:
    1. the Director's word is for this device, no older than the last one, and has not expired;
    2. the release is whole: an image for each of its slots, and for no other;
    3. agreement: length, digest, hardware id, kind, name, security counter, release, and what goes back;
    4. requirements of what will run together.
Not verified, because nobody signs: signatures, chains of roots, snapshots, golden-vector documents and the log.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from device_sim.hardware.installed import InstalledImage
from device_sim.hardware.ports import DeviceMachine
from device_sim.network.attestation import Admission, AttestationRefusedError
from device_sim.network.ports import HttpTransport, SlowRetrievalError, UnreachableError
from device_sim.network.problems import unexpected
from device_sim.network.quality import NetworkPath
from device_sim.network.tls import Credential
from device_sim.update.errors import (
    DisagreementError,
    JumpedReleaseError,
    MetadataExpiredError,
    MetadataRollbackError,
    OlderImageError,
    PartialBundleError,
    RequirementError,
    UpdateError,
    WrongDeviceError,
    WrongHardwareError,
)
from device_sim.update.uptane import DIRECTOR_PATH, Floors, ImageTarget, Instruction
from protocol import updates
from protocol.errors import ProtocolError
from protocol.geometry import Slot
from protocol.identity import DeviceId
from protocol.shadow import ShadowTask
from protocol.updates import Order
from protocol.versions import unmet_requirements
from service.application.attestation_round import Outcome
from simulation.admission import SOMEBODY, Shown
from simulation.devices.machine import VirtualMachine
from simulation.devices.network import ANSWER_BYTES, HANDSHAKE_BYTES, REQUEST_BYTES, TIME_LIMIT_SECONDS
from simulation.images import Catalogue, VirtualRelease

OK = 200
MAX_DIRECTOR_BYTES = 64 * 1024
LAST_VERSION = "virtual/director-version"  # name in secure storage
EVIDENCE_BYTES = 1_900  # of evidence and CSR
CERTIFICATE_BYTES = 2_400
CREDENTIAL = Credential(SOMEBODY, b"")
_LEAF_OF: tuple[tuple[type[ProtocolError], type[UpdateError]], ...] = (
    (updates.WrongHardwareError, WrongHardwareError),
    (updates.RollbackError, OlderImageError),
    (updates.JumpedReleaseError, JumpedReleaseError),
    (ProtocolError, DisagreementError),
)


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What all devices of a scenario share.

    Attributes:
        catalogue: images and releases.
        attest: gives a nonce and judges what a device shows over it.
        now: the virtual time, which the service says at attestation.
        judged: releases that passed steps 3 and 4, by all that those look at: what one device finds, others do alike.
    """

    catalogue: Catalogue
    attest: Callable[[DeviceId, Shown], Outcome]
    now: Callable[[], datetime]
    judged: set[tuple[object, ...]] = field(default_factory=set)


class VirtualTrust:
    """Trust of one device; implements `runtime.trust.Trust`.

    Args:
        machine: has booted.
        path: to the service.
        beliefs: shared by all devices.
    """

    __slots__ = ("_beliefs", "_machine", "_path")

    def __init__(self, machine: VirtualMachine, path: NetworkPath, beliefs: Beliefs) -> None:
        self._machine = machine
        self._path = path
        self._beliefs = beliefs

    def attest(self) -> Admission:
        """See `Trust.attest`.

        Raises:
            AttestationRefusedError: the service refused the device.
            UnreachableError, SlowRetrievalError: it was not reached.
        """
        self._cross()
        outcome = self._beliefs.attest(self._machine.device_id, self._machine.shown())
        sent = 2 * REQUEST_BYTES + HANDSHAKE_BYTES // 2 + EVIDENCE_BYTES
        received = 2 * ANSWER_BYTES + HANDSHAKE_BYTES // 2 + CERTIFICATE_BYTES
        self._path.meter.add(sent=sent, received=received, requests=2)
        if outcome.issued is None:
            raise AttestationRefusedError("; ".join(outcome.appraisal.reasons))
        self._machine.clock.learn(self._beliefs.now())
        return Admission(CREDENTIAL, outcome.issued.access, outcome.issued.not_after)

    def check(
        self, transport: HttpTransport, now: datetime, *, floors: Floors, installed: Mapping[Slot, InstalledImage]
    ) -> Instruction:
        """See `Trust.check`; the steps are those of the module.

        Raises:
            NetworkError: the service was not reached.
            UpdateError: a step refused.
        """
        head = json.loads(_fetch(transport, "timestamp.json"))
        # Step 1: the Director's word.
        self._check_head(head, now)
        action_id = head["action_id"]
        wanted = json.loads(_fetch(transport, f"{head['version']}.targets.json"))
        if not wanted["images"]:
            return Instruction(action_id, ())
        release = self._beliefs.catalogue.by_target.get(wanted["release"])
        if release is None:
            raise DisagreementError(f"release {wanted['release']}: expected one that is listed, found none")
        # Step 2: the release whole.
        found = {Slot(slot): sha256 for slot, sha256 in wanted["images"].items()}
        if found != release.stored.digests:
            raise PartialBundleError(f"release {release.document.name}: expected its images, found others")
        task = head["shadow"]
        return Instruction(
            action_id,
            self._targets(release, floors, installed),
            int(head["attempt"]),
            Order(head["order"]),
            None if task is None else ShadowTask.model_validate(task),
        )

    def verify(
        self, machine: DeviceMachine, target: ImageTarget, *, package_keys: Sequence[ec.EllipticCurvePublicKey]
    ) -> None:
        """See `Trust.verify`.

        Raises:
            TargetRefusedError: the bytes were spoiled on the way.
        """
        del machine, package_keys
        self._machine.verify_spare(target.sha256)

    def _cross(self) -> None:
        """Let two requests and their answers go over the path."""
        if reason := self._path.closed_because:
            raise UnreachableError(f"attestation: expected a way to the service, found that {reason}")
        for _ in range(2):
            crossing = self._path.exchange(TIME_LIMIT_SECONDS)
            self._path.owe(crossing.seconds)
            if not crossing.answer_arrives:
                raise SlowRetrievalError(f"attestation: expected an answer within {TIME_LIMIT_SECONDS:g} s, found none")

    def _check_head(self, head: Mapping[str, Any], now: datetime) -> None:
        if head["device_id"] != self._machine.device_id:
            raise WrongDeviceError(f"Director: expected this device, found {head['device_id'][:16]}")
        version, last = int(head["version"]), int(self._machine.storage.get(LAST_VERSION) or b"0")
        if version < last:
            raise MetadataRollbackError(f"Director: expected version {last} or later, found {version}")
        if datetime.fromisoformat(head["expires"]) <= now:
            raise MetadataExpiredError(f"Director: expected metadata in force at {now}, found an end {head['expires']}")
        self._machine.storage.put(LAST_VERSION, str(version).encode())

    def _targets(
        self, release: VirtualRelease, floors: Floors, installed: Mapping[Slot, InstalledImage]
    ) -> tuple[ImageTarget, ...]:
        looked_at = (
            release.target_name,
            *((floors.security(slot), floors.release(slot)) for slot in release.directed),
            *((slot, image.digest) for slot, image in installed.items()),
        )
        if looked_at not in self._beliefs.judged:
            _judge(release, floors, installed)
            self._beliefs.judged.add(looked_at)
        return release.targets


def _judge(release: VirtualRelease, floors: Floors, installed: Mapping[Slot, InstalledImage]) -> None:
    # Step 3: agreement.
    for slot, directed in release.directed.items():
        held = installed.get(slot)
        try:
            updates.check_agreement(
                directed,
                release.images[slot].target,
                release.document,
                security_floor=floors.security(slot),
                release_floor=floors.release(slot),
                installed=None if held is None else held.build,
            )
        except ProtocolError as error:
            raise _leaf_of(error) from error
    # Step 4: requirements.
    held_builds = {slot: image.build for slot, image in installed.items()}
    offered = {slot: image.custom.build(image.sha256) for slot, image in release.images.items()}
    if unmet := [*unmet_requirements({**held_builds, **offered})]:
        raise RequirementError("; ".join(unmet))


def _fetch(transport: HttpTransport, file: str) -> bytes:
    response = transport.request("GET", DIRECTOR_PATH + file, max_bytes=MAX_DIRECTOR_BYTES)
    if response.status != OK:
        raise unexpected(file, response, expected=OK)
    return response.body


def _leaf_of(error: ProtocolError) -> UpdateError:
    leaf = next(leaf for rule, leaf in _LEAF_OF if isinstance(error, rule))
    return leaf(str(error))
