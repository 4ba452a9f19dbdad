"""What the update client and the runtime need of a machine: the simulated MT3620 is one, a virtual one another."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from device_sim.cores.a7 import GoldenOutcome
from device_sim.cores.device_time import DeviceTime
from device_sim.cores.m4 import InferenceOutcome
from device_sim.hardware.boot import BootReport
from device_sim.hardware.clock import DeviceClock
from device_sim.hardware.installed import InstalledImage
from device_sim.hardware.spare import Spare
from device_sim.learning.learner import Learner
from protocol.document import Document, DocumentT
from protocol.geometry import Core, Slot
from protocol.identity import DeviceId
from protocol.model import GoldenVectors, ModelCard
from protocol.shadow import ShadowCounts, ShadowTask
from protocol.voucher import Voucher


class TrustAnchor(Protocol):
    """The root of trust as software sees it; signs with the identity key."""

    @property
    def has_app_development(self) -> bool:
        """Whether the device is its developer's."""

    def seal(self, document: Document, payload_type: str) -> bytes:
        """Return a document in an envelope that the identity key signed, JSON bytes."""

    def fuse(self, slot: Slot) -> int:
        """Return the lowest security version that a slot may boot."""

    def increment(self, name: str) -> int:
        """Raise a monotonic counter by one and return it."""


class ItemStorage(Protocol):
    """Secure storage: bytes by name."""

    def get(self, name: str) -> bytes | None:
        """Return what is kept under a name, or None."""

    def put(self, name: str, value: bytes) -> None:
        """Keep bytes under a name."""

    def get_document(self, name: str, document_type: type[DocumentT]) -> DocumentT | None:
        """Return the document that is kept under a name, or None."""

    def put_document(self, name: str, document: Document) -> None:
        """Keep a document under a name."""


class RealTimeCore(Protocol):
    """A real-time core."""

    @property
    def is_running(self) -> bool:
        """Whether the core runs a model."""

    @property
    def card(self) -> ModelCard | None:
        """The card of the model that the core runs: its input contract names the sensor."""

    @property
    def learner(self) -> Learner | None:
        """What learns on the core, or None: it runs no learning template."""

    @property
    def latency_seconds(self) -> float:
        """Modelled latency of one inference; 0 without a model."""

    @property
    def candidate_seconds(self) -> float:
        """Modelled latency of one inference of the model in shadow; 0 without one."""

    def infer(self, frame: np.ndarray) -> InferenceOutcome:
        """Run one inference."""

    def infer_candidate(self, frame: np.ndarray) -> InferenceOutcome:
        """Run one inference of the model in shadow."""


class Shadow(Protocol):
    """A comparison of a model in shadow with the one that it is to replace; see `device_sim.cores.shadow`."""

    @property
    def slot(self) -> Slot:
        """Of the model."""

    @property
    def digest(self) -> str:
        """SHA-256 of the candidate's package, 64 hex digits."""

    @property
    def due(self) -> float:
        """When it ends at the latest, on the clock that drives the device."""

    @property
    def refusal(self) -> str:
        """Why there is nothing to report although it has ended, or an empty string."""

    @property
    def result(self) -> ShadowCounts | None:
        """What it came to, once it has ended."""

    def takes_frame(self, *, period: float, incumbent: float, candidate: float) -> bool:
        """Say whether the candidate is to look at the frame that was just answered."""

    def add(self, incumbent: InferenceOutcome, candidate: InferenceOutcome) -> None:
        """Count two answers to one frame."""


class DeviceMachine(Protocol):
    """One device's hardware; the methods are those of `device_sim.hardware.machine.Machine`."""

    @property
    def device_id(self) -> DeviceId:
        """The device's id."""

    @property
    def rot(self) -> TrustAnchor:
        """The root of trust."""

    @property
    def storage(self) -> ItemStorage:
        """Secure storage."""

    @property
    def clock(self) -> DeviceClock:
        """The device's clock."""

    @property
    def time(self) -> DeviceTime:
        """The device's own time line."""

    @property
    def voucher(self) -> Voucher | None:
        """The voucher that the last boot verified, or None."""

    @property
    def cores(self) -> Mapping[Core, RealTimeCore]:
        """Both real-time cores."""

    @property
    def spare(self) -> Spare:
        """What the shared spare holds."""

    def boot(self) -> BootReport:
        """Finish or undo what a power cut left behind, then boot."""

    def installed(self) -> Mapping[Slot, InstalledImage]:
        """Return what is confirmed, per slot."""

    def spare_begin(self, slot: Slot, digest: str, length: int) -> int:
        """Make the spare ready for an image; return how many of its bytes are there."""

    def spare_write(self, offset: int, data: bytes) -> None:
        """Write the next bytes of the image."""

    def spare_read(self, offset: int, length: int) -> bytes:
        """Read from the spare."""

    def spare_digest(self, length: int) -> str:
        """Return the SHA-256 of the spare's first bytes, 64 hex digits."""

    def spare_drop(self) -> None:
        """Forget what the spare holds of an image that was begun."""

    def home_read(self, slot: Slot, offset: int, length: int) -> bytes:
        """Read from the confirmed image in a home slot."""

    @property
    def shadow(self) -> Shadow | None:
        """The comparison that runs or has ended, until `end_shadow` or a restart."""

    def begin_shadow(self, slot: Slot, task: ShadowTask) -> None:
        """Verify the model in the spare and run it in shadow beside the one that the slot's core runs."""

    def end_shadow(self) -> None:
        """Forget the model in shadow and its comparison."""

    def start_trial(self, slot: Slot) -> None:
        """Verify the image in the spare and restart only the slot's core with it."""

    def run_golden(self, core: Core, vectors: GoldenVectors) -> GoldenOutcome:
        """Stream golden vectors from the A7 to a real-time core."""

    def confirm(self, slot: Slot) -> None:
        """Keep the image on trial."""

    def revert(self, slot: Slot, reason: str) -> None:
        """Drop the image on trial and restart its core from home."""

    def close(self) -> None:
        """Let go of what the machine holds."""
