"""Releases that are bad for some devices, at the ports of these: network, trust, inference and power.

A device learns which releases its images belong to from the metadata that it has verified (`FaultyTrust.check`). Then
    download, verify       strike the answers of its network: it gives up in the middle, or the bytes are spoiled
    flash, boot            are found when the image is judged, after its real verification
    golden-vectors, drift  spoil what the released model answers, in its trial or after it was confirmed
    slow                   has the released model take longer on its core, after it was confirmed
    disagree               spoils what the released model answers in shadow, on a share of the frames; one with the very
                           bytes of the model that it is to replace agrees with it all the same
    brick, crash-loop      take the power, in mid update or after it was confirmed; then when the device tells something
                           for the first time after `after`, in the dark where that matters
Where a restart of the simulator comes between a confirmation and what was to follow, nothing follows.
"""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from device_sim.cores.kernels import Inference
from device_sim.fleets.choices import is_hit
from device_sim.fleets.effects import CRASH_LOOP, strikes_in_update
from device_sim.fleets.plan import DevicePlan
from device_sim.fleets.powered import PoweredDevice
from device_sim.hardware.installed import InstalledImage
from device_sim.hardware.ports import DeviceMachine
from device_sim.network.attestation import Admission
from device_sim.network.ports import HttpResponse, HttpTransport, UnreachableError
from device_sim.runtime.trust import Trust
from device_sim.update.errors import BootRefusedError, NoRoomError
from device_sim.update.uptane import ARTIFACT_PATH, Floors, ImageTarget, Instruction
from protocol.geometry import ImageKind, Slot
from protocol.image import verify_package
from protocol.messages import ActionState
from protocol.model import parse_model_payload
from protocol.scenario import Scenario
from protocol.scenario.faults import ReleaseFault, ReleaseFaultKind
from tinyml.images import ModelImage
from tinyml.workers import InferenceResult

ANY_RELEASE = "*"
Keys = Sequence[ec.EllipticCurvePublicKey]


def release_faults_of(scenario: Scenario, plan: DevicePlan, device_id: str) -> tuple[ReleaseFault, ...]:
    """Return the faults that a device has with releases."""
    return tuple(
        fault
        for number, fault in enumerate(scenario.release_faults)
        if fault.hardware in (None, plan.hardware)
        and fault.region in (None, plan.region)
        and is_hit(scenario.seed, f"release-fault/{number}", device_id, share=fault.share)
    )


class BadReleases:
    """What one device has to suffer of releases; outlives its power cuts.

    Args:
        faults: those that the device has.
        monotonic: of the host, seconds.
    """

    def __init__(self, faults: Sequence[ReleaseFault], *, monotonic: Callable[[], float]) -> None:
        self._faults = tuple(faults)
        self._monotonic = monotonic
        self._targets: dict[str, ImageTarget] = {}  # bad ones, by the digests of package and patch
        self._answered: Counter[str] = Counter()  # bytes of artifacts
        self._models: dict[str, tuple[ReleaseFault, ...]] = {}  # by digest of the model
        self._offered: dict[Slot, tuple[ReleaseFault, ...]] = {}
        self._confirmed: dict[Slot, tuple[ReleaseFault, ...]] = {}
        self._strikes_at: dict[ReleaseFault, float] = {}  # once the device runs the release
        self._waiting: list[ReleaseFault] = []  # for their time, or for the dark, after a confirmation
        self._is_shadowing = False
        self.is_dark: Callable[[], bool] = lambda: False

    def arm(self, instruction: Instruction) -> None:
        """Take from verified metadata which images are bad."""
        self._offered = {target.slot: self._of(target) for target in instruction.targets}
        for target in instruction.targets:
            if self._of(target):
                self._targets[target.sha256] = target
                if target.patch is not None:
                    self._targets[target.patch.sha256] = target

    def interfere(self, path: str, response: HttpResponse) -> HttpResponse:
        """Spoil an answer on its way, or lose it.

        Raises:
            UnreachableError: the link gives up, beyond the middle of an image.
        """
        digest = path.removeprefix(ARTIFACT_PATH)
        target = self._targets.get(digest)
        if target is None:
            return response
        if self._has(target, ReleaseFaultKind.DOWNLOAD):
            self._answered[digest] += len(response.body)
            if self._answered[digest] > target.length // 2:
                raise UnreachableError(f"{path}: expected an answer, found the link broken")
        if self._has(target, ReleaseFaultKind.VERIFY) and response.body:
            return replace(response, body=bytes([response.body[0] ^ 1]) + response.body[1:])
        return response

    def judge(self, machine: DeviceMachine, target: ImageTarget, keys: Keys) -> None:
        """Find what is wrong with an image that was verified.

        Raises:
            NoRoomError: a sector of the spare has not taken the bytes.
            BootRefusedError: the image does not start.
        """
        if self._has(target, ReleaseFaultKind.FLASH):
            machine.spare_drop()
            raise NoRoomError(f"{target.name}: expected the bytes in the spare, found a sector that takes none")
        if self._has(target, ReleaseFaultKind.BOOT):
            machine.spare_drop()
            raise BootRefusedError(f"{target.name}: expected an image that starts, found none")
        inferring = tuple(fault for fault in self._of(target) if fault.kind in _INFERRING)
        if inferring and target.slot.kind is ImageKind.MODEL:
            package = verify_package(machine.spare_read(0, target.length), keys, kind=ImageKind.MODEL)
            model = ModelImage(parse_model_payload(package.payload).model, arena_bytes=1)
            self._models[model.digest] = inferring

    def spoil(self, model: ModelImage, result: InferenceResult) -> InferenceResult:
        """Return what the device's core makes of an answer."""
        for fault in self._models.get(model.digest, ()):
            if fault.kind is ReleaseFaultKind.GOLDEN_VECTORS and self._has_its_light(fault):
                return replace(result, output=np.roll(result.output, 1))
            if fault.kind is ReleaseFaultKind.DISAGREE and self._differs(fault, result):
                return replace(result, output=np.roll(result.output, 1))
            if fault.kind is ReleaseFaultKind.DRIFT and self._strikes(fault):
                return replace(result, output=less_sure(result.output, fault.strength))
        return result

    def factor(self, model: ModelImage) -> float:
        """Return what makes a model slower on the device's cores now; see `cores.kernels.Strain`."""
        faults = self._models.get(model.digest, ())
        return math.prod(each.strength for each in faults if each.kind is ReleaseFaultKind.SLOW and self._strikes(each))

    def hear(self, event: str, fields: Mapping[str, object], device: PoweredDevice) -> None:
        """Strike when the device tells that it has come so far."""
        state = fields.get("state") if event == "update" else None
        if state is not None:
            self._is_shadowing = state == ActionState.SHADOWING.value
        if state == ActionState.INSTALLING.value and any(map(strikes_in_update, _all(self._offered))):
            device.cut_power(math.inf)
        elif state == ActionState.CONFIRMED.value:
            self._confirm(device)
        self._strike_those_due(device)

    def _differs(self, fault: ReleaseFault, result: InferenceResult) -> bool:
        """Whether a model in shadow answers otherwise; the answer decides, so that a run repeats."""
        draw = zlib.crc32(np.ascontiguousarray(result.output).tobytes()) / 2**32
        return self._is_shadowing and draw < fault.strength

    def _confirm(self, device: PoweredDevice) -> None:
        """Take note of what the device runs from now on; what it does not run any more strikes no more."""
        before = _all(self._confirmed)
        self._confirmed.update(self._offered)
        now = _all(self._confirmed)
        for fault in now - before:
            self._strikes_at[fault] = self._monotonic() + fault.after.total_seconds()
        self._waiting = [
            fault
            for fault in self._faults
            if fault.kind in _ENDING and fault in now and (fault not in before or fault in self._waiting)
        ]
        if any(fault.kind is ReleaseFaultKind.CRASH_LOOP for fault in before - now):
            device.fail_as_usual()

    def _strike_those_due(self, device: PoweredDevice) -> None:
        """Take the power from a device whose time has come, when it is dark where that matters."""
        due = [fault for fault in self._waiting if self._strikes(fault)]
        for fault in due:
            self._waiting.remove(fault)
            if fault.kind is ReleaseFaultKind.BRICK:
                device.cut_power(math.inf)
            else:
                device.fail_often(CRASH_LOOP, since=self._monotonic())

    def _strikes(self, fault: ReleaseFault) -> bool:
        """Whether a fault's time has come, after a confirmation, and its light."""
        return self._monotonic() >= self._strikes_at.get(fault, math.inf) and self._has_its_light(fault)

    def _has_its_light(self, fault: ReleaseFault) -> bool:
        return self.is_dark() or not fault.only_in_the_dark

    def _of(self, target: ImageTarget) -> tuple[ReleaseFault, ...]:
        return tuple(fault for fault in self._faults if fault.release in (ANY_RELEASE, target.release.name))

    def _has(self, target: ImageTarget, kind: ReleaseFaultKind) -> bool:
        return any(fault.kind is kind for fault in self._of(target))


def _all(faults: Mapping[Slot, Sequence[ReleaseFault]]) -> frozenset[ReleaseFault]:
    return frozenset(fault for each in faults.values() for fault in each)


_ENDING = frozenset({ReleaseFaultKind.BRICK, ReleaseFaultKind.CRASH_LOOP})
_INFERRING = frozenset(
    {ReleaseFaultKind.GOLDEN_VECTORS, ReleaseFaultKind.DRIFT, ReleaseFaultKind.SLOW, ReleaseFaultKind.DISAGREE}
)


def less_sure(output: np.ndarray, factor: float) -> np.ndarray:
    """Return an answer nearer to its mean, where every class is as likely as another."""
    mean = output.mean(dtype=np.float64)
    drifted = mean + (output - mean) * factor
    spoilt: np.ndarray = (drifted if output.dtype.kind == "f" else drifted.round()).astype(output.dtype)
    return spoilt


class FaultyTrust:
    """A `Trust` of a device with bad releases.

    Args:
        inner: the real one.
        releases: of the device.
    """

    def __init__(self, inner: Trust, releases: BadReleases) -> None:
        self._inner = inner
        self._releases = releases

    def attest(self) -> Admission:
        """See `Trust.attest`."""
        return self._inner.attest()

    def check(
        self, transport: HttpTransport, now: datetime, *, floors: Floors, installed: Mapping[Slot, InstalledImage]
    ) -> Instruction:
        """See `Trust.check`."""
        instruction = self._inner.check(transport, now, floors=floors, installed=installed)
        self._releases.arm(instruction)
        return instruction

    def verify(self, machine: DeviceMachine, target: ImageTarget, *, package_keys: Keys) -> None:
        """See `Trust.verify`; then finds what is wrong with the image on this device."""
        self._inner.verify(machine, target, package_keys=package_keys)
        self._releases.judge(machine, target, package_keys)


class SpoiltInference:
    """An `Inference` port of a device with bad releases.

    Args:
        pool: answers.
        releases: of the device.
    """

    def __init__(self, pool: Inference, releases: BadReleases) -> None:
        self._pool = pool
        self._releases = releases

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:  # noqa: A002
        """Run a model once; raises as the pool's."""
        return self._releases.spoil(model, self._pool.invoke(model, input, deadline_seconds=deadline_seconds))
