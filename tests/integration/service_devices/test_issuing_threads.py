"""Where certificates are signed: a token is waited for in a thread, a key in memory signs in the event loop's."""

import asyncio
import threading
from datetime import timedelta

from typing_extensions import override

from pki.csr import VerifiedCsr
from protocol.identity import Access
from protocol.signing import SoftwareSigner
from service.adapters.certificates import PkiIssuer, load_authorities
from service.application.identity import IssuedCertificate
from tests.integration.service_devices.device_world import DeviceWorld, in_background

PATIENCE = 30  # seconds


class TokenIssuer(PkiIssuer):
    """As with a key in a token, which signs when `is_free` is set."""

    def __init__(self, world: DeviceWorld) -> None:
        super().__init__(load_authorities(world.folders.service), world.clock, lifetime=timedelta(days=1))
        self.is_free = threading.Event()
        self.is_asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    @override
    def signs_here(self) -> bool:
        return False

    @override
    def issue(
        self, request: VerifiedCsr, *, access: Access = Access.FULL, lifetime: timedelta | None = None
    ) -> IssuedCertificate:
        self._loop.call_soon_threadsafe(self.is_asked.set)
        if not self.is_free.wait(PATIENCE):
            raise TimeoutError("token: expected the event loop to go on meanwhile, found it waiting")
        return super().issue(request, access=access, lifetime=lifetime)


class MemoryIssuer(PkiIssuer):
    """Notes the thread that it issues in."""

    thread = 0

    @override
    def issue(
        self, request: VerifiedCsr, *, access: Access = Access.FULL, lifetime: timedelta | None = None
    ) -> IssuedCertificate:
        self.thread = threading.get_ident()
        return super().issue(request, access=access, lifetime=lifetime)


async def test_event_loop_goes_on_while_a_token_signs(world: DeviceWorld) -> None:
    """Whoever else is connected is served meanwhile."""
    issuer, device = TokenIssuer(world), await world.claimed()
    attestation = world.another_attestation(issuer=issuer)
    request = device.request(await world.nonce(device), SoftwareSigner.generate())
    async with in_background(attestation.run()):
        answer = asyncio.create_task(attestation.attest(device.peer, request))
        async with asyncio.timeout(PATIENCE):
            await issuer.is_asked.wait()
        issuer.is_free.set()
        assert "BEGIN CERTIFICATE" in (await answer).certificate_chain


async def test_key_in_memory_signs_in_the_thread_of_the_event_loop(world: DeviceWorld) -> None:
    """A second thread would contend with it for the interpreter, and both would be slower."""
    authorities = load_authorities(world.folders.service)
    issuer, device = MemoryIssuer(authorities, world.clock, lifetime=timedelta(days=1)), await world.claimed()
    attestation = world.another_attestation(issuer=issuer)
    request = device.request(await world.nonce(device), SoftwareSigner.generate())
    async with in_background(attestation.run()):
        await attestation.attest(device.peer, request)
    assert issuer.thread == threading.get_ident()
