"""The image itself: fetched in ranges into the spare, then verified there.

An interrupted download goes on where the spare ends, also after a power cut: nothing but the spare says how far it
got. Every answer has a limit in bytes and in time, so endless data and slow retrieval end in an error. An answer that
is not the range that was asked for may be a broken server's: it is asked again, and refused where that persists.
Verification of the whole image in the spare, in this order:
    1. SHA-256 and length by the agreed metadata;
    2. signature and form of the package, by a package key of the voucher (protocol/image.py);
    3. kind, component, image id, name and security version are those of the Image repository's metadata.
What is refused is not kept: the next attempt begins with an empty spare.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from device_sim.errors import ImageTooLargeError, SpareStateError, WornSectorError
from device_sim.hardware.ports import DeviceMachine
from device_sim.network.ports import EndlessDataError, HttpResponse, HttpTransport, UnexpectedResponseError
from device_sim.network.problems import unexpected
from device_sim.update.errors import (
    EndlessTargetError,
    NoRoomError,
    PackageRefusedError,
    TargetMissingError,
    TargetRefusedError,
    UpdateError,
)
from device_sim.update.uptane import ARTIFACT_PATH, ImageTarget
from protocol.errors import ProtocolError
from protocol.geometry import KIB
from protocol.image import ImageInfo, digest_of, verify_package

CHUNK_BYTES = 64 * KIB  # whole sectors
OK, PARTIAL, NOT_FOUND, RANGE_NOT_SATISFIABLE = 200, 206, 404, 416


class Verify(Protocol):
    """Judges the whole image in the spare; see `verify_spare`."""

    def __call__(
        self, machine: DeviceMachine, target: ImageTarget, *, package_keys: Sequence[ec.EllipticCurvePublicKey]
    ) -> None:
        """Pass, or drop the image and raise."""


class WrongRangeError(UnexpectedResponseError):
    """The answer is not the part of the target that was asked for."""


@dataclass(frozen=True, slots=True)
class Ranged:
    """Bytes that are fetched by content, range by range.

    Attributes:
        name: of the target.
        sha256: 64 hex digits.
        length: bytes.
    """

    name: str
    sha256: str
    length: int


def download(machine: DeviceMachine, transport: HttpTransport, target: ImageTarget) -> Iterator[int]:
    """Bring an image into the spare, one range per step; yields how many bytes came.

    Args:
        machine: its spare is free, or holds a part of this image.
        transport: with the operational certificate.
        target: from `UptaneClient.check`.

    Raises:
        NetworkError: the service was not reached, or slowly; the next call goes on where this one ended.
        WrongRangeError: of these, the answer is another part.
        EndlessTargetError, TargetMissingError: the service does not send the target.
        NoRoomError: the image does not fit, or the spare is in use.
    """
    offset = begin_spare(machine, target)
    ranged = Ranged(target.name, target.sha256, target.length)
    while offset < target.length:
        data = fetch_range(transport, ranged, start=offset, end=min(offset + CHUNK_BYTES, target.length))
        machine.spare_write(offset, data)
        offset += len(data)
        yield len(data)


def begin_spare(machine: DeviceMachine, target: ImageTarget) -> int:
    """Make the spare ready for an image and return how many of its bytes are there.

    Raises:
        NoRoomError: the image does not fit, the spare is in use or worn out.
    """
    try:
        return machine.spare_begin(target.slot, target.sha256, target.length)
    except (ImageTooLargeError, SpareStateError, WornSectorError) as error:
        raise NoRoomError(str(error)) from error


def fetch_range(transport: HttpTransport, ranged: Ranged, *, start: int, end: int) -> bytes:
    """Fetch the bytes from `start` to before `end`; from a server without ranges, all from `start` on.

    Raises:
        NetworkError: the service was not reached, or slowly.
        WrongRangeError: of these, the answer is another part.
        EndlessTargetError, TargetMissingError: the service does not send the target.
    """
    try:
        response = transport.request(
            "GET",
            ARTIFACT_PATH + ranged.sha256,
            max_bytes=ranged.length,
            headers={"Range": f"bytes={start}-{end - 1}"},
        )
    except EndlessDataError as error:
        raise EndlessTargetError(str(error)) from error
    return _bytes_of(response, ranged, start=start, end=end)


def _bytes_of(response: HttpResponse, ranged: Ranged, *, start: int, end: int) -> bytes:
    if response.status == PARTIAL:
        return _partial(response, ranged, start=start, end=end)
    if response.status == OK:  # a server without ranges: all of it came
        if len(response.body) != ranged.length:
            raise WrongRangeError(f"{ranged.name}: expected {ranged.length} bytes, found {len(response.body)}")
        return response.body[start:]
    if response.status == NOT_FOUND:
        raise TargetMissingError(f"{ranged.name}: expected it, found nothing")
    if response.status == RANGE_NOT_SATISFIABLE:
        raise WrongRangeError(f"{ranged.name}: expected {ranged.length} bytes, found fewer")
    raise unexpected(ranged.name, response, expected=PARTIAL)


def _partial(response: HttpResponse, ranged: Ranged, *, start: int, end: int) -> bytes:
    expected = f"bytes {start}-{end - 1}/{ranged.length}"
    found = response.headers.get("content-range", "")
    if found != expected or len(response.body) != end - start:
        raise WrongRangeError(
            f"{ranged.name}: expected {expected}, found {found[:100]} with {len(response.body)} bytes"
        )
    return response.body


def verify_spare(
    machine: DeviceMachine, target: ImageTarget, *, package_keys: Sequence[ec.EllipticCurvePublicKey]
) -> None:
    """Verify the whole image in the spare, as the module's docstring says, and drop it where it is refused.

    Raises:
        TargetRefusedError: step 1.
        PackageRefusedError: steps 2 or 3.
    """
    try:
        _check_package(machine, target, package_keys)
    except UpdateError:
        machine.spare_drop()
        raise


def _check_package(
    machine: DeviceMachine, target: ImageTarget, package_keys: Sequence[ec.EllipticCurvePublicKey]
) -> None:
    unverified_package = machine.spare_read(0, target.length)
    # Step 1: hash.
    found = digest_of(unverified_package)
    if found != target.sha256:
        raise TargetRefusedError(f"{target.name}: expected SHA-256 {target.sha256[:16]}, found {found[:16]}")
    # Step 2: signature and form.
    try:
        image = verify_package(unverified_package, package_keys, kind=target.slot.kind)
    except ProtocolError as error:
        raise PackageRefusedError(f"{target.name}: {error}") from error
    # Step 3: the image that the metadata describes.
    _check_identity(image.info, target)


def _check_identity(info: ImageInfo, target: ImageTarget) -> None:
    custom = target.custom
    expected = (custom.component_id, custom.image_id, custom.name, custom.security_counter)
    found = (info.component_id, info.image_id, info.name, info.security_version)
    if found != expected:
        raise PackageRefusedError(f"{target.name}: expected {expected}, found {found}")
