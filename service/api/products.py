"""Products and device groups."""

from dataclasses import replace
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response, status
from pydantic import BaseModel, Field
from typing_extensions import override

from service.api.attestation_policies import (
    AttestationPolicyChange,
    AttestationPolicyModel,
    attestation_policy_model,
)
from service.api.auth import OperatorActor, ViewerActor
from service.api.conditions import IfMatch, set_etag
from service.api.idempotency import IdempotentRoute, idempotency_header
from service.api.paging import Page, Paging
from service.api.requests import RequestModel
from service.api.services import ServicesParameter
from service.application.products import GroupSelection
from service.domain.product import DataBoundary, DeviceGroup, GroupPolicy, OsFeed, Product, UpdatePolicy

router = APIRouter(tags=["products"], route_class=IdempotentRoute)

Name = Annotated[str, Field(min_length=1, max_length=50, pattern=r"^[^\x00-\x1f\x7f/]+$")]
Description = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]
NameOrId = Annotated[str, Path(max_length=60)]
Selected = Annotated[str | None, Query(max_length=60)]


class ProductModel(BaseModel):
    """A product."""

    id: str
    name: str
    description: str
    est: bool
    created_at: datetime


class NewProduct(RequestModel):
    """A product to make; it gets the default device groups."""

    name: Name
    description: Description = ""


class ProductChange(RequestModel):
    """What to change of a product; what is left out stays. `est` says whether its devices may enrol by EST."""

    name: Name | None = None
    description: Description | None = None
    est: bool | None = None


class PolicyModel(RequestModel):
    """What the devices of a group take."""

    os_feed: OsFeed = OsFeed.RETAIL
    update_policy: UpdatePolicy = UpdatePolicy.UPDATE_ALL
    allow_crash_dumps: bool = False
    data_boundary: DataBoundary = DataBoundary.NONE

    def policy(self) -> GroupPolicy:
        """Return the policy."""
        return GroupPolicy(self.os_feed, self.update_policy, self.allow_crash_dumps, self.data_boundary)


class GroupModel(PolicyModel):
    """A device group."""

    attestation: AttestationPolicyModel
    id: str
    product_id: str
    product: str
    name: str
    description: str
    created_at: datetime


class NewGroup(PolicyModel):
    """A device group to make; `product_id` may be the product's name."""

    product_id: Annotated[str, Field(max_length=60)]
    name: Name
    description: Description = ""
    attestation: AttestationPolicyChange = AttestationPolicyChange()

    @override
    def policy(self) -> GroupPolicy:
        """Return the policy.

        Raises:
            AttestationPolicyError: it is none.
        """
        policy = super().policy()
        return replace(policy, attestation=self.attestation.applied_to(policy.attestation))


class GroupChange(RequestModel):
    """What to change of a device group; what is left out stays, a policy but for `attestation` changes as a whole."""

    name: Name | None = None
    description: Description | None = None
    policy: PolicyModel | None = None
    attestation: AttestationPolicyChange | None = None

    def changed(self, before: GroupPolicy) -> GroupPolicy:
        """Return the changed policy.

        Raises:
            AttestationPolicyError: it is none.
        """
        after = before if self.policy is None else self.policy.policy()
        change = self.attestation or AttestationPolicyChange()
        return replace(after, attestation=change.applied_to(before.attestation))


@router.get("/products")
async def list_products(_actor: ViewerActor, services: ServicesParameter, paging: Paging) -> Page[ProductModel]:
    """List products by name."""
    found = await services.products.page(after_name=paging.after, limit=paging.fetch)
    return paging.page(found, key=lambda product: product.name, model=_product_model)


@router.post("/products", status_code=status.HTTP_201_CREATED, dependencies=[Depends(idempotency_header)])
async def create_product(
    actor: OperatorActor, services: ServicesParameter, wanted: NewProduct, response: Response
) -> ProductModel:
    """Make a product with the five default device groups."""
    product = await services.products.create(actor, name=wanted.name, description=wanted.description)
    set_etag(response, product.version)
    return _product_model(product)


@router.get("/products/{product}")
async def show_product(
    _actor: ViewerActor, services: ServicesParameter, product: NameOrId, response: Response
) -> ProductModel:
    """Show a product, by id or name."""
    found = await services.products.get(product)
    set_etag(response, found.version)
    return _product_model(found)


@router.patch("/products/{product}")
async def change_product(
    *,
    actor: OperatorActor,
    services: ServicesParameter,
    product: NameOrId,
    wanted: ProductChange,
    based_on: IfMatch,
    response: Response,
) -> ProductModel:
    """Change a product."""
    changed = await services.products.change(
        actor, product, name=wanted.name, description=wanted.description, est=wanted.est, based_on=based_on
    )
    set_etag(response, changed.version)
    return _product_model(changed)


@router.get("/device-groups")
async def list_device_groups(
    _actor: ViewerActor,
    services: ServicesParameter,
    paging: Paging,
    product: Selected = None,
    name: Selected = None,
) -> Page[GroupModel]:
    """List device groups, of one product (id or name) or of one name."""
    found = await services.products.page_groups(
        GroupSelection(product=product, name=name), after_id=paging.after, limit=paging.fetch
    )
    return paging.page(found, key=lambda group: group.group_id, model=_group_model)


@router.post("/device-groups", status_code=status.HTTP_201_CREATED, dependencies=[Depends(idempotency_header)])
async def create_device_group(
    actor: OperatorActor, services: ServicesParameter, wanted: NewGroup, response: Response
) -> GroupModel:
    """Make a device group."""
    group = await services.products.create_group(
        actor,
        product=wanted.product_id,
        name=wanted.name,
        description=wanted.description,
        policy=wanted.policy(),
    )
    set_etag(response, group.version)
    return _group_model(group)


@router.get("/device-groups/{group_id}")
async def show_device_group(
    _actor: ViewerActor, services: ServicesParameter, group_id: NameOrId, response: Response
) -> GroupModel:
    """Show a device group."""
    group = await services.products.get_group(group_id)
    set_etag(response, group.version)
    return _group_model(group)


@router.patch("/device-groups/{group_id}")
async def change_device_group(
    *,
    actor: OperatorActor,
    services: ServicesParameter,
    group_id: NameOrId,
    wanted: GroupChange,
    based_on: IfMatch,
    response: Response,
) -> GroupModel:
    """Change a device group."""
    group = await services.products.change_group(
        actor,
        group_id,
        name=wanted.name,
        description=wanted.description,
        policy=wanted.changed,
        based_on=based_on,
    )
    set_etag(response, group.version)
    return _group_model(group)


def _product_model(product: Product) -> ProductModel:
    return ProductModel(
        id=product.product_id,
        name=product.name,
        description=product.description,
        est=product.est,
        created_at=product.created_at,
    )


def _group_model(group: DeviceGroup) -> GroupModel:
    return GroupModel(
        id=group.group_id,
        product_id=group.product_id,
        product=group.product_name,
        name=group.name,
        description=group.description,
        created_at=group.created_at,
        os_feed=group.policy.os_feed,
        update_policy=group.policy.update_policy,
        allow_crash_dumps=group.policy.allow_crash_dumps,
        data_boundary=group.policy.data_boundary,
        attestation=attestation_policy_model(group.policy.attestation),
    )
