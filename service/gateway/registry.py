"""The connections of this process: one per device, and how many each source holds."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.gateway.limits import Limits

if TYPE_CHECKING:
    from service.gateway.connection import Connection


class Registry:
    """Finds a device's connection and counts sources; used on the event loop only."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_device: dict[str, Connection] = {}
        self._made: set[Connection] = set()
        self._admitting: set[Connection] = set()
        self._sources: Counter[str] = Counter()
        self._open = 0

    @property
    def connected(self) -> int:
        """Admitted devices that are connected."""
        return len(self._by_device)

    @property
    def open(self) -> int:
        """Connections in all, those in TLS handshake included."""
        return self._open

    def reserve(self, source: str) -> bool:
        """Count a new connection from an IP address; False, and not counted, if that is one too many."""
        if (
            self._open >= self._limits.max_connections
            or self._sources[source] >= self._limits.max_connections_per_source
        ):
            return False
        self._open += 1
        self._sources[source] += 1
        return True

    def release(self, source: str) -> None:
        """Count a connection no more."""
        self._open -= 1
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]

    def add(self, connection: "Connection") -> None:
        """Take in a connection whose TLS handshake succeeded."""
        self._made.add(connection)

    def begin_admission(self, connection: "Connection") -> None:
        """Let `kick` find a connection whose admission is being decided."""
        self._admitting.add(connection)

    def admit(self, connection: "Connection") -> "Connection | None":
        """Make this the device's connection and return the older one, which must give way."""
        self._admitting.discard(connection)
        older = self._by_device.get(connection.device_id)
        self._by_device[connection.device_id] = connection
        return older

    def drop(self, connection: "Connection") -> None:
        """Forget a closed connection."""
        self._made.discard(connection)
        self._admitting.discard(connection)
        if self._by_device.get(connection.device_id) is connection:
            del self._by_device[connection.device_id]

    def get(self, device_id: str) -> "Connection | None":
        """Return the device's connection."""
        return self._by_device.get(device_id)

    def of_device(self, device_id: str) -> Sequence["Connection"]:
        """Return the device's connection and those that claim its id while admission is being decided."""
        admitted = self._by_device.get(device_id)
        claiming = [connection for connection in self._admitting if connection.device_id == device_id]
        return claiming if admitted is None else [admitted, *claiming]

    def all(self) -> Sequence["Connection"]:
        """Return the connections past their TLS handshake, admitted or not."""
        return list(self._made)
