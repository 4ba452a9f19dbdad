"""Classes of PostgreSQL's advisory locks that are per device or place, so that one's locks are not another purpose's.

They are taken by the two-argument form, whose locks never meet those of the one-argument form (the order of events, the
migration, the order of telemetry).
"""

from enum import IntEnum


class AdvisoryLock(IntEnum):
    """First argument of `pg_advisory_xact_lock`; the second is the hash of the device id."""

    ATTESTATION_RESULT = 1
    COMMAND_QUEUE = 2
    DISRUPTION = 3  # the second argument is the hash of a place
