"""A catalog that takes another manufacturer's devices, over real TLS; both roots bear the same name."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from pki.catalog import load_catalog
from pki.errors import ManufacturerError
from pki.manufacturers import TRUST_FILE, Manufacturer, TrustList, sign_trust_list
from pki.online import issuing_authority
from pki.profiles import ldevid, operator_client
from protocol.identity import spki_der
from protocol.signing import SoftwareSigner
from tests.attesting_device import AttestingDevice, client_context
from tests.live_service import Credential, LiveService, live_service
from tests.service_folder import TOKENS, Folders, hold_test_ceremony, make_folders


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Another company, whose ceremony chose the same names."""
    return hold_test_ceremony(tmp_path_factory.mktemp("maker"))


def trust(folders: Folders, maker: Folders, *, signer: SoftwareSigner | None = None) -> None:
    """Put the list of trusted manufacturers into the service's folder, signed by the catalog's root or another."""
    catalog = load_catalog(folders.service / "genesis" / "catalog.json")
    now = maker.root.certificate.not_valid_before_utc
    manufacturer = Manufacturer(
        name="Maker",
        made_at=now,
        root=maker.root.certificate.public_bytes(Encoding.DER),
        factory=maker.factory.certificate.public_bytes(Encoding.DER),
        voucher_key=spki_der(maker.keys.load("voucher").public_key),
        rom_key=spki_der(maker.keys.load("rom").public_key),
    )
    trusted = TrustList(catalog_id=catalog.catalog_id, version=1, made_at=now, manufacturers=(manufacturer,))
    signed = sign_trust_list(trusted, signer or folders.keys.load("root"))
    (folders.service / "certificates" / TRUST_FILE).write_bytes(signed)


@pytest.fixture
async def trusting(tmp_path: Path, maker: Folders) -> AsyncIterator[LiveService]:
    folders = make_folders(tmp_path)
    trust(folders, maker)
    async with live_service(folders) as service:
        yield service


async def test_device_of_a_trusted_manufacturer_is_claimed_attests_and_connects(
    trusting: LiveService, maker: Folders
) -> None:
    """With its own manufacturer's IDevID, and this catalog's LDevID; the catalog's own devices as before."""
    device = AttestingDevice(maker)
    (await trusting.claim(device)).raise_for_status()
    credential = await trusting.attest(device)
    async with trusting.https(device, credential) as https:
        assert (await https.get("/poll")).status_code == httpx.codes.OK
    await trusting.attest(await trusting.claimed())
    listed = (await trusting.operator.get("/catalog/manufacturers")).json()
    assert [(each["name"], len(each["fingerprint"])) for each in listed["items"]] == [("Maker", 64)]


async def test_device_of_a_manufacturer_that_is_not_trusted_gets_nowhere(tmp_path: Path, maker: Folders) -> None:
    """Neither into the registry nor through the handshake."""
    async with live_service(make_folders(tmp_path)) as service:
        device = AttestingDevice(maker)
        answer = await service.claim(device)
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:tinyfleet:problem:certificate-refused")
        async with service.https(device) as https:
            with pytest.raises(httpx.TransportError):
                await https.post("/attest/nonce", json={})
        assert (await service.operator.get("/catalog/manufacturers")).json() == {"items": []}


async def test_other_certificates_of_a_trusted_manufacturer_open_nothing(trusting: LiveService, maker: Folders) -> None:
    """His LDevIDs are not ours, and his operators are nobody here."""
    device = AttestingDevice(maker)
    (await trusting.claim(device)).raise_for_status()
    key, authority = SoftwareSigner.generate(), issuing_authority(maker.service)
    leaf = authority.issue(ldevid(device.device_id, now=trusting.clock.now()), key.public_key)
    foreign = Credential(key, authority.chain_pem(leaf).decode())
    async with trusting.https(device, foreign) as https:
        assert (await https.get("/poll")).status_code == httpx.codes.FORBIDDEN
    admin = maker.root.issue(operator_client("admin", now=trusting.clock.now()), key.public_key)
    context = client_context(trusting.addresses.ca, key, maker.root.chain_pem(admin).decode())
    async with httpx.AsyncClient(verify=context, base_url=trusting.operator.base_url) as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/devices")


async def test_service_does_not_start_with_a_list_that_the_root_did_not_sign(tmp_path: Path, maker: Folders) -> None:
    """Whoever holds the service's folder cannot add a manufacturer."""
    folders = make_folders(tmp_path)
    trust(folders, maker, signer=SoftwareSigner.generate())
    with pytest.raises(ManufacturerError, match="expected a list by the catalog's root key"):
        async with live_service(folders):
            pass


async def test_proof_of_possession_is_an_admins_to_ask_for(trusting: LiveService) -> None:
    """Over HTTPS: the nonce is the common name, and has to fit one."""
    path = "/catalog/proof-of-possession"
    answer = await trusting.operator.post(path, json={"nonce": "n0nce"})
    assert answer.status_code == httpx.codes.OK
    assert answer.json()["certificate"].startswith("-----BEGIN CERTIFICATE-----")
    chains = (await trusting.operator.get("/catalog/authorities")).json()["chains"]
    assert chains == [answer.json()["chain"]]
    for nonce in ("", "a" * 65, "two words", "ü"):
        refused = await trusting.operator.post(path, json={"nonce": nonce})
        assert refused.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    async with httpx.AsyncClient(
        verify=ssl.create_default_context(cafile=str(trusting.addresses.ca)),
        base_url=trusting.operator.base_url,
        headers={"Authorization": f"Bearer {TOKENS['releaser']}"},
    ) as releaser:
        assert (await releaser.post(path, json={"nonce": "n0nce"})).status_code == httpx.codes.FORBIDDEN
    for _ in range(9):
        await trusting.operator.post(path, json={"nonce": "n0nce"})
    limited = await trusting.operator.post(path, json={"nonce": "n0nce"})
    assert (limited.status_code, limited.json()["type"]) == (429, "urn:tinyfleet:problem:proof-rate")
