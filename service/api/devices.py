"""Devices: list, show, explain, move, block, unblock, decommission; and their attestation results."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status
from pydantic import BaseModel, Field

from protocol.geometry import Slot
from protocol.identity import Access
from service.api.approvals import PENDING_RESPONSE, answer_to
from service.api.attestation_policies import AttestationPolicyModel, attestation_policy_model
from service.api.auth import AdminActor, OperatorActor, ViewerActor
from service.api.conditions import IfMatch, set_etag
from service.api.device_identity import IdentityModel, identity_model
from service.api.paging import Page, Paging
from service.api.requests import RequestModel
from service.api.services import ServicesParameter
from service.application.device_repositories import AttestationRecord
from service.application.devices import DeviceSelection, DeviceView
from service.application.rollout_facts import DeviceRolloutFacts
from service.domain.attestation import Status, Verdict
from service.domain.device import Device, DeviceState

router = APIRouter(tags=["devices"])

DeviceId = Annotated[
    str,
    Path(pattern=r"^[0-9a-f]{8,128}$", description="Device id, or a unique beginning of at least 8 digits."),
]


class CertificateModel(BaseModel):
    """The LDevID in force; `access` says how far it reaches."""

    serial: str
    not_after: datetime
    access: Access | None


class FindingModel(BaseModel):
    """What was expected of one component and what was found, since when, and in which tier of EAR."""

    component: str
    expected: str
    found: str
    accepted: bool
    status: Status
    healable: bool
    since: datetime


class AttestationModel(BaseModel):
    """An attestation result, in our word and in the tiers of EAR, and since when it is the same."""

    device_id: str
    result: Verdict
    ear_status: Status
    reasons: list[str]
    findings: list[FindingModel]
    since: datetime
    last_at: datetime
    times: int


class InstalledModel(BaseModel):
    """What runs in a slot; `name` is `name@version`, where metadata in force lists the image."""

    sha256: str
    name: str | None


class ActionModel(BaseModel):
    """The device's newest part in a rollout; `waits` says what it is held for, if anything."""

    id: str
    release: str | None
    state: str | None
    waits: str | None


class DeviceSummary(BaseModel):
    """A device in a list."""

    id: str
    product: str
    group: str
    group_id: str
    state: DeviceState
    connected: bool
    claimed_at: datetime
    last_seen: datetime | None
    clone_suspected_at: datetime | None
    certificate: CertificateModel | None
    installed: Mapping[Slot, InstalledModel]


class DeviceModel(DeviceSummary):
    """A device."""

    claimed_by: str
    activated_at: datetime | None
    blocked_at: datetime | None
    blocked_reason: str
    decommissioned_at: datetime | None
    moved_at: datetime | None
    moved_to: str
    clone_detail: str
    has_voucher: bool
    idevid_chain: str
    idevid_serial: str
    attributes: Mapping[str, str]
    attestation: AttestationModel | None
    action: ActionModel | None


class DeviceDetails(DeviceModel, IdentityModel):
    """A device with everything about its identity, and its group's attestation policy."""

    policy: AttestationPolicyModel


class ExplanationModel(BaseModel):
    """Why a device is not updating; no reasons where it is."""

    device_id: str
    updating: bool
    reasons: list[str]


class DeviceChange(RequestModel):
    """What to change of a device."""

    group_id: Annotated[str, Field(min_length=1, max_length=60)]


class Reason(RequestModel):
    """Why it is done, for the audit log."""

    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]


@router.get("/devices")
async def list_devices(
    _actor: ViewerActor,
    services: ServicesParameter,
    paging: Paging,
    group: Annotated[str | None, Query(max_length=60, description="Device group, by id or unique name.")] = None,
    state: DeviceState | None = None,
    suspected_clone: Annotated[bool | None, Query(description="Only (no) suspected clones.")] = None,
) -> Page[DeviceSummary]:
    """List devices."""
    found = await services.devices.page(
        DeviceSelection(group=group, state=state, suspected_clone=suspected_clone),
        after_id=paging.after,
        limit=paging.fetch,
    )
    return paging.page(found, key=lambda view: view.device.device_id, model=_summary)


@router.get("/devices/{device}")
async def show_device(
    _actor: ViewerActor, services: ServicesParameter, device: DeviceId, response: Response
) -> DeviceDetails:
    """Show a device: identity, attestation, what it runs, what it does, and why it is let in or not."""
    view = await services.devices.get(device)
    facts = await services.rollout_facts.for_device(view.device.device_id, group_id=view.group.group_id)
    identity = await services.identities.of(view)
    set_etag(response, view.device.version)
    return DeviceDetails(
        **device_model(view, facts).model_dump(),
        **identity_model(identity).model_dump(),
        policy=attestation_policy_model(view.group.policy.attestation),
    )


@router.get("/devices/{device}/explain")
async def explain_device(_actor: ViewerActor, services: ServicesParameter, device: DeviceId) -> ExplanationModel:
    """Say why a device is not updating."""
    explanation = await services.explanations.explain(device)
    return ExplanationModel(
        device_id=explanation.device_id, updating=explanation.updating, reasons=list(explanation.reasons)
    )


@router.get("/devices/{device}/attestations")
async def list_device_attestations(
    _actor: ViewerActor, services: ServicesParameter, device: DeviceId, paging: Paging
) -> Page[AttestationModel]:
    """List how a device's attestation result changed, newest first."""
    found = await services.attestations.page_history(device, before_id=paging.after_number, limit=paging.fetch)
    return paging.page(found, key=lambda record: record.record_id, model=_attestation)


@router.get("/attestations")
async def list_attestations(
    _actor: ViewerActor, services: ServicesParameter, paging: Paging, result: Verdict | None = None
) -> Page[AttestationModel]:
    """List each device's last attestation result, those of refused and unclaimed devices included."""
    found = await services.attestations.page_latest(after_device_id=paging.after, limit=paging.fetch, verdict=result)
    return paging.page(found, key=lambda record: record.device_id, model=_attestation)


@router.patch("/devices/{device}")
async def move_device(
    *,
    actor: OperatorActor,
    services: ServicesParameter,
    device: DeviceId,
    wanted: DeviceChange,
    based_on: IfMatch,
    response: Response,
) -> DeviceModel:
    """Move a device to another device group."""
    await services.devices.move(actor, device, group_id=wanted.group_id, based_on=based_on)
    view = await services.devices.get(device)
    set_etag(response, view.device.version)
    return device_model(view)


@router.post("/devices/{device}/block", status_code=status.HTTP_204_NO_CONTENT, responses=PENDING_RESPONSE)
async def block_device(actor: OperatorActor, services: ServicesParameter, device: DeviceId, why: Reason) -> Response:
    """Block a device: its connections close at once, and it gets no certificate."""
    return answer_to(await services.devices.block(actor, device, reason=why.reason))


@router.post("/devices/{device}/unblock", status_code=status.HTTP_204_NO_CONTENT, responses=PENDING_RESPONSE)
async def unblock_device(actor: OperatorActor, services: ServicesParameter, device: DeviceId) -> Response:
    """Let a blocked device in again."""
    return answer_to(await services.devices.unblock(actor, device))


@router.post("/devices/{device}/decommission", status_code=status.HTTP_204_NO_CONTENT, responses=PENDING_RESPONSE)
async def decommission_device(
    actor: AdminActor, services: ServicesParameter, device: DeviceId, why: Reason
) -> Response:
    """Take a device out of service for good: it is never admitted or claimed again, whoever asks."""
    return answer_to(await services.devices.decommission(actor, device, reason=why.reason))


@router.post("/devices/{device}/clear-clone", status_code=status.HTTP_204_NO_CONTENT, responses=PENDING_RESPONSE)
async def clear_clone_suspicion(
    actor: OperatorActor, services: ServicesParameter, device: DeviceId, why: Reason
) -> Response:
    """Take back the suspicion that two live devices hold this identity; a block stays."""
    return answer_to(await services.devices.clear_clone(actor, device, reason=why.reason))


def device_model(view: DeviceView, facts: DeviceRolloutFacts | None = None) -> DeviceModel:
    """Return a device as the API shows it."""
    device = view.device
    action = None
    if facts is not None and facts.action_id is not None:
        action = ActionModel(id=facts.action_id, release=facts.release, state=facts.action_state, waits=facts.waits)
    return DeviceModel(
        **_summary(view).model_dump(),
        claimed_by=device.claimed_by,
        activated_at=device.activated_at,
        blocked_at=device.blocked_at,
        blocked_reason=device.blocked_reason,
        decommissioned_at=device.decommissioned_at,
        moved_at=device.moved_at,
        moved_to=device.moved_to,
        clone_detail=device.clone_detail,
        has_voucher=device.voucher is not None,
        idevid_chain=device.idevid_chain,
        idevid_serial=device.idevid_serial,
        attributes=view.attributes,
        attestation=None if view.attestation is None else _attestation(view.attestation),
        action=action,
    )


def _summary(view: DeviceView) -> DeviceSummary:
    device = view.device
    return DeviceSummary(
        id=device.device_id,
        product=view.group.product_name,
        group=view.group.name,
        group_id=view.group.group_id,
        state=device.state,
        connected=view.connected,
        claimed_at=device.claimed_at,
        last_seen=view.last_seen,
        clone_suspected_at=device.clone_suspected_at,
        certificate=_certificate(device),
        installed={
            slot: InstalledModel(sha256=image.sha256, name=image.name) for slot, image in view.installed.items()
        },
    )


def _certificate(device: Device) -> CertificateModel | None:
    if device.certificate_serial is None or device.certificate_not_after is None:
        return None
    return CertificateModel(
        serial=device.certificate_serial, not_after=device.certificate_not_after, access=device.access
    )


def _attestation(record: AttestationRecord) -> AttestationModel:
    return AttestationModel(
        device_id=record.device_id,
        result=record.appraisal.verdict,
        ear_status=record.appraisal.verdict.status,
        reasons=list(record.appraisal.reasons),
        findings=[
            FindingModel(
                component=finding.component,
                expected=finding.expected,
                found=finding.found,
                accepted=finding.accepted,
                status=finding.status,
                healable=finding.healable,
                since=finding.since or record.since,
            )
            for finding in record.appraisal.findings
        ],
        since=record.since,
        last_at=record.last_at,
        times=record.times,
    )
