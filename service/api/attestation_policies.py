"""The attestation policy of a device group at the wire."""

from dataclasses import replace
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, Field

from service.api.requests import RequestModel
from service.domain.attestation_policy import AttestationPolicy, UnknownSoftware, life_cycle_label, life_cycle_of

Label = Annotated[str, Field(max_length=40)]
_LONGEST_HOURS = 24 * 366.0


class AttestationPolicyModel(BaseModel):
    """What a device group demands of evidence; `certificate_hours` is null for the service's setting."""

    minimum_os: str
    life_cycles: list[str]
    debug: bool
    certificate_hours: float | None
    unknown: UnknownSoftware


class AttestationPolicyChange(RequestModel):
    """What to change of an attestation policy; what is left out stays.

    An empty `minimum_os` admits any OS; `certificate_hours` 0 is the service's setting.
    """

    minimum_os: Label | None = None
    life_cycles: Annotated[list[Label], Field(max_length=10)] | None = None
    debug: bool | None = None
    certificate_hours: Annotated[float, Field(ge=0, le=_LONGEST_HOURS, allow_inf_nan=False)] | None = None
    unknown: UnknownSoftware | None = None

    def applied_to(self, policy: AttestationPolicy) -> AttestationPolicy:
        """Return the changed policy.

        Raises:
            AttestationPolicyError: it is none.
        """
        hours, life_cycles = self.certificate_hours, self.life_cycles
        lifetime = policy.certificate_lifetime if hours is None else timedelta(hours=hours) or None
        admitted = policy.life_cycles if life_cycles is None else frozenset(map(life_cycle_of, life_cycles))
        return replace(
            policy,
            minimum_os=policy.minimum_os if self.minimum_os is None else self.minimum_os,
            life_cycles=admitted,
            debug=policy.debug if self.debug is None else self.debug,
            certificate_lifetime=lifetime,
            unknown=self.unknown or policy.unknown,
        )


def attestation_policy_model(policy: AttestationPolicy) -> AttestationPolicyModel:
    """Return a policy as the API shows it."""
    lifetime = policy.certificate_lifetime
    return AttestationPolicyModel(
        minimum_os=policy.minimum_os,
        life_cycles=[life_cycle_label(life_cycle) for life_cycle in sorted(policy.life_cycles)],
        debug=policy.debug,
        certificate_hours=None if lifetime is None else lifetime / timedelta(hours=1),
        unknown=policy.unknown,
    )
