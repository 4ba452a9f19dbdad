"""How a device gets in and stays in: attestation, and the connections that its certificate opens.

A device that is let in for updates alone holds no MQTT connection: what waits in the link's queue stays there until
the device has full access again.
"""

from dataclasses import dataclass
from datetime import datetime

from device_sim.hardware.ports import DeviceMachine
from device_sim.network.attestation import Admission
from device_sim.network.ports import HttpTransport, LinkCounts, LinkEvents, MqttLink, Session, Sessions
from device_sim.runtime.trust import Trust
from protocol.identity import Access
from protocol.voucher import Voucher

NOTHING_SENT = LinkCounts(sent=0, acknowledged=0, dropped=0, waiting=0)


@dataclass(frozen=True, slots=True)
class Validity:
    """How long a certificate lasts, and how far it reaches.

    Attributes:
        access: everything, or updates alone.
        not_after: UTC, aware.
        half_seconds: half of what is left of it, by the device's clock.
    """

    access: Access
    not_after: datetime
    half_seconds: float


class ServiceAccess:
    """One device's way to its service.

    Args:
        machine: has booted.
        voucher: in force.
        trust: proves the device.
        network: gives connections.
        events: of the MQTT link.
    """

    def __init__(
        self, machine: DeviceMachine, voucher: Voucher, *, trust: Trust, network: Sessions, events: LinkEvents
    ) -> None:
        self._machine = machine
        self._voucher = voucher
        self._trust = trust
        self._network = network
        self._events = events
        self._session: Session | None = None
        self._reach: Access | None = None

    @property
    def reach(self) -> Access | None:
        """How far the certificate in force reaches; None before the first attestation."""
        return self._reach

    @property
    def session(self) -> Session:
        """The connections; only after `attest`."""
        if self._session is None:
            raise AssertionError("a device talks to its service only after it was attested")
        return self._session

    @property
    def transport(self) -> HttpTransport:
        """HTTPS to the device API."""
        return self.session.transport

    @property
    def link(self) -> MqttLink:
        """MQTT to the gateway."""
        return self.session.link

    @property
    def counts(self) -> LinkCounts:
        """What was sent over MQTT so far."""
        return NOTHING_SENT if self._session is None else self._session.link.counts

    def attest(self) -> Validity:
        """Attest, keep the new certificate and connect with it.

        Raises:
            AttestationRefusedError: the service refused the device.
            DeviceSimError: it was not reached, or its answer was not to be trusted; the old certificate stays.
        """
        admission = self._trust.attest()
        self._connect(admission)
        left = admission.not_after - self._machine.clock.now()
        return Validity(admission.access, admission.not_after, left.total_seconds() / 2)

    def _connect(self, admission: Admission) -> None:
        """Show the new certificate, and have the MQTT connection that it is good for."""
        if self._session is None:
            self._session = self._network.session(
                self._machine.device_id, self._voucher, admission.credential, self._events
            )
        else:
            self._session.renew(admission.credential)
        before, self._reach = self._reach, admission.access
        if self._reach is Access.UPDATE_ONLY:
            self._session.link.stop()
        elif before is Access.FULL:
            self._session.link.reconnect()
        else:
            self._session.link.start()

    def drain(self, timeout_seconds: float) -> None:
        """Wait, within a time, until the gateway has acknowledged what was sent."""
        if self._session is not None and self._session.link.connected:
            self._session.link.drain(timeout_seconds)

    def let_go(self) -> None:
        """Close the HTTPS connection until it is needed again."""
        if self._session is not None:
            self._session.transport.close()

    def close(self) -> None:
        """End the connections for good."""
        if self._session is not None:
            self._session.close()
