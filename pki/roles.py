"""The names of every key, which are also the names of its files.

The ceremony makes the keys of fixed names, a later generation of one bears its number (`image-targets-2`), and people
who sign update metadata together name their own (`ada`).
"""

import re
from enum import StrEnum

from pki.errors import KeyNameError

KEY_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_GENERATION = re.compile(r"-[0-9]{1,4}$")


class OfflineKey(StrEnum):
    """Keys of the operator; the service never sees one."""

    ROOT = "root"  # X.509 root, root role of both repositories
    IMAGE_TARGETS = "image-targets"  # targets role of the Image repository
    PACKAGE = "package"  # applications, firmware and models
    GOLDEN = "golden"  # golden vectors
    FACTORY = "factory"  # issuer of IDevID certificates
    SERVER_CA = "server-ca"  # issuer of the service's TLS certificates
    VOUCHER = "voucher"  # device id → catalog
    ROM = "rom"  # boot loader, security monitor and OS


class OnlineKey(StrEnum):
    """Keys of the service, made on its side and signed by the ceremony."""

    ISSUING_CA = "issuing-ca"  # issuer of LDevID certificates
    SERVER = "server"  # TLS
    OCSP = "ocsp"  # answers about IDevID certificates
    DIRECTOR = "director"  # timestamp, snapshot and targets roles of the Director; signed time
    SNAPSHOT = "snapshot"  # of the Image repository
    TIMESTAMP = "timestamp"  # of the Image repository


LOG_KEY = "log"  # of the service, too: the transparency log, Ed25519 (pki/log_key.py)
FIXED_ROLES = frozenset({*OfflineKey, *OnlineKey, LOG_KEY})
METADATA_KEYS = (OfflineKey.ROOT, OfflineKey.IMAGE_TARGETS)  # of the fixed ones, those that sign update metadata
_NOT_FOR_METADATA = FIXED_ROLES - set(METADATA_KEYS)


def base_role(name: str) -> str:
    """Return the role of which a name is a generation: `issuing-ca` for `issuing-ca-2`."""
    return _GENERATION.sub("", name)


def check_own_key(name: str) -> None:
    """Refuse a name for a key that a person makes to sign update metadata.

    Raises:
        KeyNameError: it is no name, or that of a key which others make or which signs something else.
    """
    if not KEY_NAME.fullmatch(name):
        raise KeyNameError(f"key name: expected a letter, then at most 31 of a-z, 0-9 and '-', found {name[:40]!r}")
    if name in FIXED_ROLES or base_role(name) in _NOT_FOR_METADATA:
        raise KeyNameError(
            f"key name: expected one of your own, or a later generation such as {OfflineKey.IMAGE_TARGETS}-2, "
            f"found {name}"
        )


def signs_metadata(name: str) -> bool:
    """Say whether a key of this name may sign update metadata."""
    return base_role(name) not in _NOT_FOR_METADATA
