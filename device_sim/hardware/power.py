"""The power supply: it counts every operation that changes non-volatile memory, and may fail in one of them.

An operation is one page program or one sector erase of the flash, or one atomic write of the root of trust. A
power-loss test counts the operations of a clean run, then fails each of them in turn.
"""

from device_sim.errors import PowerCutError


class PowerSupply:
    """Power that lasts, or that fails once.

    Args:
        fails_at: index of the operation in which the power fails, counted from 0; None lasts for ever.
        share: how much of that operation still happens, 0 to below 1.
    """

    def __init__(self, *, fails_at: int | None = None, share: float = 0.0) -> None:
        self._fails_at = fails_at
        self._share = share
        self._is_on = True
        self._operations = 0

    @property
    def operations(self) -> int:
        """Operations begun so far."""
        return self._operations

    def draw(self) -> float:
        """Begin an operation and return the share of it that the power lasts for; 1 is all of it.

        Raises:
            PowerCutError: the power is off.
        """
        self.require()
        self._is_on = self._operations != self._fails_at
        self._operations += 1
        return 1.0 if self._is_on else self._share

    def require(self) -> None:
        """Do nothing while the power is on.

        Raises:
            PowerCutError: the power is off.
        """
        if not self._is_on:
            raise PowerCutError(f"expected power, found it cut in operation {self._operations - 1}")
