"""A TLS server on loopback whose every answer a test writes byte by byte, and the certificates for it."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.integration.gateway.gateway_certificates import CertificateBuilder, Credential

Answer = Callable[[ssl.SSLSocket], None]


@dataclass
class TlsPeer:
    """A server that hands its n-th request to the n-th answer; the last answer serves all that follow.

    Attributes:
        connections: handshakes that were finished.
        requests: heads of the requests, in order.
        subjects: client certificates, DER.
    """

    context: ssl.SSLContext
    answers: list[Answer]
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    clients: list[bytes | None] = field(default_factory=list)
    _listener: socket.socket = field(init=False)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(plain,))
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _serve(self, plain: socket.socket) -> None:
        try:
            with self.context.wrap_socket(plain, server_side=True) as connection:
                self.connections += 1
                self.clients.append(connection.getpeercert(binary_form=True))
                self._answer_all(connection)
        except OSError:
            plain.close()

    def _answer_all(self, connection: ssl.SSLSocket) -> None:
        while head := _read_head(connection):
            self.requests.append(head)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            answer(connection)


def _read_head(connection: ssl.SSLSocket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        head += byte
    return head


@contextmanager
def tls_peer(certificates: CertificateBuilder, *answers: Answer, server: Credential | None = None) -> Iterator[TlsPeer]:
    """Run a server for 127.0.0.1 that asks for client certificates."""
    own = server or certificates.server("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate_file, own.key_file)
    context.load_verify_locations(cafile=certificates.root_file)
    context.verify_mode = ssl.CERT_REQUIRED
    peer = TlsPeer(context, list(answers))
    thread = threading.Thread(target=peer.accept)
    thread.start()
    try:
        yield peer
    finally:
        peer.close()
        thread.join()
        peer.join()


def send(content: bytes) -> Answer:
    """An answer that is sent as it is."""
    return lambda connection: connection.sendall(content)


def send_and_close(content: bytes) -> Answer:
    """An answer after which the server closes the connection."""

    def answer(connection: ssl.SSLSocket) -> None:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_RDWR)

    return answer


def response(body: bytes, status: str = "200 OK") -> bytes:
    """A whole response."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
