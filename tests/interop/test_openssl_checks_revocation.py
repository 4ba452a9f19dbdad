"""OpenSSL and curl ask the running service about birth certificates."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from pki.authority import issuer_key_id
from pki.revocation import Reason, Revocation, sign_crl
from tests.attesting_device import AttestingDevice
from tests.live_service import LiveService, live_service
from tests.service_folder import make_folders

NOW = datetime.now(UTC).replace(microsecond=0)  # noqa: TID251 - openssl goes by the wall clock


@dataclass(frozen=True, slots=True)
class World:
    """A service with a good device and a revoked one, and their files for openssl."""

    service: LiveService
    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def factory(self) -> Path:
        return self.service.folders.service / "certificates" / "factory.pem"

    @property
    def root(self) -> Path:
        return self.service.addresses.ca

    @property
    def crl_url(self) -> str:
        certificate = self.service.folders.factory.certificate
        return f"{self.service.addresses.operator_url}/pki/crl/{issuer_key_id(certificate)}.crl"

    @property
    def ocsp_url(self) -> str:
        return f"{self.service.addresses.operator_url}/pki/ocsp"


def serial_of(device: AttestingDevice) -> int:
    return x509.load_pem_x509_certificates(device.idevid_chain.encode())[0].serial_number


async def publish(service: LiveService, number: int, revoked: Mapping[int, Revocation]) -> None:
    factory = service.folders.factory
    crl = sign_crl(factory, number=number, revoked=revoked, now=NOW, lifetime=timedelta(days=30))
    answer = await service.operator.put(f"/pki/crls/{issuer_key_id(factory.certificate)}", content=crl.der)
    answer.raise_for_status()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with live_service(make_folders(tmp_path / "service")) as service:
        good, bad = await service.claimed(), await service.claimed()
        await publish(service, 100, {serial_of(bad): Revocation(NOW, Reason.KEY_COMPROMISE)})
        (tmp_path / "good.pem").write_text(good.idevid_chain)
        (tmp_path / "bad.pem").write_text(bad.idevid_chain)
        yield World(service, tmp_path)


async def run(*command: str | Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace")


async def fetch(url: str) -> bytes:
    """Read without a credential, as everybody may."""
    async with httpx.AsyncClient(verify=False) as client:  # noqa: S501 - what comes is signed
        answer = await client.get(url)
    answer.raise_for_status()
    return answer.content


@pytest.mark.parametrize("nonce", ["-nonce", "-no_nonce"])
async def test_openssl_ocsp_hears_of_both_certificates_at_once(world: World, nonce: str) -> None:
    """One request for two certificates, the answer verified by the delegated certificate's chain."""
    issuer = ("-issuer", world.factory, "-CAfile", world.root, nonce, "-url", world.ocsp_url)
    status, out = await run("openssl", "ocsp", *issuer, "-cert", world.path("good.pem"), "-cert", world.path("bad.pem"))
    assert status == 0, out
    assert "Response verify OK" in out
    assert "good.pem: good" in out
    assert "bad.pem: revoked" in out
    assert "Reason: keyCompromise" in out
    assert "WARNING: no nonce in response" not in out


async def test_openssl_reads_the_answer_to_a_get(world: World) -> None:
    """RFC 6960 appendix A.1: the request in base64 in the path, fetched by curl."""
    request, answer = world.path("request.der"), world.path("answer.der")
    subject = ("-issuer", world.factory, "-cert", world.path("bad.pem"))
    await run("openssl", "ocsp", *subject, "-no_nonce", "-reqout", request)
    encoded = base64.b64encode(request.read_bytes()).decode().replace("/", "%2F").replace("+", "%2B")
    status, out = await run("curl", "-sS", "--cacert", world.root, "-o", answer, f"{world.ocsp_url}/{encoded}")
    assert status == 0, out
    status, out = await run("openssl", "ocsp", *subject, "-no_nonce", "-respin", answer, "-CAfile", world.root)
    assert "Response verify OK" in out, out
    assert "bad.pem: revoked" in out


async def test_openssl_verify_checks_the_list(world: World) -> None:
    """The good one verifies with -crl_check, the revoked one does not."""
    world.path("factory.crl").write_bytes(await fetch(world.crl_url))
    chain = ("-crl_check", "-CAfile", world.root, "-untrusted", world.factory, "-CRLfile", world.path("factory.crl"))
    status, out = await run("openssl", "verify", *chain, world.path("good.pem"))
    assert status == 0, out
    status, out = await run("openssl", "verify", *chain, world.path("bad.pem"))
    assert status != 0
    assert "certificate revoked" in out


async def test_openssl_shows_the_list(world: World) -> None:
    """Version 2, its number, the reason."""
    world.path("factory.crl").write_bytes(await fetch(world.crl_url))
    crl = ("openssl", "crl", "-in", world.path("factory.crl"), "-inform", "DER", "-noout")
    status, out = await run(*crl, "-text")
    assert status == 0, out
    assert "Version 2 (0x1)" in out
    assert "X509v3 CRL Number" in out
    assert "Key Compromise" in out
    pinned = world.path("factory-and-root.pem")
    pinned.write_bytes(world.factory.read_bytes() + world.root.read_bytes())
    _, out = await run(*crl, "-CAfile", pinned)
    assert "verify OK" in out
