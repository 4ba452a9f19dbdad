"""Why a rollout stands where it stands: decisions, figures and thresholds, and the devices that failed, by cause."""

from collections.abc import Sequence
from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel

from protocol.messages import ActionState, Cause
from protocol.shadow import ShadowCounts
from service.api.auth import ViewerActor
from service.api.model_health import CountedModel, counted_model
from service.api.rollouts import RolloutId, RolloutModel, VerdictModel, rollout_model, verdict_model
from service.api.services import ServicesParameter
from service.application.missed import Missed
from service.application.rollout_explanation import Compared, CountedDevices, Failed, Waiting
from service.domain.action import Action, Hold
from service.domain.gates.arms import Arm

router = APIRouter(prefix="/rollouts", tags=["rollouts"])


class AttemptModel(BaseModel):
    """How an attempt at the release ended."""

    state: ActionState
    cause: Cause | None
    detail: str
    ended_at: datetime


class FailedDeviceModel(BaseModel):
    """A device that failed, with all its attempts that have ended; `state` is how it stands now."""

    device_id: str
    stage: int
    state: ActionState
    failed_at: datetime | None
    attempts: list[AttemptModel]


class FailedModel(BaseModel):
    """Devices that failed for the same causes: how many, and those that failed first."""

    causes: list[Cause]
    devices: int
    first: list[FailedDeviceModel]


class ExplainedDecisionModel(VerdictModel):
    """A decision, its figures as they were then, and the devices that had failed by then."""

    failed: list[FailedModel]


class WaitingDeviceModel(BaseModel):
    """A device that may not have the release yet; the detail says why, `not_before` until when if a clock ends it."""

    device_id: str
    stage: int
    detail: str
    not_before: datetime | None


class WaitingModel(BaseModel):
    """Devices that wait for one kind of thing: how many, and the first in line."""

    hold: Hold
    devices: int
    first: list[WaitingDeviceModel]


class ComparedDeviceModel(BaseModel):
    """A device that has compared a model in shadow with its own; `shadow` is what that came to."""

    device_id: str
    stage: int
    state: ActionState
    shadow: ShadowCounts


class ComparedModel(BaseModel):
    """Devices on which a model in shadow agrees within the plan's tolerance, or does not: how many, and the first."""

    agrees: bool
    devices: int
    first: list[ComparedDeviceModel]


class CountedKindModel(BaseModel):
    """Devices of an arm that a gate has counted for one thing: how many, and those that were counted first."""

    gate: str
    arm: Arm
    what: str
    devices: int
    first: list[CountedModel]


class MissedDeviceModel(BaseModel):
    """A device that was given the release, and that its rollback has not come to."""

    device_id: str
    reason: str


class MissedModel(BaseModel):
    """Devices that a rollback has not come to: how many, and the first by their ids."""

    devices: int
    first: list[MissedDeviceModel]


class ExplanationModel(BaseModel):
    """Why a rollout stands where it stands.

    Attributes:
        decisions: about it, oldest first.
        failed: devices that have failed until now, by cause.
        waiting: those that may not have the release yet.
        compared: those that have said whether a model in shadow agrees, the ones where it does not first.
        counted: those that gates of models' health have counted; `/rollouts/{id}/counted` lists them all.
        missed: of a rollback, those that it has not come to; of a rollout that none can reach, all that were given it.
    """

    rollout: RolloutModel
    decisions: list[ExplainedDecisionModel]
    failed: list[FailedModel]
    waiting: list[WaitingModel]
    compared: list[ComparedModel]
    counted: list[CountedKindModel]
    missed: MissedModel


@router.get("/{rollout_id}/explanation")
async def explain_rollout(_actor: ViewerActor, services: ServicesParameter, rollout_id: RolloutId) -> ExplanationModel:
    """Explain a rollout: which evidence, which figure, which threshold, which devices."""
    view, found = await services.rollouts.explain(rollout_id)
    decisions = [
        ExplainedDecisionModel(**verdict_model(each.stored).model_dump(), failed=_failed(each.failed))
        for each in found.decisions
    ]
    return ExplanationModel(
        rollout=rollout_model(view),
        decisions=decisions,
        failed=_failed(found.failed),
        waiting=[_waiting(each) for each in found.waiting],
        compared=[_compared(each) for each in found.compared],
        counted=[_counted(each) for each in found.counted],
        missed=_missed(found.missed),
    )


def _counted(found: CountedDevices) -> CountedKindModel:
    return CountedKindModel(
        gate=found.kind.gate,
        arm=found.kind.arm,
        what=found.kind.what,
        devices=found.devices,
        first=[counted_model(each) for each in found.first],
    )


def _missed(found: Missed) -> MissedModel:
    first = [MissedDeviceModel(device_id=each.device_id, reason=each.reason) for each in found.first]
    return MissedModel(devices=found.devices, first=first)


def _compared(found: Compared) -> ComparedModel:
    first = [
        ComparedDeviceModel(
            device_id=action.device_id, stage=action.stage_index + 1, state=action.state, shadow=action.shadow
        )
        for action in found.first
        if action.shadow is not None  # always there once it is judged
    ]
    return ComparedModel(agrees=found.agrees, devices=found.devices, first=first)


def _waiting(found: Waiting) -> WaitingModel:
    first = [
        WaitingDeviceModel(
            device_id=action.device_id,
            stage=action.stage_index + 1,
            detail=action.detail,
            not_before=action.not_before,
        )
        for action in found.first
    ]
    return WaitingModel(hold=found.hold, devices=found.devices, first=first)


def _failed(found: Sequence[Failed]) -> list[FailedModel]:
    return [
        FailedModel(causes=sorted(each.causes), devices=each.devices, first=[_device(action) for action in each.first])
        for each in found
    ]


def _device(action: Action) -> FailedDeviceModel:
    attempts = [
        AttemptModel(state=each.state, cause=each.cause, detail=each.detail, ended_at=each.ended_at)
        for each in action.attempts
    ]
    return FailedDeviceModel(
        device_id=action.device_id,
        stage=action.stage_index + 1,
        state=action.state,
        failed_at=action.failed_at,
        attempts=attempts,
    )
