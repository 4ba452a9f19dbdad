"""Makes patches, each in a process of its own; see `service.adapters.patch_process`."""

import asyncio
import sys

from service.adapters import patch_process
from service.application.deltas import PatchMakeError
from service.domain.errors import UnavailableError

SECONDS = 300.0  # for one patch, on a machine that has other things to do


class PatchProcessError(UnavailableError):
    """Somebody ended the process that makes a patch."""


class ProcessPatchMaker:
    """Implements `PatchMaker`: one child at a time, which does not outlive its work."""

    async def make(self, old: bytes, new: bytes) -> bytes:
        """See `PatchMaker.make`."""
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", patch_process.__name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            images = patch_process.LENGTHS.pack(len(old), len(new)) + old + new
            patch, _ = await asyncio.wait_for(child.communicate(images), SECONDS)
        except TimeoutError as error:
            raise PatchMakeError(f"patch: expected one within {SECONDS:g} s, found none") from error
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode is not None and child.returncode < 0:
            raise PatchProcessError(f"patch: expected its process to end, found it ended by signal {-child.returncode}")
        if child.returncode != 0 or not patch:
            raise PatchMakeError(f"patch: expected one, found exit code {child.returncode}")
        return patch
