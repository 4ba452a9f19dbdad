"""How often the service is asked for what costs it work, whatever becomes of it: by one device, and by everybody.

Kept in memory, so that a flood is turned away before it writes a row; each process counts for itself. The generic cell
rate algorithm (ITU-T I.371 Annex A) needs one number per device: when its allowance would be whole again.
"""

import math
from datetime import datetime, timedelta

from service.application.clock import Clock
from service.domain.errors import TooManyRequestsError

PERIOD = timedelta(hours=1)
_FEW_DEVICES = 1024  # below this nothing is forgotten


class RateError(TooManyRequestsError):
    """A request comes too soon.

    Attributes:
        retry_after_seconds: when one more request is answered.
    """

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeviceRateError(RateError):
    """A device asks more often than any healthy one."""


class PublicRateError(RateError):
    """Those who need no credential ask more often, all together, than the service answers."""


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


class PublicRate:
    """Lets all callers together ask `burst` times at once, and `per_second` times a second for ever (a token bucket).

    Args:
        clock: of the service.
        per_second: above 0.
        burst: at least 1.
    """

    def __init__(self, clock: Clock, *, per_second: float = 50.0, burst: int = 100) -> None:
        self._clock = clock
        self._per_second = per_second
        self._burst = float(burst)
        self._tokens = self._burst
        self._filled_at = clock.now()

    def admit(self) -> None:
        """Count a request.

        Raises:
            PublicRateError: the bucket is empty; the request does not count.
        """
        now = self._clock.now()
        passed = max((now - self._filled_at).total_seconds(), 0.0)  # a clock that was set back gives nothing
        self._tokens = min(self._burst, self._tokens + passed * self._per_second)
        self._filled_at = now
        if self._tokens < 1.0:
            raise PublicRateError(
                f"public requests: expected at most {self._per_second:g} a second, found more",
                retry_after_seconds=math.ceil((1.0 - self._tokens) / self._per_second),
            )
        self._tokens -= 1.0
