"""Use cases of products and device groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from service.application.audit import Change
from service.application.clock import Clock
from service.application.entropy import Entropy
from service.application.events import Event, EventType
from service.application.operators import RoleError
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.attestation_policy import AttestationPolicy, life_cycle_label
from service.domain.errors import JsonValue, VersionConflictError
from service.domain.operator import Actor, Role
from service.domain.product import DEFAULT_GROUPS, DeviceGroup, GroupPolicy, Product

PolicyChange = Callable[[GroupPolicy], GroupPolicy]


@dataclass(frozen=True, slots=True)
class GroupSelection:
    """Which device groups to list; None stands for all."""

    product: str | None = None  # id or name
    name: str | None = None


class Products:
    """Products and their device groups."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, clock: Clock, entropy: Entropy) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._entropy = entropy

    async def create(self, actor: Actor, *, name: str, description: str) -> Product:
        """Make a product with the default device groups.

        Raises:
            NameTakenError: a product of this name exists.
        """
        now = self._clock.now()
        product = Product(self._entropy.guid(), name, description, created_at=now)
        groups = [self._group(product, group, "", policy) for group, policy in DEFAULT_GROUPS]
        async with self._unit_of_work() as work:
            await work.products.add(product, groups)
            await work.audit.add(actor, Change("product.create", product.product_id, after=_facts(product)), at=now)
            work.record(Event(EventType.PRODUCT, product.product_id, "created", now))
            await work.commit()
        return product

    async def get(self, id_or_name: str) -> Product:
        """Return a product.

        Raises:
            UnknownProductError: there is none.
        """
        async with self._unit_of_work(read_only=True) as work:
            return await work.products.get(id_or_name)

    async def page(self, *, after_name: str | None, limit: int) -> Sequence[Product]:
        """Return at most `limit` products by name."""
        async with self._unit_of_work(read_only=True) as work:
            return await work.products.page(after_name=after_name, limit=limit)

    async def change(
        self,
        actor: Actor,
        id_or_name: str,
        *,
        name: str | None,
        description: str | None,
        est: bool | None = None,
        based_on: int | None,
    ) -> Product:
        """Change a product; None leaves a field as it is.

        Raises:
            UnknownProductError: there is none.
            VersionConflictError: it changed since the version that the caller saw.
            NameTakenError: a product of this name exists.
            RoleError: `est` changes, and the operator is no admin.
        """
        async with self._unit_of_work() as work:
            before = await work.products.get(id_or_name)
            check_version(based_on, before.version)
            after = replace(
                before,
                name=before.name if name is None else name,
                description=before.description if description is None else description,
                est=before.est if est is None else est,
                version=before.version + 1,
            )
            if after.est is not before.est:
                _check_admin(actor, "whether devices enrol by EST")
            await work.products.save(after, replaces_version=before.version)
            change = Change("product.change", after.product_id, before=_facts(before), after=_facts(after))
            await self._changed(work, actor, change)
            await work.commit()
        return after

    async def create_group(
        self, actor: Actor, *, product: str, name: str, description: str, policy: GroupPolicy
    ) -> DeviceGroup:
        """Make a device group.

        Raises:
            UnknownProductError: there is no such product.
            NameTakenError: the product has a group of this name.
            RoleError: its attestation policy is not the usual one, and the operator is no admin.
        """
        if policy.attestation != AttestationPolicy():
            _check_admin(actor, "what devices must show to be let in")
        async with self._unit_of_work() as work:
            group = self._group(await work.products.get(product), name, description, policy)
            await work.products.add_group(group)
            await self._changed(work, actor, Change("group.create", group.group_id, after=_group_facts(group)))
            await work.commit()
        return group

    async def get_group(self, group_id: str) -> DeviceGroup:
        """Return a device group.

        Raises:
            UnknownGroupError: there is none.
        """
        async with self._unit_of_work(read_only=True) as work:
            return await work.products.get_group(group_id)

    async def page_groups(
        self, selection: GroupSelection, *, after_id: str | None, limit: int
    ) -> Sequence[DeviceGroup]:
        """Return at most `limit` device groups by id.

        Raises:
            UnknownProductError: there is no such product.
        """
        async with self._unit_of_work(read_only=True) as work:
            product = None if selection.product is None else await work.products.get(selection.product)
            return await work.products.page_groups(
                after_id=after_id,
                limit=limit,
                product_id=None if product is None else product.product_id,
                name=selection.name,
            )

    async def change_group(
        self,
        actor: Actor,
        group_id: str,
        *,
        name: str | None,
        description: str | None,
        policy: PolicyChange | None,
        based_on: int | None,
    ) -> DeviceGroup:
        """Change a device group; None leaves a field as it is.

        Raises:
            UnknownGroupError: there is none.
            VersionConflictError: it changed since the version that the caller saw.
            NameTakenError: the product has a group of this name.
            AttestationPolicyError: the changed policy is none.
            RoleError: the attestation policy changes, and the operator is no admin.
        """
        async with self._unit_of_work() as work:
            before = await work.products.get_group(group_id)
            check_version(based_on, before.version)
            after = replace(
                before,
                name=before.name if name is None else name,
                description=before.description if description is None else description,
                policy=before.policy if policy is None else policy(before.policy),
                version=before.version + 1,
            )
            if after.policy.attestation != before.policy.attestation:
                _check_admin(actor, "what devices must show to be let in")
            await work.products.save_group(after, replaces_version=before.version)
            change = Change("group.change", group_id, before=_group_facts(before), after=_group_facts(after))
            await self._changed(work, actor, change)
            await work.commit()
        return after

    def _group(self, product: Product, name: str, description: str, policy: GroupPolicy) -> DeviceGroup:
        return DeviceGroup(
            group_id=self._entropy.guid(),
            product_id=product.product_id,
            product_name=product.name,
            name=name,
            description=description,
            policy=policy,
            created_at=self._clock.now(),
        )

    async def _changed(self, work: UnitOfWork, actor: Actor, change: Change) -> None:
        now = self._clock.now()
        await work.audit.add(actor, change, at=now)
        work.record(Event(EventType.PRODUCT, change.subject_id, change.action, now))


def check_version(based_on: int | None, in_force: int) -> None:
    """Let a change pass that is based on the version in force, or on none.

    Raises:
        VersionConflictError: it is based on another.
    """
    if based_on is not None and based_on != in_force:
        raise VersionConflictError(f"version: expected {in_force} in force, found a change based on {based_on}")


def _check_admin(actor: Actor, what: str) -> None:
    if not actor.role.includes(Role.ADMIN):
        raise RoleError(f"role: expected {Role.ADMIN} to say {what}, found {actor.role}")


def _facts(product: Product) -> dict[str, JsonValue]:
    return {"name": product.name, "description": product.description, "est": product.est}


def _group_facts(group: DeviceGroup) -> dict[str, JsonValue]:
    return {
        "product": group.product_name,
        "name": group.name,
        "description": group.description,
        "os_feed": group.policy.os_feed,
        "update_policy": group.policy.update_policy,
        "allow_crash_dumps": group.policy.allow_crash_dumps,
        "data_boundary": group.policy.data_boundary,
        "attestation": _attestation_facts(group.policy.attestation),
    }


def _attestation_facts(policy: AttestationPolicy) -> dict[str, JsonValue]:
    lifetime = policy.certificate_lifetime
    return {
        "minimum_os": policy.minimum_os,
        "life_cycles": [life_cycle_label(life_cycle) for life_cycle in sorted(policy.life_cycles)],
        "debug": policy.debug,
        "certificate_seconds": None if lifetime is None else lifetime.total_seconds(),
        "unknown": policy.unknown,
    }
