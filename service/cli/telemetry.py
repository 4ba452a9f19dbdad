"""`tinyfleet telemetry`: what devices report."""

import json
from typing import Annotated

import typer

from service.cli.client import JsonObject, connect
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, one_id
from service.cli.output import moment, print_json, print_line, short

app = typer.Typer(help="Telemetry: follow and count it.", no_args_is_help=True)

StreamOption = Annotated[str | None, typer.Option(help="Only this stream, e.g. inference.")]


@app.command()
def tail(
    *,
    device: Annotated[str | None, typer.Option(help="Only this device.", callback=one_id)] = None,
    stream: StreamOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many messages.")] = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Follow telemetry live, one line per message, until Ctrl-C."""
    with connect(operator_dir) as client:
        device_id = device and str(client.get(f"/devices/{device}")["id"])
        for count, event in enumerate(client.events("/telemetry/stream", device=device_id, stream=stream), start=1):
            print_line(event.data if as_json else _line(json.loads(event.data)))
            if count == limit:
                return


@app.command()
def count(
    *,
    stream: StreamOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Count stored telemetry."""
    with connect(operator_dir) as client:
        answer = client.get("/telemetry/count", stream=stream)
    print_json(answer) if as_json else print_line(str(answer["count"]))


def _line(message: JsonObject) -> str:
    payload = message["payload"]
    head = f"{moment(message['received_at'])}  {short(message['device_id'])}  {message['stream']}"
    if not isinstance(payload, dict) or "label" not in payload:
        return f"{head}  {json.dumps(payload)}"
    answer = payload.get("error") or f"{payload['label']} {payload['score']:.2f}"
    return f"{head}  {payload['core']}  {payload['model']}  {answer}  {payload['m4_ms']:.0f} ms"
