"""An estimate of a device's energy, so that plans and models can be compared with each other.

No public figure says what an MT3620 draws in which state, so these are ours, of the order of what data sheets of
comparable parts give: 40 nm Cortex-M4 about 0.1 mW per MHz, a Wi-Fi radio about 250 mW while it receives and 700 mW
while it sends at 20 Mbit/s of goodput, a serial NOR about 15 mA at 3.3 V for 45 ms per erased sector. Differences
between two runs mean something; the sum is no promise of a battery's life.
"""

from dataclasses import dataclass

from device_sim.reporting.record import Energy


@dataclass(frozen=True, slots=True)
class EnergyModel:
    """What things cost.

    Attributes:
        standby_watts: of a device that is on, radio asleep between beacons, cores clocked but waiting.
        m4_watts: of one M4 core that computes.
        sent_joules, received_joules: of one byte on the wire.
        flash_joules: of one flash operation, an erase or a page program, in the mean of an update.
    """

    standby_watts: float = 0.060
    m4_watts: float = 0.020
    sent_joules: float = 280e-9
    received_joules: float = 100e-9
    flash_joules: float = 0.4e-3

    def estimate(
        self, *, on_seconds: float, core_seconds: float, sent: int, received: int, flash_operations: int
    ) -> Energy:
        """Return the energy of a device or of many together."""
        return Energy(
            standby=self.standby_watts * on_seconds,
            inference=self.m4_watts * core_seconds,
            radio=self.sent_joules * sent + self.received_joules * received,
            flash=self.flash_joules * flash_operations,
        )
