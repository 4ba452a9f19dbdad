"""Which of a scenario's kernel faults a device has: a salted hash of its id decides, so a seed repeats."""

import hashlib

from protocol.geometry import Core
from protocol.identity import DeviceId
from protocol.model import ModelCard
from protocol.scenario import KernelFault, Scenario

_ANY_VERSION = "*"


def faults_of(scenario: Scenario, device_id: DeviceId, core: Core) -> tuple[KernelFault, ...]:
    """Return the faults that one core of one device has."""
    return tuple(
        fault
        for fault in scenario.kernel_faults
        if fault.core in (None, core) and has_fault(scenario.seed, fault, device_id)
    )


def has_fault(seed: int, fault: KernelFault, device_id: DeviceId) -> bool:
    """Whether a device is among those that have a fault; both of its cores are, or neither."""
    return _draw(seed, fault, device_id) < fault.share


def strikes(fault: KernelFault, card: ModelCard) -> bool:
    """Whether a fault is one of this model: `name@version`, or `name@*` for every version."""
    name, _, version = fault.model.partition("@")
    return name == card.name and version in (_ANY_VERSION, card.version)


def _draw(seed: int, fault: KernelFault, device_id: DeviceId) -> float:
    """Return a number from 0 to below 1; the same for both cores of a device."""
    digest = hashlib.sha256(f"{seed}\0{fault.model}\0{fault.kind}\0{device_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
