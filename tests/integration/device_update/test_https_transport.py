"""HTTPS against a real TLS peer that behaves, and against peers that do not."""

import socket
import ssl
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from device_sim.network.https import MAX_ERROR_BYTES, HttpLimits, HttpsTransport
from device_sim.network.ports import EndlessDataError, FalseServerError, SlowRetrievalError, UnreachableError
from device_sim.network.tls import Credential, client_context, show_credential
from device_sim.network.wire import WireMeter
from protocol.signing import SoftwareSigner
from tests.integration.device_update.tls_peer import Answer, TlsPeer, response, send, send_and_close, tls_peer
from tests.integration.gateway.gateway_certificates import CertificateBuilder
from tests.integration.gateway.gateway_certificates import Credential as FileCredential

PATH = "/device/v1/poll"
QUICK = HttpLimits(connect_seconds=5, request_seconds=0.3)


@pytest.fixture
def certificates(tmp_path: Path) -> CertificateBuilder:
    return CertificateBuilder(tmp_path)


def credential(files: FileCredential) -> Credential:
    key = load_pem_private_key(files.key_file.read_bytes(), password=None)
    return Credential(SoftwareSigner(key), files.certificate_file.read_bytes())  # type: ignore[arg-type]  # P-256


def context(certificates: CertificateBuilder, name: str = "device") -> ssl.SSLContext:
    trusting = client_context(certificates.root.certificate.public_bytes(Encoding.DER))
    show_credential(trusting, credential(certificates.device(name)))
    return trusting


def transport(certificates: CertificateBuilder, peer: TlsPeer, limits: HttpLimits | None = None) -> HttpsTransport:
    return HttpsTransport(peer.url, context(certificates), monotonic=time.monotonic, limits=limits)


def test_connection_is_kept_and_shows_the_certificate(certificates: CertificateBuilder) -> None:
    """Many requests, one handshake, and the peer sees who asks."""
    device = certificates.device()
    with tls_peer(certificates, send(response(b"first")), send(response(b"second"))) as peer:
        client = transport(certificates, peer)
        bodies = [client.request("GET", PATH, max_bytes=10).body for _ in range(2)]
        client.close()
    assert bodies == [b"first", b"second"]
    assert peer.connections == 1
    assert peer.clients[0] is not None
    assert device.device_id.encode() in peer.clients[0]


def test_body_of_an_error_is_read_and_the_connection_stays(certificates: CertificateBuilder) -> None:
    """A 404 with a body does not cost a handshake."""
    answers = (send(response(b"no such root", "404 Not Found")), send(response(b"ok")))
    with tls_peer(certificates, *answers) as peer:
        client = transport(certificates, peer)
        missing = client.request("GET", PATH, max_bytes=100)
        client.request("GET", PATH, max_bytes=100)
        client.close()
    assert (missing.status, missing.body, peer.connections) == (404, b"no such root", 1)


def test_post_sends_json_and_headers(certificates: CertificateBuilder) -> None:
    """The body is announced as what it is, and no compression is asked for."""

    def read_body(connection: ssl.SSLSocket) -> None:
        assert connection.recv(2) == b"{}"
        connection.sendall(b"HTTP/1.1 204 No Content\r\nX-Case: Kept\r\n\r\n")

    with tls_peer(certificates, read_body) as peer:
        client = transport(certificates, peer)
        answer = client.request("POST", PATH, max_bytes=0, body=b"{}", headers={"X-Extra": "1"})
        client.close()
    assert (answer.status, answer.body, answer.headers["x-case"]) == (204, b"", "Kept")
    head = peer.requests[0].decode()
    for line in ("Content-Type: application/json", "Accept-Encoding: identity", "X-Extra: 1", f"POST {PATH} HTTP/1.1"):
        assert line in head


def test_connection_that_the_server_closed_is_opened_anew(certificates: CertificateBuilder) -> None:
    """A keep-alive that timed out on the server costs one more handshake, not an error."""
    with tls_peer(certificates, send_and_close(response(b"one")), send(response(b"two"))) as peer:
        client = transport(certificates, peer)
        assert client.request("GET", PATH, max_bytes=10).body == b"one"
        assert client.request("GET", PATH, max_bytes=10).body == b"two"
        client.close()
    assert peer.connections == 2


def test_chunked_body_is_read_to_its_end(certificates: CertificateBuilder) -> None:
    """A streamed answer ends where it says."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with tls_peer(certificates, send(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")) as peer:
        client = transport(certificates, peer)
        assert client.request("GET", PATH, max_bytes=5).body == b"abcde"
        client.close()


def _chunks_without_end(connection: ssl.SSLSocket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"400\r\n" + bytes(1024) + b"\r\n")


@pytest.mark.parametrize(
    "answer", [send(response(bytes(11))), _chunks_without_end], ids=["announced", "chunks without end"]
)
def test_body_over_its_limit_is_cut(certificates: CertificateBuilder, answer: Answer) -> None:
    """Not a byte more than the limit is kept, whatever the server announces."""
    with tls_peer(certificates, answer) as peer:
        client = transport(certificates, peer)
        with pytest.raises(EndlessDataError, match="expected at most 10 bytes, found more"):
            client.request("GET", PATH, max_bytes=10)
        client.close()


@pytest.mark.parametrize("status", ["404 Not Found", "503 Service Unavailable"])
def test_long_page_of_an_error_is_an_error_still(certificates: CertificateBuilder, status: str) -> None:
    """Its beginning says what the service means; the rest is left, and the next request connects anew."""
    answers = (send(response(bytes(2 * MAX_ERROR_BYTES), status)), send(response(b"ok")))
    with tls_peer(certificates, *answers) as peer:
        client = transport(certificates, peer)
        page = client.request("GET", PATH, max_bytes=10)
        assert client.request("GET", PATH, max_bytes=10).body == b"ok"
        client.close()
    assert (page.status, len(page.body), peer.connections) == (int(status[:3]), MAX_ERROR_BYTES, 2)


def _trickle(start: bytes) -> Answer:
    def answer(connection: ssl.SSLSocket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(b"a")
            time.sleep(0.05)  # the peer's own slowness, which is what is tested

    return answer


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Slow: "],
    ids=["body", "header"],
)
def test_trickling_answer_ends_at_its_deadline(certificates: CertificateBuilder, start: bytes) -> None:
    """A byte now and then keeps no device: the deadline is for the whole answer."""
    with tls_peer(certificates, _trickle(start)) as peer:
        client = transport(certificates, peer, QUICK)
        with pytest.raises(SlowRetrievalError, match=r"expected the whole answer within 0\.3 s"):
            client.request("GET", PATH, max_bytes=10_000)
        client.close()


def test_silent_server_ends_at_the_deadline(certificates: CertificateBuilder) -> None:
    """A server that answers nothing is as slow as one can be."""
    with tls_peer(certificates, lambda connection: connection.recv(1)) as peer:  # type: ignore[arg-type]  # what it returns is not looked at
        client = transport(certificates, peer, QUICK)
        with pytest.raises(SlowRetrievalError, match="found less"):
            client.request("GET", PATH, max_bytes=10)
        client.close()


@pytest.mark.parametrize(
    "answer",
    [
        send_and_close(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        send_and_close(b""),
        send_and_close(b"not HTTP at all\r\n\r\n"),
    ],
    ids=["truncated", "nothing", "no HTTP"],
)
def test_broken_answer_is_no_answer(certificates: CertificateBuilder, answer: Answer) -> None:
    """Half an answer counts as none, and the next request starts on a fresh connection."""
    with tls_peer(certificates, answer, send(response(b"ok"))) as peer:
        client = transport(certificates, peer)
        with pytest.raises(UnreachableError, match="expected an answer, found"):
            client.request("GET", PATH, max_bytes=100)
        assert client.request("GET", PATH, max_bytes=100).body == b"ok"
        client.close()


def test_server_of_another_root_is_refused(certificates: CertificateBuilder, tmp_path: Path) -> None:
    """Eavesdropping: only the voucher's root counts, whatever the host trusts; nobody else hears anything."""
    folder = tmp_path / "other"
    folder.mkdir()
    with tls_peer(certificates, send(response(b"ok"))) as peer:
        client = HttpsTransport(peer.url, context(CertificateBuilder(folder)), monotonic=time.monotonic)
        with pytest.raises(FalseServerError, match="CERTIFICATE_VERIFY_FAILED"):
            client.request("GET", PATH, max_bytes=100)
    assert peer.requests == []


def test_server_of_another_name_is_refused(certificates: CertificateBuilder) -> None:
    """A certificate of the right root for another host is not this server's."""
    with tls_peer(certificates, send(response(b"ok")), server=certificates.server("127.0.0.9")) as peer:
        client = transport(certificates, peer)
        with pytest.raises(FalseServerError, match="IP address mismatch"):
            client.request("GET", PATH, max_bytes=100)
    assert peer.requests == []


@pytest.fixture
def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"https://127.0.0.1:{listener.getsockname()[1]}"


def test_nobody_there_is_unreachable(certificates: CertificateBuilder, closed_port: str) -> None:
    """A refused connection is worth trying again later, so it has its own error."""
    client = HttpsTransport(closed_port, context(certificates), monotonic=time.monotonic)
    with pytest.raises(UnreachableError, match="ConnectionRefusedError"):
        client.request("GET", PATH, max_bytes=100)


def test_connection_after_another_resumes_its_session_and_every_byte_is_counted(
    certificates: CertificateBuilder,
) -> None:
    """Closing what is not needed costs no signatures; the second handshake is shorter, and both are on the meter."""
    meter = WireMeter()
    with tls_peer(certificates, send(response(b"ok"))) as peer:
        client = HttpsTransport(peer.url, context(certificates), monotonic=time.monotonic, meter=meter)
        totals = [0]
        for _ in range(2):
            client.request("GET", PATH, max_bytes=100)
            client.close()
            totals.append(meter.bytes)
    first, second = totals[1], totals[2] - totals[1]
    assert 0 < second < first
    assert meter.requests == 2


def test_renewed_certificate_is_shown_after_the_next_handshake(certificates: CertificateBuilder) -> None:
    """One context serves both certificates, one after the other."""
    shared = context(certificates, "first")
    second = certificates.device("second")
    with tls_peer(certificates, send(response(b"ok"))) as peer:
        client = HttpsTransport(peer.url, shared, monotonic=time.monotonic)
        client.request("GET", PATH, max_bytes=100)
        show_credential(shared, credential(second))
        client.renew()
        client.request("GET", PATH, max_bytes=100)
        client.close()
    assert peer.clients[1] is not None
    assert second.device_id.encode() in peer.clients[1]
