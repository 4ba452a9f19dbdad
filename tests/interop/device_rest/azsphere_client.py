"""Runs Microsoft's azuresphere-device-api for one device: a call per line on stdin, its outcome per line on stdout.

    {"call": "wifi.get_all_wifi_networks", "arguments": [], "keywords": {}}
    {"result": {"values": []}}   or   {"raised": "DeviceError", "text": "ERROR: …"}

The package keeps session, address and interface version in globals of its process, so a device has a process.
"""

import importlib
import json
import sys

from azuresphere_device_api import exceptions, utils  # type: ignore[import-untyped] # the package has no annotations


def main(address: str, certificate: str) -> None:
    utils.set_device_ip_address(address)
    utils._CERT_PATH = certificate
    for line in sys.stdin:
        order = json.loads(line)
        module, _, name = order["call"].rpartition(".")
        function = getattr(importlib.import_module(f"azuresphere_device_api.{module}"), name)
        try:
            outcome = {"result": function(*order["arguments"], **order["keywords"])}
        except exceptions.AzureSphereDeviceApiException as error:
            outcome = {"raised": type(error).__name__, "text": str(error)}
        sys.stdout.write(json.dumps(outcome, default=bytes.hex) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
