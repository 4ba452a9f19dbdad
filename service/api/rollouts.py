"""Rollouts: create, start, pause, resume, abort, and watch them. Stages are numbered from 1."""

from datetime import datetime, timedelta
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Path, Response, status
from pydantic import BaseModel, Field, ValidationError, model_validator

from protocol.messages import ActionState, Cause
from protocol.plan import Plan, PlanStage, ThresholdGates
from protocol.shadow import ShadowCounts
from protocol.updates import Order
from service.api.approvals import PENDING_RESPONSE, ApprovalModel, answer_to, approval_model
from service.api.auth import OperatorActor, ViewerActor
from service.api.conditions import set_etag
from service.api.idempotency import IdempotentRoute, idempotency_header
from service.api.paging import Page, Paging
from service.api.requests import RequestModel
from service.api.services import ServicesParameter
from service.application.plans import all_stages
from service.application.rollouts import NewRollout, RolloutView
from service.application.update_repositories import NumberedAction, StoredVerdict
from service.domain.action import Hold
from service.domain.approval import Approval
from service.domain.membership import MAX_STAGES
from service.domain.rollout import RolloutState
from service.domain.stage import Stage, StageState
from service.domain.verdict import Decision, Figure

router = APIRouter(prefix="/rollouts", tags=["rollouts"], route_class=IdempotentRoute)

RolloutId = Annotated[str, Path(max_length=36)]
Percent = Annotated[float, Field(ge=0, le=100)]
MAX_SECONDS = 366 * 86_400.0
DEFAULT_TIMEOUT_SECONDS = 86_400.0
_RAW = {"stages", "success_percent", "error_percent", "min_reports", "soak_seconds", "action_timeout_seconds"}


class StagePlanModel(RequestModel):
    """How far a stage reaches into the group, cumulative: a count of devices or a percentage."""

    count: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    percent: Annotated[float, Field(gt=0, le=100)] | None = None


class NewRolloutModel(RequestModel):
    """A rollout to create: by a plan, or by stages and raw thresholds alone.

    Attributes:
        plan: the whole plan; nothing of what follows may stand beside it.
        success_percent: share of a stage that must confirm; left out, what error_percent leaves.
        error_percent: a larger share of failures halts the rollout.
    """

    release: Annotated[str, Field(min_length=1, max_length=64)]
    group: Annotated[str, Field(min_length=1, max_length=60)]
    product: Annotated[str, Field(max_length=60)] | None = None
    plan: Plan | None = None
    stages: Annotated[list[StagePlanModel], Field(min_length=1, max_length=MAX_STAGES)] | None = None
    success_percent: Percent | None = None
    error_percent: Percent | None = None
    min_reports: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    soak_seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS)] | None = None
    action_timeout_seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)] | None = None
    start: bool = False

    @model_validator(mode="after")
    def _check_way(self) -> Self:
        given = self.model_fields_set & _RAW
        if self.plan is not None and given:
            raise ValueError(f"plan: expected it alone, found {', '.join(sorted(given))} beside it")
        if self.plan is None and self.stages is None:
            raise ValueError("expected a plan or stages, found neither")
        try:
            self.new_rollout()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
        return self

    def new_rollout(self) -> NewRollout:
        """Return it as the use case takes it."""
        return NewRollout(self.release, self.group, self.product, self.plan or self._raw_plan())

    def _raw_plan(self) -> Plan:
        error = self.error_percent or 0.0
        soak = timedelta(seconds=self.soak_seconds or 0.0)
        timeout = DEFAULT_TIMEOUT_SECONDS if self.action_timeout_seconds is None else self.action_timeout_seconds
        success = 100 - error if self.success_percent is None else self.success_percent
        stages = [PlanStage(count=stage.count, percent=stage.percent, soak=soak) for stage in self.stages or []]
        gates = ThresholdGates(success_percent=success, error_percent=error, min_reports=self.min_reports or 1)
        return Plan(stages=tuple(stages), gates=gates, device_timeout=timedelta(seconds=timeout))


class PreviewModel(RequestModel):
    """A plan, and the group that it may be for."""

    group: Annotated[str, Field(min_length=1, max_length=60)]
    product: Annotated[str, Field(max_length=60)] | None = None
    plan: Plan


class PlannedModel(BaseModel):
    """What a plan would do now.

    Attributes:
        devices: of the group, that could take a release.
        matching: those that the plan is for.
        stages: devices that each stage would let in by itself; those that are held out are the last.
    """

    devices: int
    matching: int
    stages: list[int]


class StageModel(BaseModel):
    """A stage.

    Attributes:
        held: of those that are scheduled, the ones that wait for a window, their user or their place.
        failed: every failure, reverted and silent devices included.
        waiting: of those in progress, the ones that wait for the word to install.
        agreed: devices on which a model in shadow answered as it is to; `disagreed` are the others.
        reason: the engine's last decision about it.
    """

    index: int
    state: StageState
    plan: StagePlanModel
    size: int
    scheduled: int
    held: int
    in_progress: int
    succeeded: int
    failed: int
    cancelled: int
    waiting: int
    agreed: int
    disagreed: int
    soak_ends_at: datetime | None
    reason: str


class TotalsModel(BaseModel):
    """Counts over all stages; `exposed` devices were given the release."""

    succeeded: int
    failed: int
    reverted: int
    cancelled: int
    exposed: int


class RolloutModel(BaseModel):
    """A rollout.

    Attributes:
        question: what a paused rollout asks a person; to resume it is to say yes.
        undoes: id of the rollout whose devices it brings back.
        approval: the request that its plan has wait for another operator.
        evidence: what the gates stand on now, by name.
    """

    id: str
    release: str
    release_id: str
    group: str
    group_id: str
    product: str
    state: RolloutState
    halted_reason: str | None
    question: str | None
    undoes: str | None
    approval: ApprovalModel | None
    plan: Plan
    evidence: dict[str, Figure]
    stages: list[StageModel]
    totals: TotalsModel
    created_at: datetime
    created_by: str


class VerdictModel(BaseModel):
    """A decision about a rollout.

    Attributes:
        stage: from 1; None where it is about the rollout as a whole.
        gate: which gate or rule decided.
        figures: what it stood on, by name.
    """

    number: int
    decided_at: datetime
    decision: Decision
    stage: int | None
    gate: str
    reason: str
    figures: dict[str, Figure]


class ActionModel(BaseModel):
    """One device's part in a rollout.

    Attributes:
        hold: what it waits for while it is scheduled; the detail says it for people.
        not_before: until when it does; None where no clock ends it.
        deferrals: how often the device's user has put it off.
        order: what the device was last told to do; None before it was given the release.
        shadow: what its comparison came to.
        agrees: whether that is within the plan's tolerance.
    """

    id: str
    device_id: str
    stage: int
    state: ActionState
    cause: Cause | None
    detail: str
    attempt: int
    progressed_at: datetime
    due_at: datetime | None
    hold: Hold | None
    not_before: datetime | None
    deferrals: int
    order: Order | None
    shadow: ShadowCounts | None
    agrees: bool | None


@router.post("", status_code=status.HTTP_201_CREATED, dependencies=[Depends(idempotency_header)])
async def create_rollout(
    actor: OperatorActor, services: ServicesParameter, new: NewRolloutModel, response: Response
) -> RolloutModel:
    """Create a rollout, and start it."""
    return _answer(await services.rollout_requests.create(actor, new.new_rollout(), start_now=new.start), response)


@router.post("/preview", dependencies=[Depends(idempotency_header)])
async def preview_rollout(_actor: ViewerActor, services: ServicesParameter, wanted: PreviewModel) -> PlannedModel:
    """Count the devices that a plan would be for now; nothing is stored."""
    found = await services.rollouts.preview(NewRollout("", wanted.group, wanted.product, wanted.plan))
    return PlannedModel(devices=found.devices, matching=found.matching, stages=list(found.stages))


@router.get("")
async def list_rollouts(_actor: ViewerActor, services: ServicesParameter, paging: Paging) -> Page[RolloutModel]:
    """List rollouts, newest first."""
    found = await services.rollouts.page(before_number=paging.after_number, limit=paging.fetch)
    return paging.page(found, key=lambda view: view.stored.number, model=rollout_model)


@router.get("/{rollout_id}")
async def show_rollout(
    _actor: ViewerActor, services: ServicesParameter, rollout_id: RolloutId, response: Response
) -> RolloutModel:
    """Show a rollout and its stages."""
    return _answer(await services.rollouts.get(rollout_id), response)


@router.get("/{rollout_id}/actions")
async def list_actions(
    _actor: ViewerActor, services: ServicesParameter, rollout_id: RolloutId, paging: Paging
) -> Page[ActionModel]:
    """List the parts of devices in the order they were made."""
    found = await services.rollouts.actions(rollout_id, after_number=paging.after_number or 0, limit=paging.fetch)
    return paging.page(found, key=lambda numbered: numbered.number, model=_action_model)


@router.get("/{rollout_id}/decisions")
async def list_decisions(
    _actor: ViewerActor, services: ServicesParameter, rollout_id: RolloutId, paging: Paging
) -> Page[VerdictModel]:
    """List what was decided about a rollout, and on which evidence."""
    found = await services.rollouts.verdicts(rollout_id, after_number=paging.after_number or 0, limit=paging.fetch)
    return paging.page(found, key=lambda stored: stored.number, model=verdict_model)


@router.post("/{rollout_id}/start", response_model=RolloutModel, responses=PENDING_RESPONSE)
async def start_rollout(
    actor: OperatorActor, services: ServicesParameter, rollout_id: RolloutId, response: Response
) -> RolloutModel | Response:
    """Start a draft; a running rollout stays as it is."""
    return _answer_or_wait(await services.rollout_requests.start(actor, rollout_id), response)


@router.post("/{rollout_id}/pause")
async def pause_rollout(
    actor: OperatorActor, services: ServicesParameter, rollout_id: RolloutId, response: Response
) -> RolloutModel:
    """Pause a rollout: nothing new is offered, what has begun may end."""
    return _answer(await services.rollouts.pause(actor, rollout_id), response)


@router.post("/{rollout_id}/resume", response_model=RolloutModel, responses=PENDING_RESPONSE)
async def resume_rollout(
    actor: OperatorActor, services: ServicesParameter, rollout_id: RolloutId, response: Response
) -> RolloutModel | Response:
    """Resume a paused rollout, which answers its question with yes; a halted one stays halted."""
    return _answer_or_wait(await services.rollout_requests.resume(actor, rollout_id), response)


@router.post("/{rollout_id}/abort")
async def abort_rollout(
    actor: OperatorActor, services: ServicesParameter, rollout_id: RolloutId, response: Response
) -> RolloutModel:
    """End a rollout for good."""
    return _answer(await services.rollouts.abort(actor, rollout_id), response)


@router.post("/{rollout_id}/retry", dependencies=[Depends(idempotency_header)])
async def retry_rollout(
    actor: OperatorActor, services: ServicesParameter, rollout_id: RolloutId, response: Response
) -> RolloutModel:
    """Give the release again to the devices that failed or were shut out, inside the pace; a halted one refuses."""
    return _answer(await services.rollouts.retry(actor, rollout_id), response)


@router.post("/{rollout_id}/install")
async def install_rollout(
    actor: OperatorActor, services: ServicesParameter, rollout_id: RolloutId, response: Response
) -> RolloutModel:
    """Have devices install what they were told to download, stage by stage."""
    return _answer(await services.rollouts.install(actor, rollout_id), response)


@router.post("/{rollout_id}/roll-back")
async def roll_back_rollout(
    actor: OperatorActor, services: ServicesParameter, rollout_id: RolloutId, response: Response
) -> RolloutModel:
    """Bring back every device of the group that was given the release; returns the rollout that does it."""
    return _answer(await services.rollouts.roll_back(actor, rollout_id), response)


def _answer_or_wait(outcome: RolloutView | Approval, response: Response) -> RolloutModel | Response:
    return answer_to(outcome) if isinstance(outcome, Approval) else _answer(outcome, response)


def _answer(view: RolloutView, response: Response) -> RolloutModel:
    set_etag(response, view.stored.version)
    return rollout_model(view)


def rollout_model(view: RolloutView) -> RolloutModel:
    """Return a rollout as the API shows it."""
    rollout = view.stored.rollout
    return RolloutModel(
        id=rollout.rollout_id,
        release=view.release.name,
        release_id=view.release.release_id,
        group=view.group.name,
        group_id=view.group.group_id,
        product=view.group.product_name,
        state=rollout.state,
        halted_reason=rollout.halted_reason or None,
        question=rollout.question or None,
        undoes=rollout.undoes,
        approval=None if view.pending is None else approval_model(view.pending),
        plan=view.stored.plan,
        evidence=rollout.figures,
        stages=[_stage_model(*pair) for pair in zip(rollout.stages, all_stages(view.stored.plan), strict=True)],
        totals=_totals(rollout.stages),
        created_at=view.stored.created_at,
        created_by=view.stored.created_by,
    )


def _totals(stages: tuple[Stage, ...]) -> TotalsModel:
    return TotalsModel(
        succeeded=sum(stage.counts.succeeded for stage in stages),
        failed=sum(stage.counts.failed for stage in stages),
        reverted=sum(stage.counts.reverted for stage in stages),
        cancelled=sum(stage.counts.cancelled for stage in stages),
        exposed=sum(stage.counts.exposed for stage in stages),
    )


def _stage_model(stage: Stage, plan: PlanStage) -> StageModel:
    counts = stage.counts
    return StageModel(
        index=stage.index + 1,
        state=stage.state,
        plan=StagePlanModel(count=plan.count, percent=plan.percent),
        size=stage.devices,
        scheduled=counts.scheduled,
        held=counts.held,
        in_progress=counts.in_progress,
        succeeded=counts.succeeded,
        failed=counts.failed,
        cancelled=counts.cancelled,
        waiting=counts.waiting,
        agreed=counts.agreed,
        disagreed=counts.disagreed,
        soak_ends_at=stage.soak_ends_at,
        reason=stage.reason,
    )


def verdict_model(stored: StoredVerdict) -> VerdictModel:
    """Return a decision as the API shows it."""
    verdict = stored.verdict
    return VerdictModel(
        number=stored.number,
        decided_at=stored.decided_at,
        decision=verdict.decision,
        stage=None if verdict.stage_index is None else verdict.stage_index + 1,
        gate=verdict.gate,
        reason=verdict.reason,
        figures=dict(verdict.figures),
    )


def _action_model(numbered: NumberedAction) -> ActionModel:
    action = numbered.action
    return ActionModel(
        id=action.action_id,
        device_id=action.device_id,
        stage=action.stage_index + 1,
        state=action.state,
        cause=action.cause,
        detail=action.detail,
        attempt=action.attempt,
        progressed_at=action.progressed_at,
        due_at=action.due_at,
        hold=action.hold if action.is_held else None,
        not_before=action.not_before if action.is_held else None,
        deferrals=action.deferrals,
        order=action.order if action.offered else None,
        shadow=action.shadow,
        agrees=action.agrees,
    )
