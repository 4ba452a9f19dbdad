"""What the interface refuses: error codes that the client knows, and the HTTP status of each.

Source: `ERROR_MESSAGE_MAP_DICT` of azuresphere-device-api 1.1.1. A code or a status that is not in its tables makes the
client raise UnknownDeviceError, so none is invented here.
"""

from collections.abc import Mapping
from enum import IntEnum
from http import HTTPStatus
from types import MappingProxyType

from device_sim.errors import DeviceSimError


class Code(IntEnum):
    """An error code; the client has a sentence for each."""

    PERMISSION_DENIED = 13
    INVALID_IMAGE = 1048591
    NOT_PERMITTED = 1048596
    NO_DEBUG_SERVER = 3145738
    NOT_TRUSTED = 7340047
    NOT_STAGEABLE = 7340050
    INSTALL_FAILED = 7340056
    SIDELOAD_DENIED = 7340069
    UPDATE_RUNS = 7340071
    BAD_COMPONENT = 7340079
    INVALID_PARAMETER = 10485761
    BUSY = 10485765
    NO_QUOTA = 10485766
    CONFIGURATION_NAME_LENGTH = 10485776
    INVALID_NETWORK = 13631496
    NETWORK_EXISTS = 13631490
    NETWORK_NOT_FOUND = 13631491
    NETWORK_NOT_CONFIGURED = 13631499
    SSID_TOO_LONG = 13631503
    KEY_TOO_LONG = 13631504
    TOO_MANY_NETWORKS = 13631510
    CONFIGURATION_NAME_EXISTS = 13631511
    NO_CLIENT_IDENTITY = 13631512
    KEY_TOO_SHORT = 13631513
    NOT_PRESENT = 14680076
    NO_SPACE = 14680082
    INVALID_URI = 15728642
    TOO_LARGE = 15728644
    INVALID_INTERFACE = 31457294
    CERTIFICATE_ID_INVALID = 38797314
    CERTIFICATE_ID_TOO_LONG = 38797316
    CERTIFICATE_NOT_FOUND = 38797319
    CERTIFICATE_SPACE = 38797323
    CERTIFICATE_TYPE = 38797324
    CERTIFICATE_INVALID = 38797325
    CERTIFICATE_TOO_LONG = 38797326
    KEY_INVALID = 38797327
    CERTIFICATE_KEY_TOO_LONG = 38797328
    KEY_NOT_ALLOWED = 38797329
    PASSWORD_TOO_LONG = 38797330
    PASSWORD_NOT_ALLOWED = 38797331
    KEY_MISMATCH = 38797332
    PASSWORD_NOT_NEEDED = 38797333


_STATUS: Mapping[Code, HTTPStatus] = MappingProxyType(
    {
        **dict.fromkeys(
            (Code.PERMISSION_DENIED, Code.NOT_PERMITTED, Code.NOT_TRUSTED, Code.SIDELOAD_DENIED), HTTPStatus.FORBIDDEN
        ),
        **dict.fromkeys(
            (
                Code.NO_QUOTA,
                Code.NETWORK_NOT_FOUND,
                Code.NETWORK_NOT_CONFIGURED,
                Code.NOT_PRESENT,
                Code.INVALID_URI,
                Code.INVALID_INTERFACE,
                Code.CERTIFICATE_NOT_FOUND,
            ),
            HTTPStatus.NOT_FOUND,
        ),
        **dict.fromkeys(
            (
                Code.NO_DEBUG_SERVER,
                Code.INSTALL_FAILED,
                Code.UPDATE_RUNS,
                Code.NETWORK_EXISTS,
                Code.CONFIGURATION_NAME_EXISTS,
            ),
            HTTPStatus.CONFLICT,
        ),
        Code.BUSY: HTTPStatus.INTERNAL_SERVER_ERROR,
    }
)


class RequestRefusedError(DeviceSimError):
    """A request to the device-local interface breaks the rule that its code names.

    Attributes:
        code: that the client is told.
        status: HTTP status of the answer.
    """

    def __init__(self, code: Code, detail: str, *, status: HTTPStatus | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status or _STATUS.get(code, HTTPStatus.BAD_REQUEST)
