"""Actions that may take two persons: one operator asks, another approves, and then it is done.

Which ones do is the catalog's setting. An action is written once, as an `ExecutableAction`, and registered:

    approvals.register(BlockDevice(standings, clock))                        # in the composition root
    outcome = await approvals.perform(actor, "device.block", device, {"reason": reason})

`perform` does it at once and returns a `Done`, or stores a request and returns the pending `Approval`, which the API
answers with 202. Approval is verified in this order, and everything is one transaction with the action itself:
    1. request: it exists and is pending; of two who decide at once, one does;
    2. time: it has not expired;
    3. second person: not the one who asked, and no operator added since;
    4. role: of the one who approves, now;
    5. first person: still an operator of sufficient role;
    6. subject: unchanged since the request.
A request that fails step 5 or 6 can never be granted: it is closed as stale. One that would fail step 6 is shown as
stale before that, gives way to a new one, which names it, and is closed when the house is kept.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol, TypeAlias

from service.application.audit import Change
from service.application.clock import Clock
from service.application.entropy import Entropy
from service.application.events import Event, EventType
from service.application.operators import RoleError
from service.application.transactions import tried_again
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.approval import Approval, ApprovalDecidedError, ApprovalState, SamePersonError
from service.domain.errors import ConflictError, JsonValue, NotFoundError, ServiceError, StaleError
from service.domain.operator import SERVICE, Actor, Operator, Role

CLOSED_PER_ROUND = 500  # of each kind
AfterCommit = Callable[[int], None]
Arguments: TypeAlias = Mapping[str, JsonValue]


class UnknownActionNameError(ServiceError):
    """The settings name an action that the service does not have."""


class AlreadyRequestedError(ConflictError):
    """The same action on the same subject waits for an approval; `members` names it."""


class SubjectChangedError(StaleError):
    """What the request is about changed since; it is closed."""


class RequesterGoneError(ConflictError):
    """The one who asked is no longer an operator of sufficient role; the request is closed."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an action is about, as it is now.

    Attributes:
        subject_id: full id.
        version: rises with each change; 0 for what has no version.
        arguments: those that a request about it has to have as it stands now; None if it says nothing of them.
    """

    subject_id: str
    version: int = 0
    arguments: Arguments | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What an action that was done leaves.

    Attributes:
        after_commit: called with the sequence number of the last event once everything is durable.
        answer: facts for the one who did it or approved it; JSON.
    """

    after_commit: AfterCommit | None = None
    answer: Arguments = field(default_factory=dict)


Outcome: TypeAlias = Done | Approval


class ExecutableAction(Protocol):
    """One action, whoever may ask for it.

    Attributes:
        name: `noun.verb`, at most 32 characters; also the setting's word.
        role: least role of the one who asks and of the one who approves.
    """

    @property
    def name(self) -> str:
        """See the class."""

    @property
    def role(self) -> Role:
        """See the class."""

    async def find(self, work: UnitOfWork, subject_id: str) -> Subject:
        """Return the subject by id, or by the beginning of an id where that is the rule.

        Raises:
            NotFoundError: there is none.
        """

    async def check(self, work: UnitOfWork, subject_id: str, arguments: Arguments) -> None:
        """Refuse what cannot be done, before it is asked for; called where two persons are needed.

        Raises:
            ServiceError: the rule that it breaks.
        """

    async def execute(self, work: UnitOfWork, actor: Actor, subject_id: str, arguments: Arguments) -> Done:
        """Do it in the caller's transaction: store, audit, record events; no commit.

        Args:
            work: the transaction.
            actor: who asked; `approved_by` names the second person, and the audit log keeps both.
            subject_id: full id, as `find` gave it.
            arguments: as they were asked for.

        Raises:
            ServiceError: the rule that it breaks.
        """


class Approvals:
    """Actions, and the requests for those that take two persons.

    Args:
        two_person: names of the actions that take two persons.
        lifetime: for somebody to decide.
        kept: how long a request that is closed can be read; the audit log tells of it for ever.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        clock: Clock,
        entropy: Entropy,
        two_person: Collection[str] = (),
        lifetime: timedelta = timedelta(days=1),
        kept: timedelta = timedelta(days=30),
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._entropy = entropy
        self._two_person = frozenset(two_person)
        self._lifetime = lifetime
        self._kept = kept
        self._actions: dict[str, ExecutableAction] = {}

    def register(self, action: ExecutableAction) -> None:
        """Make an action known by its name."""
        self._actions[action.name] = action

    def check_settings(self) -> None:
        """Require that every action that is to take two persons is known; once all are registered.

        Raises:
            UnknownActionNameError: one is not.
        """
        unknown = sorted(self._two_person - set(self._actions))
        if unknown:
            known = ", ".join(sorted(self._actions))
            raise UnknownActionNameError(f"two_person_actions: expected some of {known}, found {unknown[0]}")

    def takes_two(self, action: str) -> bool:
        """Say whether an action takes two persons here."""
        return action in self._two_person

    @tried_again
    async def perform(
        self, actor: Actor, action: str, subject_id: str, arguments: Arguments, *, two_persons: bool = False
    ) -> Outcome:
        """Do an action at once, or ask for it where it takes two persons.

        Args:
            actor: who asks.
            action: name of a registered action.
            subject_id: id, or what `ExecutableAction.find` takes for one.
            arguments: JSON, as `ExecutableAction.execute` takes them.
            two_persons: whether it takes two here, whatever the settings say.

        Raises:
            RoleError: the operator's role does not include the action.
            AlreadyRequestedError: the same waits for approval.
            ServiceError: what the action itself refuses.
        """
        wanted = self._actions[action]
        _check_role(actor.role, wanted.role)
        async with self._unit_of_work() as work:
            subject = await wanted.find(work, subject_id)
            if two_persons or self.takes_two(action):
                await wanted.check(work, subject.subject_id, arguments)
                approval = await self._ask(work, actor, action, subject=subject, arguments=arguments)
                await work.commit()
                return approval
            done = await wanted.execute(work, actor, subject.subject_id, arguments)
            sequence = await work.commit()
        _finish(done, sequence)
        return done

    async def _ask(
        self, work: UnitOfWork, actor: Actor, action: str, *, subject: Subject, arguments: Arguments
    ) -> Approval:
        now = self._clock.now()
        waiting = await work.approvals.pending_on(action, subject.subject_id)
        before = None if waiting is None else await self._as_it_stands(work, waiting, now)
        if before is not None and before.state is ApprovalState.PENDING:
            raise _already_requested(action, before)
        if waiting is not None and before is not None:
            await self._close(work, waiting.close(before.state, by=SERVICE.name, at=now), SERVICE)
        approval = Approval(
            approval_id=self._entropy.guid(),
            action=action,
            subject_id=subject.subject_id,
            subject_version=subject.version,
            arguments=dict(arguments),
            requested_by=actor.name,
            requested_at=now,
            expires_at=now + self._lifetime,
            replaces=before.approval_id if before is not None and before.state is ApprovalState.STALE else None,
        )
        if not await work.approvals.add(approval):
            raise _already_requested(action, await work.approvals.pending_on(action, subject.subject_id))
        await _record(work, actor, approval, change="requested", at=now)
        return approval

    @tried_again
    async def approve(self, actor: Actor, approval_id: str) -> tuple[Approval, Done]:
        """Approve a request and do what it asks for; the steps are those of the module.

        Raises:
            UnknownApprovalError, ApprovalDecidedError: step 1.
            ApprovalExpiredError: step 2.
            SamePersonError: step 3.
            RoleError: step 4.
            RequesterGoneError: step 5; the request is closed.
            SubjectChangedError: step 6; the request is closed.
            ServiceError: what the action itself refuses; the request stays pending.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            # Steps 1 and 2: request and time.
            pending = await work.approvals.get(approval_id)
            approved = pending.close(ApprovalState.APPROVED, by=actor.name, at=now)
            known = {operator.name: operator for operator in await work.operators.all()}
            await self._check_approver(actor, pending, known.get(actor.name))
            try:
                requester = await self._check_standing(work, pending, known.get(pending.requested_by))
            except (RequesterGoneError, SubjectChangedError):
                await self._close(work, pending.close(ApprovalState.STALE, by=SERVICE.name, at=now), SERVICE)
                await work.commit()
                raise
            await self._close(work, approved, actor)
            wanted = self._actions[pending.action]
            both = Actor(requester.name, requester.role, approved_by=actor.name)
            done = await wanted.execute(work, both, pending.subject_id, pending.arguments)
            sequence = await work.commit()
        _finish(done, sequence)
        return approved, done

    async def _check_approver(self, actor: Actor, pending: Approval, approver: Operator | None) -> None:
        # Step 3: second person.
        if approver is None:
            raise SamePersonError("approval: expected an operator, found none of this name")
        pending.check_second_person(approver.name, added_at=approver.created_at)
        # Step 4: role.
        _check_role(actor.role, self._role_of(pending.action))

    async def _check_standing(self, work: UnitOfWork, pending: Approval, requester: Operator | None) -> Operator:
        # Step 5: first person.
        if requester is None or not requester.role.includes(self._role_of(pending.action)):
            raise RequesterGoneError(
                f"approval: expected {pending.requested_by} to be an operator who may ask for it, found it is not so"
            )
        # Step 6: subject.
        await self._check_subject(work, pending)
        return requester

    async def _check_subject(self, work: UnitOfWork, pending: Approval) -> None:
        try:
            subject = await self._actions[pending.action].find(work, pending.subject_id)
        except NotFoundError as error:
            raise SubjectChangedError(f"{pending.action}: expected its subject, found it gone") from error
        if subject.version != pending.subject_version:
            raise SubjectChangedError(
                f"{pending.action}: expected version {pending.subject_version} of its subject, found {subject.version}"
            )
        if subject.arguments is not None and dict(subject.arguments) != dict(pending.arguments):
            raise SubjectChangedError(
                f"{pending.action}: expected its subject to ask for {dict(pending.arguments)}, "
                f"found {dict(subject.arguments)}"
            )

    async def _as_it_stands(self, work: UnitOfWork, approval: Approval, now: datetime) -> Approval:
        """Return a request as it stands now: pending beyond its end is expired, about what has changed is stale."""
        current = approval.at(now)
        if current.state is not ApprovalState.PENDING or current.action not in self._actions:
            return current
        try:
            await self._check_subject(work, current)
        except SubjectChangedError:
            return replace(current, state=ApprovalState.STALE)
        return current

    def _role_of(self, action: str) -> Role:
        wanted = self._actions.get(action)
        if wanted is None:
            raise ConflictError(f"approval: expected an action of this service, found {action}")
        return wanted.role

    @tried_again
    async def reject(self, actor: Actor, approval_id: str) -> Approval:
        """Reject a request, or take back one's own.

        Raises:
            UnknownApprovalError: there is none.
            ApprovalDecidedError, ApprovalExpiredError: it is no longer pending.
            RoleError: the operator's role does not include the action.
        """
        async with self._unit_of_work() as work:
            pending = await work.approvals.get(approval_id)
            _check_role(actor.role, self._role_of(pending.action))
            rejected = pending.close(ApprovalState.REJECTED, by=actor.name, at=self._clock.now())
            await self._close(work, rejected, actor)
            await work.commit()
        return rejected

    async def get(self, approval_id: str) -> Approval:
        """Return a request as it stands now.

        Raises:
            UnknownApprovalError: there is none.
        """
        async with self._unit_of_work(read_only=True) as work:
            return await self._as_it_stands(work, await work.approvals.get(approval_id), self._clock.now())

    async def page(self, *, before: tuple[datetime, str] | None, limit: int, pending: bool) -> Sequence[Approval]:
        """Return at most `limit` requests, newest first, as they stand now."""
        now = self._clock.now()
        async with self._unit_of_work(read_only=True) as work:
            found = await work.approvals.page(before=before, limit=limit, pending_at=now if pending else None)
            return [await self._as_it_stands(work, approval, now) for approval in found]

    async def keep_house(self, now: datetime) -> None:
        """Close requests whose time is over or whose subject has changed, and forget old ones; harmless to repeat."""
        async with self._unit_of_work() as work:
            over = await work.approvals.expired(now=now, limit=CLOSED_PER_ROUND)
            pending = await work.approvals.page(before=None, limit=CLOSED_PER_ROUND, pending_at=now)
            for approval in (*over, *pending):
                state = (await self._as_it_stands(work, approval, now)).state
                if state is not ApprovalState.PENDING:
                    await self._close(work, approval.close(state, by=SERVICE.name, at=now), SERVICE)
            await work.approvals.forget(decided_before=now - self._kept)
            await work.commit()

    async def _close(self, work: UnitOfWork, closed: Approval, actor: Actor) -> None:
        """Store a decision; the row decides between two at once."""
        if not await work.approvals.close(closed):
            raise ApprovalDecidedError("approval: expected a pending request, found it decided")
        await _record(work, actor, closed, change=closed.state, at=closed.decided_at or closed.requested_at)


def _already_requested(action: str, waiting: Approval | None) -> AlreadyRequestedError:
    by, members = ("somebody", {}) if waiting is None else (waiting.requested_by, {"approval": waiting.approval_id})
    return AlreadyRequestedError(
        f"{action}: expected no request that waits for approval, found one by {by}", members=members
    )


def _check_role(found: Role, needed: Role) -> None:
    if not found.includes(needed):
        raise RoleError(f"role: expected at least {needed}, found {found}")


def _finish(done: Done, sequence: int) -> None:
    if done.after_commit is not None:
        done.after_commit(sequence)


async def _record(work: UnitOfWork, actor: Actor, approval: Approval, *, change: str, at: datetime) -> None:
    facts: dict[str, JsonValue] = {
        "action": approval.action,
        "subject_id": approval.subject_id,
        "requested_by": approval.requested_by,
        "state": approval.state,
    }
    await work.audit.add(actor, Change(f"approval.{change}", approval.approval_id, after=facts), at=at)
    work.record(Event(EventType.APPROVAL, approval.approval_id, change, at, facts))
