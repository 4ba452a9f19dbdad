"""What a device believes of its catalog, and how it proves itself to it: made anew at each boot, from the voucher.

`CatalogTrust` is the real one: keys, certificates and signed metadata. A virtual device has another, in which what
was signed is taken as said.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from device_sim.hardware.installed import InstalledImage
from device_sim.hardware.machine import Machine
from device_sim.hardware.ports import DeviceMachine
from device_sim.network.attestation import Admission, Attester
from device_sim.network.ports import HttpTransport, Network
from device_sim.update.download import verify_spare
from device_sim.update.uptane import Floors, ImageTarget, Instruction, UptaneClient
from protocol.geometry import Slot
from protocol.voucher import Voucher

LDEVID = "ldevid"  # name in secure storage: key and chain, PEM


class Trust(Protocol):
    """A device's trust in one catalog."""

    def attest(self) -> Admission:
        """Attest, and keep the new certificate.

        Raises:
            AttestationRefusedError: the service refused the device.
            DeviceSimError: it was not reached, or its answer was not to be trusted; the old certificate stays.
        """

    def check(
        self, transport: HttpTransport, now: datetime, *, floors: Floors, installed: Mapping[Slot, InstalledImage]
    ) -> Instruction:
        """Verify what the Director wants; see `UptaneClient.check`."""

    def verify(
        self, machine: DeviceMachine, target: ImageTarget, *, package_keys: Sequence[ec.EllipticCurvePublicKey]
    ) -> None:
        """Judge the whole image in the spare; see `verify_spare`."""


class CatalogTrust:
    """Trust by the keys that a voucher names.

    Args:
        machine: has booted.
        network: gives the connection for attestation.
        voucher: in force.
    """

    def __init__(self, machine: Machine, network: Network, voucher: Voucher) -> None:
        self._machine = machine
        self._network = network
        self._voucher = voucher
        self._uptane = UptaneClient(machine.device_id, voucher, machine.storage)

    def attest(self) -> Admission:
        """See `Trust.attest`."""
        transport = self._network.attestation(self._machine, self._voucher)
        try:
            keys = self._uptane.timestamp_keys()
            admission = Attester(self._machine, self._voucher, transport, keys).attest()
        finally:
            transport.close()
        self._machine.storage.put(LDEVID, admission.credential.to_pem())
        return admission

    def check(
        self, transport: HttpTransport, now: datetime, *, floors: Floors, installed: Mapping[Slot, InstalledImage]
    ) -> Instruction:
        """See `Trust.check`."""
        return self._uptane.check(transport, now, floors=floors, installed=installed)

    def verify(
        self, machine: DeviceMachine, target: ImageTarget, *, package_keys: Sequence[ec.EllipticCurvePublicKey]
    ) -> None:
        """See `Trust.verify`."""
        verify_spare(machine, target, package_keys=package_keys)
