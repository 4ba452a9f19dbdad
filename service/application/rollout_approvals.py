"""Starting a rollout, and saying yes to what one asks, where that takes two persons.

It does where the plan says `approval: required`, or where the catalog's settings name `rollout.start` or
`rollout.resume` among their `two_person_actions`. Pausing, aborting and rolling back never do: a brake must not wait.
`Rollouts` itself refuses the first kind without a second person, so that no other way leads past it. The second person
is neither the one who asked nor the one who created the rollout.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.application.approvals import Approvals, Arguments, Done, Subject
from service.application.rollouts import NewRollout, Rollouts, RolloutView, is_yes, question_of
from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import StoredRollout
from service.domain.approval import Approval, SamePersonError
from service.domain.operator import Actor, Role
from service.domain.rollout import RolloutState, RolloutStateError

START = "rollout.start"
RESUME = "rollout.resume"
Step = Callable[[UnitOfWork, Actor, str], Awaitable[None]]


class QuestionChangedError(RolloutStateError):
    """The rollout asks something else than what the second person was to agree to."""


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """A step of a rollout that may take two persons; implements `ExecutableAction`.

    Attributes:
        before: the state that it leads from.
        step: does it in a transaction.
    """

    name: str
    before: RolloutState
    step: Step
    role: Role = Role.OPERATOR

    async def find(self, work: UnitOfWork, subject_id: str) -> Subject:
        """See `ExecutableAction.find`; late reports change a paused rollout, but not what it asks."""
        stored = await work.rollouts.get(subject_id)
        is_asking = self.before is RolloutState.PAUSED and stored.rollout.state is self.before
        return Subject(stored.rollout.rollout_id, 0 if is_asking else stored.version, question_of(stored))

    async def check(self, work: UnitOfWork, subject_id: str, arguments: Arguments) -> None:
        """See `ExecutableAction.check`.

        Raises:
            RolloutStateError: the rollout is in another state.
            QuestionChangedError: it asks something else.
        """
        stored = await work.rollouts.get(subject_id)
        if stored.rollout.state is not self.before:
            raise RolloutStateError(f"rollout: expected {self.before}, found {stored.rollout.state}")
        _check_question(stored, arguments)

    async def execute(self, work: UnitOfWork, actor: Actor, subject_id: str, arguments: Arguments) -> Done:
        """See `ExecutableAction.execute`.

        Raises:
            SamePersonError: the one who agrees has created the rollout.
            QuestionChangedError: it asks something else by now.
        """
        stored = await work.rollouts.get(subject_id, lock=True)
        if actor.approved_by.casefold() == stored.created_by.casefold():
            raise SamePersonError(f"approval: expected another operator than {stored.created_by}, who created it")
        _check_question(stored, arguments)
        await self.step(work, actor, subject_id)
        return Done()


class RolloutRequests:
    """Creates, starts and resumes rollouts, at once or once another operator has agreed."""

    def __init__(self, rollouts: Rollouts, approvals: Approvals) -> None:
        self._rollouts = rollouts
        self._approvals = approvals
        approvals.register(RolloutStep(START, RolloutState.DRAFT, rollouts.start_in))
        approvals.register(RolloutStep(RESUME, RolloutState.PAUSED, rollouts.resume_in))

    async def create(self, actor: Actor, new: NewRollout, *, start_now: bool) -> RolloutView:
        """Create a rollout, and start it or ask for its start; see `Rollouts.create`.

        Raises:
            RoleError: the operator may not start one.
        """
        waits = start_now and (new.plan.approval == "required" or self._approvals.takes_two(START))
        view = await self._rollouts.create(actor, new, start_now=start_now and not waits)
        if not waits:
            return view
        rollout_id = view.stored.rollout.rollout_id
        await self.start(actor, rollout_id)
        return await self._rollouts.get(rollout_id)

    async def start(self, actor: Actor, rollout_id: str) -> RolloutView | Approval:
        """Start a draft, or return the request that waits for another operator; see `Rollouts.start`.

        Raises:
            AlreadyRequestedError: a request waits already.
        """
        view = await self._rollouts.get(rollout_id)
        is_draft = view.stored.rollout.state is RolloutState.DRAFT
        if not is_draft or not (view.stored.plan.approval == "required" or self._approvals.takes_two(START)):
            return await self._rollouts.start(actor, rollout_id)
        return await self._ask(actor, START, view)

    async def resume(self, actor: Actor, rollout_id: str) -> RolloutView | Approval:
        """Let it run again, or return the request that waits for another operator; see `Rollouts.resume`.

        Raises:
            AlreadyRequestedError: a request waits already.
        """
        view = await self._rollouts.get(rollout_id)
        is_paused = view.stored.rollout.state is RolloutState.PAUSED
        if not is_paused or not (is_yes(view.stored) or self._approvals.takes_two(RESUME)):
            return await self._rollouts.resume(actor, rollout_id)
        return await self._ask(actor, RESUME, view)

    async def _ask(self, actor: Actor, name: str, view: RolloutView) -> RolloutView | Approval:
        rollout_id, question = view.stored.rollout.rollout_id, question_of(view.stored)
        outcome = await self._approvals.perform(actor, name, rollout_id, question, two_persons=True)
        return outcome if isinstance(outcome, Approval) else await self._rollouts.get(rollout_id)


def _check_question(stored: StoredRollout, arguments: Arguments) -> None:
    wanted, found = str(arguments.get("question", "")), stored.rollout.question
    if wanted != found:
        raise QuestionChangedError(f"rollout: expected the question {wanted!r}, found {found!r}")
