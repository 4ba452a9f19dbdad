"""The steps of the issuing CA's rollover on a running service, over the operator API."""

import httpx
from cryptography import x509

from pki.authority import chain_pem
from pki.ceremony_renewal import known_issuing_cas
from pki.online import load_certificate
from pki.rollover import sign_generation
from protocol.document import parse_document
from protocol.messages import PollReply
from tests.attesting_device import AttestingDevice
from tests.integration.gateway.mqtt_peer import CONNACK_OK, connect_packet
from tests.live_service import Credential, LiveService

PATH = "/pki/issuing-cas"


async def states(live: LiveService) -> list[str]:
    answer = await live.operator.get(PATH)
    return [one["state"] for one in answer.raise_for_status().json()["items"]]


async def signed(live: LiveService) -> tuple[int, str]:
    """Request a generation and let the offline root sign it."""
    requested = (await live.operator.post(PATH)).raise_for_status().json()
    folders, now = live.folders, live.clock.now()
    certificate = sign_generation(
        requested["csr"].encode(),
        requested["number"],
        unverified_predecessor=load_certificate(folders.service / "certificates" / "issuing-ca.pem"),
        known=known_issuing_cas(folders.operator),
        root=folders.root.certificate,
        root_signer=folders.keys.load("root"),
        now=now,
    )
    return requested["number"], chain_pem([certificate]).decode()


async def do(live: LiveService, path: str, body: object = None, *, method: str | None = None) -> None:
    method = method or ("POST" if body is None else "PUT")
    (await live.operator.request(method, f"{PATH}/{path}", json=body)).raise_for_status()


async def roll_over(live: LiveService) -> None:
    number, certificate = await signed(live)
    await do(live, f"{number}/certificate", {"certificate": certificate})
    await do(live, f"{number}/activate")


def chain_of(credential: Credential) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(credential.chain.encode())


async def connects(live: LiveService, device: AttestingDevice, credential: Credential) -> None:
    """By HTTPS and by MQTT."""
    async with live.https(device, credential) as https:
        answer = await https.get("/poll")
        assert answer.status_code == httpx.codes.OK, answer.text
        parse_document(answer.content, PollReply)
    peer = await live.mqtt(device, credential)
    assert await peer.exchange(connect_packet(device.device_id)) == CONNACK_OK
    await peer.close()
