"""Bytes on the wire of one device, in both directions: real ones, below TLS.

The kernel counts the bytes of each TCP connection, TLS handshakes and records included, TCP/IP headers and
retransmissions not (tcp(7), TCP_INFO: `tcpi_bytes_sent` without `tcpi_bytes_retrans`, `tcpi_bytes_received`). Where a
kernel does not, nothing is counted: an estimate would be taken for a measurement.
"""

import socket
import struct
import threading

# Offsets in struct tcp_info (include/uapi/linux/tcp.h): received since Linux 4.1, sent and retransmitted since 4.19.
_RECEIVED, _SENT, _REPEATED = 128, 200, 208
_INFO_BYTES = 216
_TCP_INFO = getattr(socket, "TCP_INFO", None)


class WireMeter:
    """What one device sent and received; any thread may count.

    Attributes:
        sent: bytes.
        received: bytes.
        requests: HTTP requests.
    """

    def __init__(self) -> None:
        self.sent = self.received = self.requests = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes in both directions."""
        return self.sent + self.received

    def add(self, *, sent: int = 0, received: int = 0, requests: int = 0) -> None:
        """Count."""
        with self._lock:
            self.sent += sent
            self.received += received
            self.requests += requests


class ConnectionCount:
    """Carries what the kernel counted of one connection over to a meter, each byte once.

    Args:
        connection: a TCP socket, or TLS over one.
        meter: counts the device's bytes.
    """

    def __init__(self, connection: socket.socket, meter: WireMeter) -> None:
        self._connection = connection
        self._meter = meter
        self._sent = self._received = 0

    def carry(self) -> None:
        """Count what came since the last time; for the last time before the socket is closed."""
        if self._connection.fileno() < 0:
            return
        sent, received = _counted(self._connection)
        self._meter.add(sent=sent - self._sent, received=received - self._received)
        self._sent, self._received = sent, received


def _counted(connection: socket.socket) -> tuple[int, int]:
    if _TCP_INFO is None:
        return 0, 0
    info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO_BYTES)
    if len(info) < _INFO_BYTES:
        return 0, 0
    sent, repeated = struct.unpack_from("=Q", info, _SENT)[0], struct.unpack_from("=Q", info, _REPEATED)[0]
    return sent - repeated, struct.unpack_from("=Q", info, _RECEIVED)[0]
