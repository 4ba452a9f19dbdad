"""Folders as version 0.1.0 made them: no server CA, OCSP responder, name constraints, revocation lists, transcript."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cryptography import x509

from pki import profiles
from pki.authority import chain_pem, self_signed_root
from pki.ceremony_declaration import usual_declaration
from pki.ceremony_steps import CeremonySteps
from pki.files import PUBLIC_MODE, create_file
from pki.online import request_online_keys, requested_key
from pki.profiles import Profile, Revocation
from pki.roles import OfflineKey, OnlineKey
from pki.stores import KeyStores
from pki.transcript import StepKind


def hold_as_version_0_1(folder: Path, keys: KeyStores, *, now: datetime) -> None:
    """Make operator/ and service/ of the earlier version."""
    request_online_keys(folder / "service")
    signers = {role: keys.generate(role) for role in OfflineKey if role != OfflineKey.SERVER_CA}
    root = self_signed_root(profiles.root_ca("demo", now=now), signers[OfflineKey.ROOT])
    factory = root.issue(_bare(profiles.factory_ca("demo", now=now)), signers[OfflineKey.FACTORY].public_key)
    _write(folder / "operator", {"root": root.certificate, "factory": factory})
    service = folder / "service"
    issuing_ca = root.issue(_bare(profiles.issuing_ca("demo", now=now)), requested_key(service, OnlineKey.ISSUING_CA))
    server = root.issue(profiles.server(profiles.LOOPBACK_HOSTNAMES, now=now), requested_key(service, OnlineKey.SERVER))
    _write(service, {"root": root.certificate, "factory": factory, "issuing-ca": issuing_ca, "server": server})
    declared = usual_declaration("demo", participants=["Ada"], hostnames=[])
    for step in CeremonySteps(folder, declared, keys, now, adopt=True).steps():
        if step.kind is StepKind.METADATA and not step.name.endswith(".crl"):
            step.perform()
    for name in ("keys/ocsp.pem", "csr/ocsp.pem"):
        (service / name).unlink()


def _bare(profile: Profile) -> Profile:
    return replace(profile, constraints=None, revocation=Revocation.NONE)


def _write(side: Path, certificates: dict[str, x509.Certificate]) -> None:
    (side / "certificates").mkdir(parents=True)
    for name, certificate in certificates.items():
        create_file(side / "certificates" / f"{name}.pem", chain_pem([certificate]), mode=PUBLIC_MODE)
