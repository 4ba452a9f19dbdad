"""How often one device may ask for what costs the service work, whatever becomes of it.

Kept in memory, so that a flood is turned away before it writes a row; each process counts for itself. The generic cell
rate algorithm (ITU-T I.371 Annex A) needs one number per device: when its allowance would be whole again.
"""

import math
from datetime import datetime, timedelta

from service.application.clock import Clock
from service.domain.errors import TooManyRequestsError

PERIOD = timedelta(hours=1)
_FEW_DEVICES = 1024  # below this nothing is forgotten


class DeviceRateError(TooManyRequestsError):
    """A device asks more often than any healthy one.

    Attributes:
        retry_after_seconds: when one more request is answered.
    """

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RequestRate:
    """Lets a device ask `per_hour` times at once, and then once in each such part of an hour.

    Args:
        clock: of the service.
        per_hour: at least 1.
    """

    def __init__(self, clock: Clock, *, per_hour: int) -> None:
        self._clock = clock
        self._per_hour = per_hour
        self._part = PERIOD / per_hour
        self._whole_at: dict[str, datetime] = {}
        self._forget_at_devices = _FEW_DEVICES

    def admit(self, device_id: str) -> None:
        """Count a request.

        Raises:
            DeviceRateError: the allowance is used up; the request does not count.
        """
        now = self._clock.now()
        # A clock that was set back must not shut a device out for longer than a period.
        whole_at = self._whole_at[device_id] = min(max(self._whole_at.get(device_id, now), now), now + PERIOD)
        wait = whole_at + self._part - PERIOD - now
        if wait > timedelta(0):
            seconds = math.ceil(wait.total_seconds())
            raise DeviceRateError(
                f"device {device_id[:16]}…: expected at most {self._per_hour} requests an hour, found more; "
                f"one more in {seconds} s",
                retry_after_seconds=seconds,
            )
        self._whole_at[device_id] = whole_at + self._part
        if len(self._whole_at) >= self._forget_at_devices:
            self._forget(now)

    def _forget(self, now: datetime) -> None:
        """Drop devices whose allowance is whole; seldom enough that it costs each request little."""
        self._whole_at = {device_id: at for device_id, at in self._whole_at.items() if at > now}
        self._forget_at_devices = max(_FEW_DEVICES, 2 * len(self._whole_at))
