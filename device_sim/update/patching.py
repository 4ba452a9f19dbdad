"""How an image comes into the spare: by a patch from what the slot holds, or whole.

A patch is fetched in small ranges and applied sector by sector. What the spare holds says how far it got, so a cut at
any flash operation costs one group of the patch at most. The decoder's memory is counted in `protocol.delta`.

A patch is signed by an online key alone, so it is only ever a way to bytes whose hash is known: the image that it made
is hashed here, and verified as any other afterwards. Where a patch is missing, wrong or of no use, in whatever way, the
full image is fetched. None is tried between two images where one was refused, none that did not arrive twice, and none
where bytes of the full image are in the spare: nobody can make a device drop those by offering patch after patch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from device_sim.errors import DeviceSimError
from device_sim.hardware.ports import DeviceMachine
from device_sim.network.ports import HttpTransport, NetworkError, SlowRetrievalError, UnreachableError
from device_sim.update.download import Ranged, begin_spare, download, fetch_range
from device_sim.update.errors import UpdateError
from device_sim.update.progress import Progress
from device_sim.update.uptane import ImageTarget, PatchTarget
from protocol.delta import PATCH_PIECE_BYTES, PatchError, PatchHeader, apply_patch, read_header

PATCHED = "update/patched"  # in secure storage: the image of which the spare may hold bytes that a patch made
REFUSED = "update/refused-patches"  # names of patches that were of no use, one a line: each says from what to what
MAX_REFUSED = 8  # the oldest makes room
MAX_FAILURES = 2  # of patches that do not arrive, in one action


class UselessPatchError(DeviceSimError):
    """The patch does not lead to the image; the full image does."""


@dataclass(slots=True)
class Fetch:
    """Fetches one image.

    Args:
        machine: its spare is free, or holds a part of this image.
        transport: with the operational certificate.
        target: from `UptaneClient.check`.
        progress: counts patches that do not arrive.
        tell: is told which way is taken, and why; nothing is said where no other way is known.

    Attributes:
        received: bytes of patch and image that came since this began; what went around them is not counted.
    """

    machine: DeviceMachine
    transport: HttpTransport
    target: ImageTarget
    progress: Progress
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
            self.tell("")
            return None
        refusal = self._objection(patch)
        self.tell(f"full image, no patch: {refusal}" if refusal else f"patch of {patch.length} bytes")
        return None if refusal else patch

    def _objection(self, patch: PatchTarget) -> str:
        if patch.refusal or not patch.sha256:
            return patch.refusal or "it has no SHA-256"
        if patch.length >= self.target.length:
            return f"expected fewer than {self.target.length} bytes, found {patch.length}"
        if patch.name in self._refused():
            return "one was refused before"
        if self.progress.patch_failures >= MAX_FAILURES:
            return f"it did not arrive {MAX_FAILURES} times"
        if begin_spare(self.machine, self.target) and not self._may_hold_patched():
            return "bytes of the full image are there"
        return ""

    def _by_patch(self, patch: PatchTarget) -> Iterator[None]:
        offset = begin_spare(self.machine, self.target)
        if offset == self.target.length:
            return
        try:
            yield from self._apply(patch, offset)
        except (UselessPatchError, UpdateError, PatchError) as error:
            self._refuse(patch, str(error))
        except NetworkError as error:
            self._give_up_or_raise(error)

    def _give_up_or_raise(self, error: NetworkError) -> None:
        self.progress.count_patch_failure()
        if self.progress.patch_failures >= MAX_FAILURES:
            self.tell(f"full image, patch given up: {error}")
        elif isinstance(error, SlowRetrievalError):  # it ends no update: the image may come faster
            raise UnreachableError(str(error)) from error
        else:
            raise error

    def _apply(self, patch: PatchTarget, offset: int) -> Iterator[None]:
        source = _Source(self, Ranged(patch.name, patch.sha256, patch.length))
        header = read_header(source.read, patch.length)
        self._check(header)
        self.machine.storage.put(PATCHED, self.target.sha256.encode())
        for piece in apply_patch(header, patch=source.read, old=self._old, start=offset):
            self.machine.spare_write(offset, bytes(piece))  # what the flash programs its pages from
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
        names = [*self._refused(), patch.name][-MAX_REFUSED:]
        self.machine.storage.put(REFUSED, "\n".join(names).encode())
        self.tell(f"full image, patch refused: {reason}")

    def _refused(self) -> list[str]:
        return (self.machine.storage.get(REFUSED) or b"").decode().splitlines()

    def _drop(self) -> None:
        self.machine.spare_drop()
        self.machine.storage.put(PATCHED, b"")

    def _download(self) -> Iterator[None]:
        if self._may_hold_patched() and not begin_spare(self.machine, self.target):
            self.machine.storage.put(PATCHED, b"")  # the spare is empty: all that comes into it is of the full image
        for count in download(self.machine, self.transport, self.target):
            self.received += count
            yield

    def _may_hold_patched(self) -> bool:
        return self.machine.storage.get(PATCHED) == self.target.sha256.encode()

    def _is_whole(self) -> bool:
        return self.machine.spare_digest(self.target.length) == self.target.sha256


class _Source:
    """A patch on the service, read through one buffer of `PATCH_PIECE_BYTES`."""

    def __init__(self, fetch: Fetch, ranged: Ranged) -> None:
        self._fetch = fetch
        self._ranged = ranged
        self._begin = self._end = 0
        self._buffer = memoryview(bytearray(PATCH_PIECE_BYTES))

    def read(self, offset: int, length: int) -> memoryview:
        """Return what the buffer has from an offset, filled anew where it has nothing."""
        if not self._begin <= offset < self._end:
            end = min(offset + PATCH_PIECE_BYTES, self._ranged.length)
            answer = fetch_range(self._fetch.transport, self._ranged, start=offset, end=end)
            self._fetch.received += len(answer)
            self._begin, self._end = offset, end
            self._buffer[: end - offset] = answer[: end - offset]
        return self._buffer[offset - self._begin : min(offset + length, self._end) - self._begin]
