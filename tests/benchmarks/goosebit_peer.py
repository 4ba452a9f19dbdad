"""gooseBit 0.2.12 as a peer: its own venv, SQLite, N registered devices, uvicorn with mutual TLS.

Run by gooseBit's interpreter: `python goosebit_peer.py seed COUNT` makes the schema and the devices;
`python goosebit_peer.py serve HOST PORT CERTIFICATE KEY CA` serves until it is stopped. The database is named by
GOOSEBIT_DB_URI.
"""

import asyncio
import ssl
import sys


async def seed(count: int) -> None:
    """Make the schema and `count` registered devices, named device-0 and so on."""
    from goosebit.db.config import TORTOISE_CONF
    from goosebit.db.models import Device, Hardware, UpdateStateEnum
    from tortoise import Tortoise

    await Tortoise.init(config=TORTOISE_CONF)
    await Tortoise.generate_schemas()
    hardware, _ = await Hardware.get_or_create(model="default", revision="default")
    devices = (
        Device(id=f"device-{index}", hardware=hardware, last_state=UpdateStateEnum.REGISTERED, feed="default")
        for index in range(count)
    )
    await Device.bulk_create(devices, batch_size=500)
    await Tortoise.close_connections()


def serve(host: str, port: int, certificate: str, key: str, ca: str) -> None:
    """Serve gooseBit's application with the same TLS demands as ours."""
    import uvicorn

    uvicorn.run(
        "goosebit:app",
        host=host,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_ca_certs=ca,
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    if sys.argv[1] == "seed":
        asyncio.run(seed(int(sys.argv[2])))
    else:
        serve(sys.argv[2], int(sys.argv[3]), *sys.argv[4:7])
