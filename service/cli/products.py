"""`tinyfleet product` and `tinyfleet group`: what devices are for, and the groups that updates go to."""

import re
from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from service.cli.client import ApiClient, JsonObject, connect
from service.cli.errors import AnswerError
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_facts, print_json, print_line, print_table, short

GroupArgument = Annotated[str, typer.Argument(help="Device group, by name or id.")]
ProductOption = Annotated[str | None, typer.Option(help="Product of the group; needed if several have one so named.")]
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


class Unknown(StrEnum):
    """What becomes of a device with unknown images or an OS below the minimum."""

    REFUSE = "refuse"
    QUARANTINE = "quarantine"
    UPDATE_ONLY = "update-only"


app = typer.Typer(help="Products.", no_args_is_help=True)
group_app = typer.Typer(help="Device groups.", no_args_is_help=True)


@app.command()
def create(
    name: str,
    *,
    description: Annotated[str, typer.Option(help="What the product is.")] = "",
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Create a product with the five default device groups."""
    with connect(operator_dir) as client:
        answer = client.post("/products", {"name": name, "description": description})
    print_json(answer) if as_json else print_line(f"created {name} ({short(answer['id'])})")


@app.command("set")
def set_product(
    name: Annotated[str, typer.Argument(help="Product, by name or id.")],
    *,
    est: Annotated[bool, typer.Option("--est/--no-est", help="Let its devices enrol by EST, or not.")],
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Set what the devices of a product may do."""
    with connect(operator_dir) as client:
        answer = client.patch(f"/products/{quote(name, safe='')}", {"est": est})
    print_json(answer) if as_json else print_line(f"{answer['name']}: EST {'on' if answer['est'] else 'off'}")


@app.command("list")
def list_products(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """List products."""
    with connect(operator_dir) as client:
        products = list(client.items("/products"))
    if as_json:
        print_json(products)
        return
    rows = (
        (short(product["id"]), product["name"], "on" if product["est"] else "off", product.get("description"))
        for product in products
    )
    print_table("Products", ("id", "name", "EST", "description"), rows)


@group_app.command("list")
def list_groups(
    *,
    product: Annotated[str | None, typer.Option(help="Only of this product.")] = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """List device groups."""
    with connect(operator_dir) as client:
        groups = list(client.items("/device-groups", product=product))
    if as_json:
        print_json(groups)
        return
    print_table("Device groups", ("id", "product", "name", "attestation"), map(_row, groups))


@group_app.command("show")
def show_group(
    group: GroupArgument,
    *,
    product: ProductOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show a device group and its policies."""
    with connect(operator_dir) as client:
        answer = find_group(client, group, product=product)
    print_json(answer) if as_json else print_facts(answer)


@group_app.command("set")
def set_policy(
    group: GroupArgument,
    *,
    product: ProductOption = None,
    minimum_os: Annotated[str | None, typer.Option(help="Lowest OS version, e.g. 1.2; empty for any.")] = None,
    life_cycle: Annotated[
        list[str] | None, typer.Option(help="Life cycle to admit: secured, provisioning, assembly-and-test.")
    ] = None,
    debug: Annotated[bool | None, typer.Option(help="Admit devices with the debug capability.")] = None,
    certificate_hours: Annotated[
        float | None, typer.Option(min=0, help="Longest life of a certificate; 0 for the service's setting.")
    ] = None,
    unknown: Annotated[
        Unknown | None, typer.Option(help="What becomes of a device with unknown images or an old OS.")
    ] = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Set what a device group demands of its devices' evidence; what is not named stays."""
    change = {
        "minimum_os": minimum_os,
        "life_cycles": life_cycle or None,
        "debug": debug,
        "certificate_hours": certificate_hours,
        "unknown": None if unknown is None else unknown.value,
    }
    wanted = {name: value for name, value in change.items() if value is not None}
    if not wanted:
        raise typer.BadParameter("expected at least one thing to set, found none")
    with connect(operator_dir) as client:
        found = find_group(client, group, product=product)
        answer = client.patch(f"/device-groups/{found['id']}", {"attestation": wanted})
    print_json(answer) if as_json else print_line(f"{answer['name']}: {in_words(answer['attestation'])}")


def _row(group: JsonObject) -> tuple[str, str, str, str]:
    return short(group["id"]), group["product"], group["name"], in_words(group["attestation"])


def find_group(client: ApiClient, group: str, *, product: str | None) -> JsonObject:
    """Return a device group by id, or by its name within a product.

    Raises:
        AnswerError: there is none, or several have this name.
    """
    named = list(client.items("/device-groups", product=product, name=group))
    if not named and _GUID.match(group):
        return client.get(f"/device-groups/{group}")
    if len(named) != 1:
        raise AnswerError(f"device group: expected one of the name {group}, found {len(named)}; name its product or id")
    return named[0]


def in_words(policy: JsonObject) -> str:
    """Return an attestation policy as one line."""
    hours = policy["certificate_hours"]
    parts = [
        f"life cycle {' or '.join(policy['life_cycles'])}{' or debug' if policy['debug'] else ''}",
        f"OS {policy['minimum_os']} or newer" if policy["minimum_os"] else "",
        "" if hours is None else f"certificates for {hours:g} h",
        f"unknown images: {policy['unknown']}",
    ]
    return ", ".join(part for part in parts if part)
