"""Whole update checks over mutual TLS, as a process of its own: `python check_load.py PLAN.json` prints a JSON object.

The plan: {"host", "port", "ca", "clients": [{"certificate", "key"}], "paths": [...]}. Each client makes one new TLS
connection and asks for every path in turn, as a device does that looks for an update. The answer: {"checks", "bytes",
"seconds"}. Bounded: each client checks once; it stops at the first answer that is not 200.
"""

import http.client
import json
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

THREADS = 4


class LoadError(Exception):
    """The server did not answer 200."""


def check(plan: dict[str, Any], context: ssl.SSLContext) -> int:
    """Make one check; return the bytes of its answers' bodies."""
    connection = http.client.HTTPSConnection(plan["host"], plan["port"], context=context, timeout=30)
    taken = 0
    try:
        for path in plan["paths"]:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != http.HTTPStatus.OK:
                raise LoadError(f"{path}: expected 200, found {answer.status} {body[:200]!r}")
            taken += len(body)
    finally:
        connection.close()
    return taken


def run(plan: dict[str, Any], contexts: list[ssl.SSLContext], totals: list[int], errors: list[Exception]) -> None:
    """Check once with each context."""
    try:
        totals.extend(check(plan, context) for context in contexts)
    except (OSError, LoadError) as error:
        errors.append(error)


def main() -> None:
    """Run one plan and print what was counted."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    contexts = []
    for client in plan["clients"]:
        context = ssl.create_default_context(cafile=plan["ca"])
        context.load_cert_chain(client["certificate"], client["key"])
        contexts.append(context)
    totals: list[int] = []
    errors: list[Exception] = []
    begin = time.perf_counter()
    shares = [contexts[index::THREADS] for index in range(THREADS)]
    threads = [threading.Thread(target=run, args=(plan, share, totals, errors)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    print(json.dumps({"checks": len(totals), "bytes": sum(totals), "seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main()
