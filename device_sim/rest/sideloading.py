"""Images over the cable: staged, installed, removed.

Verification of a staged package, in this order:
    1. no update over the air is running;
    2. package: form and signature, by the catalog's package keys, or, with the AppDevelopment capability, by Azure
       Sphere's public development key (`protocol.image.verify_package`);
    3. slot: a model's card names its core; an application or a firmware takes the slot that holds its component, or
       held it when it was removed. Components that the device has no place for are refused;
    4. size: no larger than the slot;
    5. capability: without it, only what the catalog lists for the slot and is not older than what is there;
    6. fuse and kind: as at a boot, by the machine when it is installed.

Deliberately not checked here: what images require of one another, and a model's golden vectors. Whoever has the cable
answers for that. A staged package is in memory alone and gone after a restart. How it is installed, and what a power
cut leaves: see `LocalDevice.sideload`.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from azuresphere_imagemetadata.metadata_sections.identity import ImageType
from pydantic import Field

from device_sim.errors import DeviceSimError, ImageTooLargeError
from device_sim.hardware.factory import layout_of
from device_sim.rest.device import LocalDevice, component_of
from device_sim.rest.errors import Code, RequestRefusedError
from device_sim.rest.facts import is_updating
from device_sim.rest.listed import goes_back, is_listed
from device_sim.rest.routes import JSON_TYPE, OCTETS_TYPE, Answer, Request, RequestDocument, Route
from protocol.document import Document
from protocol.errors import ProtocolError, SignatureError
from protocol.geometry import ImageKind, Slot, slot_for
from protocol.image import IMAGE_TYPE, VerifiedImage, verify_package
from protocol.model import Guid, parse_model_payload
from protocol.voucher import Voucher, public_keys

_REMOVED = "rest/removed-components"  # name in secure storage


class _Install(RequestDocument):
    app_control_mode: Literal["Auto", "Manual"]


class _Removed(Document):
    """Which component a slot held when it was emptied over the cable."""

    components: Mapping[Slot, Guid] = Field(default_factory=dict)


class Sideloading:
    """Routes of images that come and go over the cable.

    Args:
        device: that they change.
    """

    def __init__(self, device: LocalDevice) -> None:
        self._device = device
        self._machine = device.machine
        self._layout = layout_of(device.machine.folder)

    def routes(self) -> Iterator[Route]:
        """Yield them."""
        most = self._layout.geometry.size_bytes
        yield Route("PUT", "update/stage", self._stage, content_type=OCTETS_TYPE, max_body_bytes=most)
        yield Route("POST", "update/install", self._install, content_type=JSON_TYPE)
        yield Route("DELETE", "app/image/*", self._delete)

    def _stage(self, request: Request) -> Answer:
        try:
            slot, image = self._verify(request.body)
        except RequestRefusedError as error:
            self._device.emit("sideload-refused", code=int(error.code), reason=str(error))
            raise
        self._device.staged[slot] = request.body
        self._device.emit("staged", slot=slot.value, image=image.info.name, digest=image.digest)
        return Answer()

    def _verify(self, unverified_package: bytes) -> tuple[Slot, VerifiedImage]:
        # Step 1: no update runs.
        self._require_no_update()
        # Step 2: package.
        voucher, image = self._signed(unverified_package)
        # Step 3: slot.
        slot = self._slot_of(image)
        # Step 4: size.
        most = self._layout.slot_bytes[slot]
        if len(unverified_package) > most:
            raise RequestRefusedError(
                Code.NO_SPACE, f"{slot}: expected at most {most} bytes, found {len(unverified_package)}"
            )
        # Step 5: capability.
        if not self._device.has_app_development:
            self._require_listed(image, slot, voucher)
        return slot, image

    def _require_no_update(self) -> None:
        if is_updating(self._device):
            raise RequestRefusedError(Code.UPDATE_RUNS, "sideload: expected no update over the air, found one running")

    def _signed(self, unverified_package: bytes) -> tuple[Voucher, VerifiedImage]:
        voucher = self._machine.voucher
        if voucher is None:
            raise RequestRefusedError(Code.NOT_TRUSTED, "sideload: expected a claimed device, found another")
        keys, develops = public_keys(voucher.package_keys), self._device.has_app_development
        try:
            return voucher, verify_package(unverified_package, keys, kind=None, allow_development=develops)
        except SignatureError as error:
            raise RequestRefusedError(Code.NOT_TRUSTED, str(error)) from error
        except ProtocolError as error:
            raise RequestRefusedError(Code.NOT_STAGEABLE, str(error)) from error

    def _slot_of(self, image: VerifiedImage) -> Slot:
        if image.info.image_type == IMAGE_TYPE[ImageKind.MODEL]:
            return self._slot_of_model(image)
        if image.info.image_type != ImageType.Applications:
            raise RequestRefusedError(
                Code.NOT_STAGEABLE,
                f"image type: expected an application or a model, found {ImageType.get_name(image.info.image_type)}",
            )
        for slot, component_id in self._places().items():
            if component_id == image.info.component_id and slot.kind is not ImageKind.MODEL:
                return slot
        raise RequestRefusedError(
            Code.BAD_COMPONENT, f"component: expected one that has a slot, found {image.info.component_id}"
        )

    def _slot_of_model(self, image: VerifiedImage) -> Slot:
        try:
            core = parse_model_payload(image.payload).card.core
        except ProtocolError as error:
            raise RequestRefusedError(Code.NOT_STAGEABLE, str(error)) from error
        slot = slot_for(core, ImageKind.MODEL)
        if slot is None:
            raise RequestRefusedError(Code.BAD_COMPONENT, f"model: expected one for a real-time core, found {core}")
        return slot

    def _places(self) -> dict[Slot, str]:
        held = {slot: image.component_id for slot, image in self._device.images().items()}
        return {**self._removed().components, **held}

    def _removed(self) -> _Removed:
        return self._machine.storage.get_document(_REMOVED, _Removed) or _Removed()

    def _require_listed(self, image: VerifiedImage, slot: Slot, voucher: Voucher) -> None:
        now, storage = self._machine.clock.now(), self._machine.storage
        if not is_listed(image, slot, voucher=voucher, storage=storage, now=now):
            raise RequestRefusedError(
                Code.NOT_TRUSTED, f"{image.info.name}: expected an image that the catalog lists, or the capability"
            )
        if goes_back(image, self._device.images().get(slot)):
            raise RequestRefusedError(
                Code.NOT_TRUSTED, f"{image.info.name}: expected no older image than the one installed, found one"
            )

    def _install(self, request: Request) -> Answer:
        starts = request.document(_Install).app_control_mode == "Auto"
        self._require_no_update()
        staged = self._device.staged
        if not staged:
            raise RequestRefusedError(Code.INSTALL_FAILED, "install: expected a staged image, found none")
        for slot in [slot for slot in Slot if slot in staged]:
            self._install_one(slot, staged.pop(slot), starts=starts)
        return Answer()

    def _install_one(self, slot: Slot, package: bytes, *, starts: bool) -> None:
        try:
            self._device.sideload(slot, package, starts=starts)
        except ImageTooLargeError as error:
            raise self._refused(Code.NO_SPACE, error) from error
        except (DeviceSimError, ProtocolError) as error:
            raise self._refused(Code.INSTALL_FAILED, error) from error
        self._device.emit("sideloaded", slot=slot.value, image=self._device.images()[slot].name)

    def _refused(self, code: Code, error: Exception) -> RequestRefusedError:
        self._device.emit("sideload-refused", code=int(code), reason=str(error))
        return RequestRefusedError(code, str(error))

    def _delete(self, request: Request) -> Answer:
        if not self._device.has_app_development:
            raise RequestRefusedError(Code.SIDELOAD_DENIED, "delete: expected the capability, found none")
        component_id = component_of(request.parameter)
        self._require_no_update()
        for slot in self._device.slots_of(component_id):
            removed = {**self._removed().components, slot: component_id}
            self._machine.storage.put_document(_REMOVED, _Removed(components=removed))
            self._remove(slot)
        return Answer()

    def _remove(self, slot: Slot) -> None:
        try:
            self._machine.remove(slot)
        except DeviceSimError as error:  # the core's other image; this one is gone
            self._device.emit("core-stopped", core=slot.core.value, reason=str(error))
        self._device.emit("removed", slot=slot.value)
