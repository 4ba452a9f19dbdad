"""The image itself: fetched in ranges into the spare, then verified there.

An interrupted download goes on where the spare ends, also after a power cut: nothing but the spare says how far it
got. Every answer has a limit in bytes and in time, so endless data and slow retrieval end in an error.
Verification of the whole image in the spare, in this order:
    1. SHA-256 and length by the agreed metadata;
    2. signature and form of the package, by a package key of the voucher (protocol/image.py);
    3. kind, component, image id, name and security version are those of the Image repository's metadata.
"""

from collections.abc import Iterator, Sequence

from cryptography.hazmat.primitives.asymmetric import ec

from device_sim.errors import ImageTooLargeError, SpareStateError
from device_sim.hardware.machine import Machine
from device_sim.network.ports import EndlessDataError, HttpResponse, HttpTransport
from device_sim.network.problems import unexpected
from device_sim.update.errors import (
    EndlessTargetError,
    NoRoomError,
    PackageRefusedError,
    TargetMissingError,
    TargetRefusedError,
)
from device_sim.update.uptane import ARTIFACT_PATH, ImageTarget
from protocol.errors import ProtocolError
from protocol.geometry import KIB
from protocol.image import ImageInfo, digest_of, verify_package

CHUNK_BYTES = 64 * KIB  # whole sectors
OK, PARTIAL, NOT_FOUND, RANGE_NOT_SATISFIABLE = 200, 206, 404, 416


def download(machine: Machine, transport: HttpTransport, target: ImageTarget) -> Iterator[None]:
    """Bring an image into the spare, one range per step.

    Args:
        machine: its spare is free, or holds a part of this image.
        transport: with the operational certificate.
        target: from `UptaneClient.check`.

    Raises:
        NetworkError: the service was not reached, or slowly; the next call goes on where this one ended.
        EndlessTargetError, TargetMissingError, TargetRefusedError: the service does not send the target.
        NoRoomError: the image does not fit, or the spare is in use.
    """
    try:
        offset = machine.spare_begin(target.slot, target.sha256, target.length)
    except (ImageTooLargeError, SpareStateError) as error:
        raise NoRoomError(str(error)) from error
    while offset < target.length:
        data = _fetch_range(transport, target, offset)
        machine.spare_write(offset, data)
        offset += len(data)
        yield


def _fetch_range(transport: HttpTransport, target: ImageTarget, start: int) -> bytes:
    end = min(start + CHUNK_BYTES, target.length)
    try:
        response = transport.request(
            "GET",
            ARTIFACT_PATH + target.sha256,
            max_bytes=target.length,
            headers={"Range": f"bytes={start}-{end - 1}"},
        )
    except EndlessDataError as error:
        raise EndlessTargetError(str(error)) from error
    return _bytes_of(response, target, start=start, end=end)


def _bytes_of(response: HttpResponse, target: ImageTarget, *, start: int, end: int) -> bytes:
    if response.status == PARTIAL:
        return _partial(response, target, start=start, end=end)
    if response.status == OK:  # a server without ranges: the whole image came
        if len(response.body) != target.length:
            raise TargetRefusedError(f"{target.name}: expected {target.length} bytes, found {len(response.body)}")
        return response.body[start:]
    if response.status == NOT_FOUND:
        raise TargetMissingError(f"{target.name}: expected it, found nothing")
    if response.status == RANGE_NOT_SATISFIABLE:
        raise TargetRefusedError(f"{target.name}: expected {target.length} bytes, found fewer")
    raise unexpected(target.name, response, expected=PARTIAL)


def _partial(response: HttpResponse, target: ImageTarget, *, start: int, end: int) -> bytes:
    expected = f"bytes {start}-{end - 1}/{target.length}"
    found = response.headers.get("content-range", "")
    if found != expected or len(response.body) != end - start:
        raise TargetRefusedError(f"{target.name}: expected {expected}, found {found} with {len(response.body)} bytes")
    return response.body


def verify_spare(machine: Machine, target: ImageTarget, *, package_keys: Sequence[ec.EllipticCurvePublicKey]) -> None:
    """Verify the whole image in the spare, as the module's docstring says.

    Raises:
        TargetRefusedError: step 1.
        PackageRefusedError: steps 2 or 3.
    """
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
