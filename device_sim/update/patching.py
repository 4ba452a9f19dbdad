"""How an image comes into the spare: by a patch from what the slot holds, or whole.

A patch is fetched in small ranges and applied sector by sector. What the spare holds says how far it got, so a cut at
any flash operation costs one group of the patch at most. The decoder's memory is counted in `protocol.delta`.

A patch is signed by an online key alone, so it is only ever a way to bytes whose hash is known: the image that it made
is hashed here, and verified as any other afterwards. Where a patch is missing, wrong or of no use, in whatever way, the
full image is fetched; a patch that was refused is not tried again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from device_sim.errors import DeviceSimError
from device_sim.hardware.machine import Machine
from device_sim.network.ports import HttpTransport, UnexpectedResponseError
from device_sim.update.download import Ranged, begin_spare, download, fetch_range
from device_sim.update.errors import UpdateError
from device_sim.update.uptane import ImageTarget, PatchTarget
from protocol.delta import PATCH_PIECE_BYTES, PatchError, PatchHeader, apply_patch, read_header
from protocol.image import digest_of

PATCHED = "update/patched"  # in secure storage: the image of which the spare may hold bytes that a patch made
REFUSED = "update/refused-patch"  # the last patch that was of no use


class UselessPatchError(DeviceSimError):
    """The patch does not lead to the image; the full image does."""


@dataclass(slots=True)
class Fetch:
    """Fetches one image.

    Args:
        machine: its spare is free, or holds a part of this image.
        transport: with the operational certificate.
        target: from `UptaneClient.check`.
        tell: is told which way is taken, and why.

    Attributes:
        received: bytes of patch and image that came since this began; what went around them is not counted.
    """

    machine: Machine
    transport: HttpTransport
    target: ImageTarget
    tell: Callable[[str], None]
    received: int = field(default=0, init=False)

    def run(self) -> Iterator[None]:
        """Fill the spare, one range per step.

        Raises:
            NetworkError: the service was not reached, or slowly; the next run goes on where this one ended.
            UpdateError: the service does not send the full image, or there is no room for it.
        """
        patch = self._usable_patch()
        if patch is not None:
            yield from self._by_patch(patch)
        yield from self._download()
        if self._may_hold_patched() and not self._is_whole():
            self.tell("full image: a patch that is no longer offered had made other bytes")
            self._drop()
            yield from self._download()

    def _usable_patch(self) -> PatchTarget | None:
        patch = self.target.patch
        if patch is None:
            return None
        refusal = patch.refusal or ("" if patch.sha256 else "it has no SHA-256")
        if patch.sha256 and self.machine.storage.get(REFUSED) == patch.sha256.encode():
            refusal = "it was refused before"
        if not refusal and patch.length >= self.target.length:
            refusal = f"expected fewer than {self.target.length} bytes, found {patch.length}"
        self.tell(f"full image, no patch: {refusal}" if refusal else f"patch of {patch.length} bytes")
        return None if refusal else patch

    def _by_patch(self, patch: PatchTarget) -> Iterator[None]:
        offset = begin_spare(self.machine, self.target)
        if offset == self.target.length:
            return
        try:
            yield from self._apply(patch, offset)
        except (UselessPatchError, UpdateError, PatchError) as error:
            self._refuse(patch, str(error))
        except UnexpectedResponseError as error:  # the service has the patch, but cannot send it now
            self.tell(f"full image: {error}")

    def _apply(self, patch: PatchTarget, offset: int) -> Iterator[None]:
        source = _Source(self, Ranged(patch.name, patch.sha256, patch.length))
        header = read_header(source.read, patch.length)
        self._check(header)
        self.machine.storage.put(PATCHED, self.target.sha256.encode())
        for piece in apply_patch(header, patch=source.read, old=self._old, start=offset):
            self.machine.spare_write(offset, piece)
            offset += len(piece)
            yield
        if not self._is_whole():
            raise UselessPatchError(f"{patch.name}: expected the image of its name, found another")

    def _check(self, header: PatchHeader) -> None:
        held = self.machine.installed()[self.target.slot]
        expected = (held.digest, self.target.sha256, self.target.length)
        found = (header.old_sha256, header.new_sha256, header.new_length)
        if found != expected:
            raise UselessPatchError(f"patch: expected one between {expected}, found {found}")

    def _old(self, offset: int, length: int) -> bytes:
        old = self.machine.home_read(self.target.slot, offset, length)
        if len(old) != length:
            raise UselessPatchError(f"patch: expected to read within the old image, found {length} bytes at {offset}")
        return old

    def _refuse(self, patch: PatchTarget, reason: str) -> None:
        # The spare first: after a cut in between the patch is refused once more, and no wrong byte stays.
        self._drop()
        self.machine.storage.put(REFUSED, patch.sha256.encode())
        self.tell(f"full image, patch refused: {reason}")

    def _drop(self) -> None:
        self.machine.spare_drop()
        self.machine.storage.put(PATCHED, b"")

    def _download(self) -> Iterator[None]:
        for count in download(self.machine, self.transport, self.target):
            self.received += count
            yield

    def _may_hold_patched(self) -> bool:
        return self.machine.storage.get(PATCHED) == self.target.sha256.encode()

    def _is_whole(self) -> bool:
        return digest_of(self.machine.spare_read(0, self.target.length)) == self.target.sha256


class _Source:
    """A patch on the service, read through one buffer of `PATCH_PIECE_BYTES`."""

    def __init__(self, fetch: Fetch, ranged: Ranged) -> None:
        self._fetch = fetch
        self._ranged = ranged
        self._begin = 0
        self._buffer = b""

    def read(self, offset: int, length: int) -> bytes:
        """Return what the buffer has from an offset, filled anew where it has nothing."""
        if not self._begin <= offset < self._begin + len(self._buffer):
            end = min(offset + PATCH_PIECE_BYTES, self._ranged.length)
            answer = fetch_range(self._fetch.transport, self._ranged, start=offset, end=end)
            self._fetch.received += len(answer)
            self._begin, self._buffer = offset, answer[: end - offset]
        start = offset - self._begin
        return self._buffer[start : start + length]
