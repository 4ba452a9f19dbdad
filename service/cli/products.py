"""`tinyfleet product` and `tinyfleet group`: what devices are for, and the groups that updates go to."""

from typing import Annotated

import typer

from service.cli.client import connect
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_json, print_line, print_table, short

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


@app.command("list")
def list_products(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """List products."""
    with connect(operator_dir) as client:
        products = list(client.items("/products"))
    if as_json:
        print_json(products)
        return
    rows = ((short(product["id"]), product["name"], product.get("description")) for product in products)
    print_table("Products", ("id", "name", "description"), rows)


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
    rows = ((short(group["id"]), group.get("product"), group["name"]) for group in groups)
    print_table("Device groups", ("id", "product", "name"), rows)
