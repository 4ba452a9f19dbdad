"""What device and service say to each other over HTTPS and MQTT, as JSON documents.

Device API, base path /device/v1, mutual TLS. IDevID reaches /attest/* alone, LDevID everything else:

    POST /attest/nonce          NonceRequest → NonceReply
    POST /attest                AttestationRequest → AttestationReply, or 403 problem+json with the appraisal
    GET  /poll                  → PollReply
    GET  /uptane/director/{file}    root/timestamp/snapshot/targets metadata for the device that is connected
    GET  /uptane/image/{file}       metadata of the Image repository
    GET  /artifacts/{sha256}        bytes of a target; Range is honoured
    POST /reports               ActionReport → 204; 409 where it puts off an update that may not be put off
    POST /manifest              DSSE envelope around a VersionManifest → 204

Over MQTT: telemetry stream `inference` carries InferenceRecord, `status` carries DeviceStatus, `health` carries
HealthReport (protocol/health.py); a device takes the command `check-update`, whose payload is empty, and answers by
polling.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.document import Document, Moment
from protocol.geometry import Core, Slot
from protocol.identity import Access
from protocol.model import Guid, Sha256Hex
from protocol.shadow import ShadowCounts
from protocol.updates import Order
from protocol.voucher import Base64Bytes

MANIFEST_PAYLOAD_TYPE = "application/vnd.tinyfleet.version-manifest+json"
TIME_PAYLOAD_TYPE = "application/vnd.tinyfleet.time+json"
MAX_DETAIL_CHARACTERS = 500
MAX_DEFER_SECONDS = 366 * 86_400.0
CHECK_UPDATE = "check-update"
INFERENCE_STREAM = "inference"
STATUS_STREAM = "status"

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
"""A counter that a database can hold."""
AttemptNumber = Annotated[int, Field(ge=1, lt=1 << 15)]
"""Which attempt at an action, from 1."""
Detail = Annotated[str, Field(max_length=MAX_DETAIL_CHARACTERS, pattern=r"^[^\x00]*$")]
"""What was expected and found, for people; no zero character, which a database refuses."""
Rule = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z]*$")]
"""Name of the rule that was broken: the class of the device's error."""


class NonceRequest(Document):
    """A device asks for a nonce, and for the time."""

    device_nonce: Annotated[Base64Bytes, Field(min_length=32, max_length=32)]


class SignedTime(Document):
    """The time, answered to a device's own nonce; a DSSE payload signed by the Director's timestamp key."""

    device_nonce: Base64Bytes
    now: Moment


class NonceReply(Document):
    """A single-use nonce of 32 bytes, and the signed time: a DSSE envelope around SignedTime."""

    nonce: Base64Bytes
    expires_at: Moment
    signed_time: Base64Bytes


class AttestationRequest(Document):
    """Evidence (COSE_Sign1) over the nonce and the key of the CSR (DER)."""

    evidence: Base64Bytes
    csr: Base64Bytes


class AttestationReply(Document):
    """The operational certificate and the issuing CA's, PEM, leaf first, and how far it reaches."""

    certificate_chain: str
    not_after: Moment
    access: Access = Access.FULL


class PollReply(Document):
    """What waits for the device, and when to ask again.

    Attributes:
        action_id: the action that waits, or None.
        attempt: of the action, from 1; one whose end the device knows begins anew with a higher one.
        order: what the device is to do with it, as far as is known here; the Director's signed word decides.
        next_poll_seconds: paced and jittered by the server.
    """

    action_id: Guid | None = None
    attempt: AttemptNumber = 1
    order: Order = Order.INSTALL
    next_poll_seconds: Annotated[float, Field(gt=0)]


class ActionState(StrEnum):
    """One device's part in a rollout. The order is the order of progress; the last five are final."""

    SCHEDULED = "scheduled"
    OFFERED = "offered"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"  # verified, and waiting for the order to install
    SHADOWING = "shadowing"  # runs unheard beside the model that it is to replace; then waits likewise
    INSTALLING = "installing"
    TRIAL = "trial"
    CONFIRMED = "confirmed"
    REVERTED = "reverted"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether no report can change it any more."""
        return self in _FINAL_STATES

    @property
    def is_failure(self) -> bool:
        """Whether it counts against a rollout's error condition."""
        return self in _FAILURE_STATES


_FINAL_STATES = frozenset(
    {
        ActionState.CONFIRMED,
        ActionState.REVERTED,
        ActionState.FAILED,
        ActionState.TIMED_OUT,
        ActionState.CANCELLED,
    }
)
_FAILURE_STATES = frozenset({ActionState.REVERTED, ActionState.FAILED, ActionState.TIMED_OUT})


class Cause(StrEnum):
    """Why an action failed or was reverted."""

    DOWNLOAD = "download"
    VERIFY = "verify"
    FLASH = "flash"
    BOOT = "boot"
    GOLDEN_VECTORS = "golden-vectors"
    HANG = "hang"
    CRASH = "crash"
    SILENT = "silent"  # set by the service: no report before the deadline
    REQUIREMENT = "requirement"  # the images would run beside others than they require; the service says it, too


class Attack(StrEnum):
    """What somebody may be trying where an update is refused (Uptane standard 4.2; TUF specification 1.5.2)."""

    EAVESDROP = "eavesdrop"  # somebody in the middle: a server that the voucher's root does not know
    DROP_REQUEST = "drop-request"  # set by the service: the device asks or was asked, and no word of it arrives
    SLOW_RETRIEVAL = "slow-retrieval"
    FREEZE = "freeze"
    PARTIAL_BUNDLE = "partial-bundle"
    ROLLBACK = "rollback"
    ENDLESS_DATA = "endless-data"
    MIX_AND_MATCH = "mix-and-match"
    ARBITRARY_SOFTWARE = "arbitrary-software"
    WRONG_HARDWARE = "wrong-hardware"
    WRONG_DEVICE = "wrong-device"  # another device's Director metadata
    SPLIT_VIEW = "split-view"  # another view of the transparency log than everybody has


class ActionReport(Document):
    """How far a device is with its action. May arrive twice, late or out of order.

    Attributes:
        attempt: of the action that the report is about, as the Director named it.
        sequence: rises with each report of one attempt.
        digests: SHA-256 of what runs now, per slot, when the state is final.
        detail: what was expected and found, for an operator to read.
        attack: what the refusal indicates, or None.
        rule: what the update broke; empty where nothing was refused.
        defer_seconds: for how long the device's user puts the update off; with the state `scheduled`, and only there.
        shadow: what a comparison that has ended came to; beside the state `shadowing` alone.
    """

    action_id: Guid
    attempt: AttemptNumber = 1
    sequence: Count
    state: ActionState
    cause: Cause | None = None
    detail: Detail = ""
    digests: Mapping[Slot, Sha256Hex] = {}
    attack: Attack | None = None
    rule: Rule = ""
    defer_seconds: Annotated[float, Field(gt=0, le=MAX_DEFER_SECONDS)] | None = None
    shadow: ShadowCounts | None = None

    @model_validator(mode="after")
    def _check_deferral(self) -> Self:
        if self.defer_seconds is not None and self.state is not ActionState.SCHEDULED:
            raise ValueError(f"defer_seconds: expected it with the state scheduled, found {self.state}")
        return self

    @model_validator(mode="after")
    def _check_shadow(self) -> Self:
        if self.shadow is not None and self.state is not ActionState.SHADOWING:
            raise ValueError(f"shadow: expected counts beside the state shadowing alone, found {self.state}")
        return self


class VersionManifest(Document):
    """What runs on the device, signed by its identity key (Uptane standard 5.4.2.1).

    Attributes:
        counter: changes with every manifest; the Director drops reuse.
        attack_indicator: the last refused metadata or image, or an empty string.
        attack: what that indicates, or None.
    """

    device_id: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    counter: Annotated[Count, Field(ge=1)]
    reported_at: Moment
    images: Mapping[Slot, Sha256Hex]
    attack_indicator: Detail = ""
    attack: Attack | None = None


class InferenceRecord(Document):
    """One inference on one core.

    Attributes:
        at: the device's time.
        device_seconds: the same on the device's own time line, which no clock sets: from when it was switched on.
        sequence: rises by one per record of a core since boot, so that gaps show.
        m4_ms: modelled latency on the Cortex-M4.
        arena_bytes: arena in use.
        label: best label, empty when the inference failed.
        score: its score, 0 to 1.
        error: what went wrong, or an empty string.
    """

    at: Moment
    device_seconds: Annotated[float, Field(ge=0)] | None = None
    core: Core
    sequence: int
    model: str  # name@version
    model_sha256: Sha256Hex
    label: str = ""
    score: float = 0.0
    m4_ms: float = 0.0
    host_ms: float = 0.0
    arena_bytes: int = 0
    error: Annotated[str, Field(max_length=500)] = ""


class ClaimChallenge(Document):
    """What an operator's claim is fresh by; a device proves itself with evidence over it.

    The evidence's nonce claim is SHA-256(challenge ‖ identity key's SubjectPublicKeyInfo): `bind_nonce` with the
    identity key in the place of a CSR's.
    """

    challenge: Base64Bytes
    expires_at: Moment


class ClaimProof(Document):
    """A device's proof of identity, handed to the operator over a cable.

    Attributes:
        idevid_chain: PEM, leaf first.
        evidence: PSA token over the challenge.
    """

    device_id: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    idevid_chain: str
    evidence: Base64Bytes
