"""Actions that take two persons, on both databases: asked for, approved once, and done in the same transaction."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from service.application.approvals import (
    AlreadyRequestedError,
    Approvals,
    Done,
    RequesterGoneError,
    SubjectChangedError,
    UnknownActionNameError,
)
from service.application.device_actions import BLOCK, DECOMMISSION, UNBLOCK, NothingToDoError
from service.application.operators import FileOperator, Operators, RoleError
from service.application.products import GroupSelection
from service.domain.approval import (
    Approval,
    ApprovalDecidedError,
    ApprovalExpiredError,
    ApprovalState,
    SamePersonError,
    UnknownApprovalError,
)
from service.domain.device import DeviceState, FinalStateError
from service.domain.operator import Actor, Role
from tests.attesting_device import AttestingDevice
from tests.integration.service_devices.device_world import DeviceWorld, open_world
from tests.integration.service_updates.update_world import SeededEntropy
from tests.service_folder import Folders

ANNA, BOB, CARL = Actor("anna", Role.ADMIN), Actor("bob", Role.ADMIN), Actor("carl", Role.ADMIN)
VERA, OTTO = Actor("vera", Role.VIEWER), Actor("otto", Role.OPERATOR)
SEEDS = itertools.count(1000)  # so that no operator gets the id of another
PEOPLE = (ANNA, BOB, CARL, VERA, OTTO)


@pytest.fixture
async def world(database: str, folders: Folders) -> AsyncIterator[DeviceWorld]:
    async with open_world(database, folders, two_person=[BLOCK, UNBLOCK, DECOMMISSION]) as opened:
        await people(opened, PEOPLE)
        opened.clock.advance(1)
        yield opened


def operators(world: DeviceWorld) -> Operators:
    return Operators(world.unit_of_work, clock=world.clock, entropy=SeededEntropy(next(SEEDS)))


async def people(world: DeviceWorld, actors: tuple[Actor, ...]) -> None:
    """Make operators.json hold these."""
    in_file = [FileOperator(actor.name, actor.role, f"{actor.name}:{actor.role}".ljust(64, "0")) for actor in actors]
    await operators(world).synchronise(in_file)


async def requested(world: DeviceWorld, device: AttestingDevice, actor: Actor = ANNA) -> Approval:
    outcome = await world.devices.block(actor, device.device_id, reason="stolen")
    assert isinstance(outcome, Approval)
    return outcome


async def state(world: DeviceWorld, device: AttestingDevice) -> DeviceState:
    return (await world.devices.get(device.device_id)).device.state


async def test_second_person_does_what_the_first_asked_for(world: DeviceWorld) -> None:
    """Nothing happens before, everything at once, and the audit log names both."""
    device = await world.claimed()
    request = await requested(world, device)
    assert await state(world, device) is DeviceState.CLAIMED
    world.standings.check(device.device_id)

    approved, _ = await world.approvals.approve(BOB, request.approval_id)

    assert (approved.state, approved.decided_by) == (ApprovalState.APPROVED, "bob")
    assert await state(world, device) is DeviceState.BLOCKED
    assert await world.standings.refusal(device.device_id) == "blocked"
    async with world.unit_of_work(read_only=True) as work:
        entries = await work.audit.page(before_id=None, limit=10, subject_id=device.device_id)
        decisions = await work.audit.page(before_id=None, limit=10, subject_id=request.approval_id)
    blocked = next(entry for entry in entries if entry.change.action == "device.blocked")
    assert (blocked.actor, blocked.change.after["approved_by"]) == ("anna", "bob")
    assert [(entry.actor, entry.change.action) for entry in decisions] == [
        ("bob", "approval.approved"),
        ("anna", "approval.requested"),
    ]


async def test_own_request_is_not_approved_whatever_the_credential(world: DeviceWorld) -> None:
    """An actor is a name; a token and a certificate of one name are one person."""
    device = await world.claimed()
    request = await requested(world, device)
    with pytest.raises(SamePersonError, match="expected another operator than anna, found the same"):
        await world.approvals.approve(Actor("anna", Role.ADMIN), request.approval_id)
    assert await state(world, device) is DeviceState.CLAIMED
    assert (await world.approvals.get(request.approval_id)).state is ApprovalState.PENDING


async def test_role_too_low_neither_asks_nor_decides(world: DeviceWorld) -> None:
    """Both persons need the action's role."""
    device = await world.claimed()
    with pytest.raises(RoleError, match="expected at least operator, found viewer"):
        await requested(world, device, VERA)
    with pytest.raises(RoleError, match="expected at least admin, found operator"):
        await world.devices.decommission(OTTO, device.device_id, reason="scrap")
    request = await requested(world, device)
    for decide in (world.approvals.approve, world.approvals.reject):
        with pytest.raises(RoleError, match="expected at least operator, found viewer"):
            await decide(VERA, request.approval_id)


async def test_request_is_approved_once(world: DeviceWorld) -> None:
    """A repetition, by the same or another person, does nothing twice."""
    device = await world.claimed()
    request = await requested(world, device)
    await world.approvals.approve(BOB, request.approval_id)
    version = (await world.devices.get(device.device_id)).device.version
    for actor in (BOB, CARL):
        with pytest.raises(ApprovalDecidedError, match="found it approved"):
            await world.approvals.approve(actor, request.approval_id)
    assert (await world.devices.get(device.device_id)).device.version == version


async def test_of_two_who_decide_at_once_one_does(world: DeviceWorld) -> None:
    """The row decides; the other one is told."""
    device = await world.claimed()
    request = await requested(world, device)
    decided = await asyncio.gather(
        world.approvals.approve(BOB, request.approval_id),
        world.approvals.approve(CARL, request.approval_id),
        world.approvals.reject(OTTO, request.approval_id),
        return_exceptions=True,
    )
    refused = [one for one in decided if isinstance(one, BaseException)]
    assert [type(one) for one in refused] == [ApprovalDecidedError] * 2
    stands = (await world.approvals.get(request.approval_id)).state
    blocked = await state(world, device) is DeviceState.BLOCKED
    assert blocked == (stands is ApprovalState.APPROVED)


async def test_rejected_request_is_over(world: DeviceWorld) -> None:
    """Anybody of the role rejects, the one who asked included; a new request may follow."""
    device = await world.claimed()
    for actor in (BOB, ANNA):
        request = await requested(world, device)
        assert (await world.approvals.reject(actor, request.approval_id)).decided_by == actor.name
        with pytest.raises(ApprovalDecidedError, match="found it rejected"):
            await world.approvals.approve(CARL, request.approval_id)
    assert await state(world, device) is DeviceState.CLAIMED


async def test_request_ends_after_a_day(world: DeviceWorld) -> None:
    """Nobody approves it then; it shows as expired at once, and the service closes it in the end."""
    device = await world.claimed()
    request = await requested(world, device)
    world.clock.advance(timedelta(days=1).total_seconds())
    with pytest.raises(ApprovalExpiredError, match="expected a decision before"):
        await world.approvals.approve(BOB, request.approval_id)
    assert (await world.approvals.get(request.approval_id)).state is ApprovalState.EXPIRED
    assert await world.approvals.page(before=None, limit=10, pending=True) == []
    await requested(world, device)
    for _ in range(2):
        await world.approvals.keep_house(world.clock.now())
    closed = await world.approvals.get(request.approval_id)
    assert (closed.state, closed.decided_by) == (ApprovalState.EXPIRED, "service")
    assert len(await world.approvals.page(before=None, limit=10, pending=True)) == 1


async def test_subject_that_changed_meanwhile_closes_the_request(world: DeviceWorld) -> None:
    """What was asked for on other facts is not done; it must be asked for again."""
    device = await world.claimed()
    request = await requested(world, device)
    (other,) = await world.products.page_groups(GroupSelection(name="Field Test"), after_id=None, limit=2)
    await world.devices.move(ANNA, device.device_id, group_id=other.group_id, based_on=None)
    with pytest.raises(SubjectChangedError, match="expected version 1 of its subject, found 2"):
        await world.approvals.approve(BOB, request.approval_id)
    assert (await world.approvals.get(request.approval_id)).state is ApprovalState.STALE
    assert await state(world, device) is DeviceState.CLAIMED
    await world.approvals.approve(BOB, (await requested(world, device)).approval_id)
    assert await state(world, device) is DeviceState.BLOCKED


@pytest.mark.parametrize("left", [(BOB, CARL), (Actor("anna", Role.VIEWER), BOB)])
async def test_requester_who_is_gone_or_demoted_closes_the_request(world: DeviceWorld, left: tuple[Actor, ...]) -> None:
    """Of the two persons, both must still be ones."""
    device = await world.claimed()
    request = await requested(world, device)
    await people(world, left)
    bob = await _added_before(world, request, BOB)
    with pytest.raises(RequesterGoneError, match="expected anna to be an operator who may ask for it"):
        await world.approvals.approve(bob, request.approval_id)
    assert (await world.approvals.get(request.approval_id)).state is ApprovalState.STALE


async def _added_before(world: DeviceWorld, request: Approval, actor: Actor) -> Actor:
    """Return an operator after checking that it is from before the request: bob was not touched."""
    known = {operator.name: operator for operator in await operators(world).list()}
    assert known[actor.name].created_at < request.requested_at
    return actor


async def test_operator_who_was_added_since_does_not_approve(world: DeviceWorld) -> None:
    """An admin alone cannot make the second person up."""
    device = await world.claimed()
    request = await requested(world, device)
    world.clock.advance(1)
    await operators(world).add(ANNA, name="anna2", role=Role.ADMIN)
    with pytest.raises(SamePersonError, match="found anna2 added since"):
        await world.approvals.approve(Actor("anna2", Role.ADMIN), request.approval_id)


async def test_same_request_waits_once(world: DeviceWorld) -> None:
    """A second one is told which waits."""
    device = await world.claimed()
    request = await requested(world, device)
    with pytest.raises(AlreadyRequestedError, match="found one by anna") as caught:
        await requested(world, device, BOB)
    assert caught.value.members == {"approval": request.approval_id}


async def test_of_two_who_ask_at_once_one_waits(world: DeviceWorld) -> None:
    """The other learns of it, although neither found one when it looked."""
    device = await world.claimed()
    answers = await asyncio.gather(
        requested(world, device), requested(world, device, BOB), requested(world, device), return_exceptions=True
    )
    (waiting,) = [answer for answer in answers if isinstance(answer, Approval)]
    refused = [answer for answer in answers if isinstance(answer, AlreadyRequestedError)]
    assert [error.members for error in refused] == [{"approval": waiting.approval_id}] * 2
    async with world.unit_of_work() as work:
        assert not await work.approvals.add(replace(waiting, approval_id="another"))


async def test_expired_request_that_nobody_closed_does_not_stand_in_the_way(world: DeviceWorld) -> None:
    """It is closed by the next one; closed ones are forgotten after a month."""
    device = await world.claimed()
    old = await requested(world, device)
    world.clock.advance(86_400)
    new = await requested(world, device)
    assert (await world.approvals.get(old.approval_id)).state is ApprovalState.EXPIRED
    world.clock.advance(31 * 86_400)
    await world.approvals.keep_house(world.clock.now())
    with pytest.raises(UnknownApprovalError):
        await world.approvals.get(old.approval_id)
    assert (await world.approvals.get(new.approval_id)).state is ApprovalState.EXPIRED


async def test_what_cannot_be_done_is_not_asked_for(world: DeviceWorld) -> None:
    """The refusal comes with the request, not a day later."""
    device = await world.claimed()
    with pytest.raises(NothingToDoError, match="expected a device that it changes, found it claimed"):
        await world.devices.unblock(ANNA, device.device_id)
    with pytest.raises(UnknownApprovalError, match="expected an id in use"):
        await world.approvals.approve(BOB, "none")


async def test_decommission_is_final(world: DeviceWorld) -> None:
    """The device stays listed with its history, gets neither nonce nor connection, and is not claimed again."""
    device = await world.claimed()
    await world.attest(device)
    outcome = await world.devices.decommission(ANNA, device.device_id, reason="scrapped")
    assert isinstance(outcome, Approval)
    approved, done = await world.approvals.approve(BOB, outcome.approval_id)
    assert isinstance(done, Done)
    assert approved.arguments == {"reason": "scrapped"}
    view = await world.devices.get(device.device_id)
    assert view.device.state is DeviceState.DECOMMISSIONED
    assert await world.standings.refusal(device.device_id) == "decommissioned"
    for change in (world.devices.unblock(ANNA, device.device_id), requested(world, device)):
        with pytest.raises(FinalStateError, match="found it decommissioned"):
            await change
    assert await world.results.page_history(device.device_id, before_id=None, limit=10)


async def test_setting_that_names_no_action_is_refused(world: DeviceWorld) -> None:
    """A misspelt word would leave an action to one person."""
    approvals = Approvals(world.unit_of_work, clock=world.clock, entropy=SeededEntropy(), two_person=["device.blok"])
    with pytest.raises(UnknownActionNameError, match=r"found device\.blok"):
        approvals.check_settings()
    world.approvals.check_settings()


async def test_requests_are_listed_page_by_page(world: DeviceWorld) -> None:
    """Newest first, those of one moment too, each once."""
    expected = [(await requested(world, await world.claimed())).approval_id for _ in range(5)]
    listed: list[str] = []
    before = None
    while page := await world.approvals.page(before=before, limit=2, pending=True):
        listed += [approval.approval_id for approval in page]
        before = (page[-1].requested_at, page[-1].approval_id)
    assert sorted(listed) == sorted(expected)
