"""`tinyfleet pki request|issue|status`: renew the service's certificates, and see what ends when."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from pki.ceremony_certificates import key_sha256
from pki.ceremony_renewal import issue_again
from pki.errors import ChainError
from pki.online import RENEWABLE, load_certificate, request_again, request_online_keys, requested_key
from pki.roles import OnlineKey
from protocol.identity import X509_ERRORS
from service.cli import clock
from service.cli.errors import BadArgumentError, CliError
from service.cli.offline_keys import offline_keys
from service.cli.options import JsonOption
from service.cli.output import print_json, print_line, print_table
from service.cli.pki_ceremony import DEFAULT_DATA_DIR, DataDirOption

WARN_DAYS = 30
DEFAULT_SERVICE_DIR = Path("service")
_LIST_FOLDERS = ("service/genesis", "operator/revocation")
_FOLDERS = (
    ("operator/certificates", "*.pem"),
    ("service/certificates", "*.pem"),
    ("service/genesis", "*.json"),
    ("operator/repository", "*.json"),
)


class EndsSoonError(CliError):
    """A certificate or signed metadata ends within `WARN_DAYS`, has ended, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Validity:
    """When a file's validity ends.

    Attributes:
        file: below the data directory.
        subject: whom a certificate names, or the role of metadata.
        issuer: who signed it.
        ends: UTC; None where the file cannot be read.
        days_left: whole days; negative after the end.
    """

    file: str
    subject: str
    issuer: str
    ends: datetime | None
    days_left: int | None

    @property
    def needs_attention(self) -> bool:
        """Whether it ends soon, has ended, or cannot be read."""
        return self.days_left is None or self.days_left < WARN_DAYS


def request(
    role: Annotated[
        str, typer.Argument(help="server or ocsp: a new key for it; left out: every key that is missing.")
    ] = "",
    *,
    service_dir: Annotated[Path, typer.Option(help="The service's folder.", file_okay=False)] = DEFAULT_SERVICE_DIR,
) -> None:
    """On the service's machine: make keys and requests for them, in csr/, which go to the operator."""
    if not role:
        request_online_keys(service_dir)
        print_line(f"requests: {service_dir / 'csr'}")
        for each in OnlineKey:
            print_line(f"key {each}, SHA-256: {key_sha256(requested_key(service_dir, each))}")
        return
    name = request_again(service_dir, _renewable(role))
    print_line(f"request: {service_dir / 'csr' / name}.pem")
    print_line(f"key, SHA-256: {key_sha256(requested_key(service_dir, name))}")


def issue(
    role: Annotated[str, typer.Argument(help="server or ocsp.")],
    *,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """On the operator's machine: answer the service's newest request, and note it in a signed transcript."""
    path = issue_again(data_dir, _renewable(role), keys=offline_keys(data_dir / "operator"), now=clock.now())
    print_line(f"certificate: {path}, ends {load_certificate(path).not_valid_after_utc:%F}")
    print_line(f"key, SHA-256: {key_sha256(requested_key(data_dir / 'service', path.stem))}")
    print_line("compare it with the one that `tinyfleet pki request` showed before the service gets the certificate")
    print_line("the service takes it when it starts the next time")


def status(
    *,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    check: Annotated[
        bool, typer.Option("--check", help=f"Fail if anything ends within {WARN_DAYS} days or has ended.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List every certificate, revocation list and signed metadata with the time when it ends, the next one first."""
    now = clock.now()
    everything = [*_validities(data_dir, now=now), *_lists(data_dir, now=now)]
    found = sorted(everything, key=lambda each: (each.days_left is not None, each.days_left))
    if not found:
        raise BadArgumentError(f"{data_dir}: expected operator/ or service/ with certificates, found none")
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        columns = ("file", "subject", "issuer", "ends", "days left")
        print_table("Certificates and metadata", columns, map(_row, found))
    ending = [each.file for each in found if each.needs_attention]
    if ending and check:
        raise EndsSoonError(f"status: expected {WARN_DAYS} days for everything, found less for {', '.join(ending)}")


def _renewable(role: str) -> OnlineKey:
    if role not in set(RENEWABLE):
        raise BadArgumentError(f"role: expected {' or '.join(RENEWABLE)}, found {role[:40]!r}")
    return OnlineKey(role)


def _row(validity: Validity) -> tuple[object, ...]:
    ends = "unreadable" if validity.ends is None else f"{validity.ends:%F %T}"
    days = "–" if validity.days_left is None else f"{validity.days_left}{' !' if validity.needs_attention else ''}"
    return (validity.file, validity.subject, validity.issuer, ends, days)


def _validities(data_dir: Path, *, now: datetime) -> Iterator[Validity]:
    for folder, pattern in _FOLDERS:
        for path in sorted((data_dir / folder).glob(pattern)):
            name = path.relative_to(data_dir).as_posix()
            found = _certificate(path) if path.suffix == ".pem" else _metadata(path)
            if found is not None:
                subject, issuer, ends = found
                yield Validity(name, subject, issuer, ends, None if ends is None else (ends - now).days)


def _lists(data_dir: Path, *, now: datetime) -> Iterator[Validity]:
    """The newest revocation list of each authority."""
    newest = dict[x509.Name, tuple[int, Path, datetime | None]]()
    for folder in _LIST_FOLDERS:
        for path in sorted((data_dir / folder).glob("*.crl")):
            name = path.relative_to(data_dir).as_posix()
            try:
                crl = x509.load_der_x509_crl(path.read_bytes())
                number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
                issuer, ends = crl.issuer, crl.next_update_utc
            except (x509.ExtensionNotFound, *X509_ERRORS):
                yield Validity(name, "", "", None, None)
                continue
            if number >= newest.get(issuer, (0, path, None))[0]:
                newest[issuer] = (number, path, ends)
    for issuer, (number, path, ends) in newest.items():
        name, days = path.relative_to(data_dir).as_posix(), None if ends is None else (ends - now).days
        yield Validity(name, f"revocation list {number}", issuer.rfc4514_string(), ends, days)


def _certificate(path: Path) -> tuple[str, str, datetime | None]:
    try:
        certificate = load_certificate(path)
    except ChainError:
        return "", "", None
    subject, issuer = (name.rfc4514_string() for name in (certificate.subject, certificate.issuer))
    return subject, issuer, certificate.not_valid_after_utc


def _metadata(path: Path) -> tuple[str, str, datetime | None] | None:
    """Read when metadata ends; None for a file that has no end, as catalog.json."""
    try:
        document = json.loads(path.read_bytes())
        signed = document.get("signed")
        if signed is None:
            return None
        return str(signed["_type"]), "metadata keys", datetime.fromisoformat(signed["expires"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", "", None
