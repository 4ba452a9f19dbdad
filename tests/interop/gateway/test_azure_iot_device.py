"""The unmodified azure-iot-device 2.14 with an LDevID as its X.509 certificate.

Its port is 8883 and cannot be changed, so the gateway listens there on 127.0.0.2, which nothing else uses.
"""

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from azure.iot.device import X509, IoTHubDeviceClient, Message

from service.application.messaging import MessageKind
from tests.integration.gateway.gateway_certificates import Credential
from tests.integration.gateway.running_gateway import Backend, RunningGateway, run_gateway

HOST, PORT = "127.0.0.2", 8883

# The SDK makes its context with the deprecated PROTOCOL_TLSv1_2, and leaves closing to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:ssl:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@asynccontextmanager
async def gateway_on_the_fixed_port(backend: Backend) -> AsyncIterator[RunningGateway]:
    try:
        async with run_gateway(backend, host=HOST, port=PORT) as running:
            yield running
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            pytest.fail(f"{HOST}:{PORT} is taken, and azure-iot-device knows no other port: free it")
        raise


def new_client(backend: Backend, credential: Credential) -> IoTHubDeviceClient:
    certificate = X509(  # type: ignore[no-untyped-call]  # the SDK is untyped
        cert_file=str(credential.certificate_file), key_file=str(credential.key_file)
    )
    return IoTHubDeviceClient.create_from_x509_certificate(
        x509=certificate,
        hostname=HOST,
        device_id=credential.device_id,
        server_verification_cert=backend.certificates.root_file.read_text(),
    )


def rich_message() -> Message:
    message = Message(  # type: ignore[no-untyped-call]  # the SDK is untyped
        json.dumps({"two": 2}), message_id="m 2", content_encoding="utf-8", content_type="application/json"
    )
    message.custom_properties["path"] = "a/b+c"
    return message


def send_three(backend: Backend, credential: Credential) -> None:
    client = new_client(backend, credential)
    client.connect()
    client.send_message("one")
    client.send_message(rich_message())
    client.send_message(Message(b"\x00\xff"))  # type: ignore[no-untyped-call]  # as above
    client.shutdown()


async def test_its_messages_are_stored_with_their_properties(backend: Backend) -> None:
    """send_message returns on the PUBACK, so all three are in the log."""
    credential = backend.certificates.device()
    async with gateway_on_the_fixed_port(backend) as running:
        await asyncio.to_thread(send_three, backend, credential)
        stored = await running.telemetry.tail(after_id=0)
    assert [message.payload for message in stored] == [b"one", b'{"two": 2}', b"\x00\xff"]
    assert {(message.device_id, message.kind) for message in stored} == {(credential.device_id, MessageKind.TELEMETRY)}
    assert stored[0].properties == {}
    assert stored[1].properties == {
        "$.mid": "m 2",
        "$.ct": "application/json",
        "$.ce": "utf-8",
        "path": "a/b+c",
    }


def receive_one(
    backend: Backend, credential: Credential, ready: asyncio.Event, loop: asyncio.AbstractEventLoop
) -> bytes:
    client = new_client(backend, credential)
    got: list[Message] = []
    arrived = asyncio.Event()

    def on_message(message: Message) -> None:
        got.append(message)
        loop.call_soon_threadsafe(arrived.set)

    client.on_message_received = on_message
    client.connect()
    loop.call_soon_threadsafe(ready.set)
    asyncio.run_coroutine_threadsafe(arrived.wait(), loop).result(20)
    client.shutdown()
    data = got[0].data
    assert got[0].custom_properties == {"name": "poll"}
    return data if isinstance(data, bytes) else data.encode()


async def test_a_command_reaches_it_as_cloud_to_device_message(backend: Backend) -> None:
    """The command's name is a property, its payload the body."""
    credential = backend.certificates.device()
    async with gateway_on_the_fixed_port(backend) as running:
        ready = asyncio.Event()
        receiving = asyncio.create_task(
            asyncio.to_thread(receive_one, backend, credential, ready, asyncio.get_running_loop())
        )
        await asyncio.wait_for(ready.wait(), 20)
        expires_at = credential.certificate.not_valid_after_utc
        await running.gateway.send_command(credential.device_id, "poll", b"now", expires_at=expires_at)
        assert await receiving == b"now"
