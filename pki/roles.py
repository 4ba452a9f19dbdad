"""The names of every key, which are also the names of its files."""

from enum import StrEnum


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
