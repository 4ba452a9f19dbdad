"""The declaration of a key ceremony, YAML: who takes part, and what every authority and certificate will say.

    catalog: Example works                  # 1 to 48 bytes as UTF-8
    participants: [Ada Lovelace, Grace Hopper]
    hostnames: [fleet.example, 192.0.2.7]   # of the service besides loopback
    publish_url: http://fleet.example:8444  # where revocations are published; left out: certificates do not say
    key_stores: {root: hsm}                 # roles whose keys must be in this store of operator/keys.toml
    root: {name: Example root, valid_days: 10950, path_length: 1, permitted: [], excluded: []}
    intermediates:
      factory: {…}                          # as for the root; path_length 0
      issuing-ca: {…}
      server-ca: {…}                        # permitted: by default the service's hosts alone
    certificates: {server: {valid_days: 730}, ocsp: {valid_days: 730}, package: {valid_days: 10950}}
    transparency: {required: true, witnesses: [VKEY, …], quorum: 2}    # quorum: by default more than half

Only `catalog` and `participants` must be there. Verification of an unverified declaration, in this order:
    1. length: at most `MAX_DECLARATION_BYTES`;
    2. form: YAML without anchors, repeated keys, or tags of other types;
    3. schema: no unknown key, every value of its type and range;
    4. names: printable, distinct, and short enough for X.509;
    5. path lengths: below each authority less than its own;
    6. validity: nothing outlives what issues it;
    7. hosts: the service's names are permitted by the root and by the server CA; no authority of devices permits any;
    8. witnesses: verifier keys of different names and keys, at least as many as the quorum.
A refusal says where in the file, what was expected and what was found.
"""

import ipaddress
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

import yaml
from cryptography import x509
from pydantic import ConfigDict, Field, ValidationError
from typing_extensions import override

from pki import profiles
from pki.errors import DeclarationError, ProfileError
from pki.roles import OfflineKey, OnlineKey
from pki.transcript import sha256_hex
from protocol.document import Document
from protocol.notes import PUBLIC_KEY_BYTES, SignatureKind, VerifierKey
from protocol.transparency import MAX_WITNESSES, LogPolicy, LogPolicyError, Vkey, parse_policy

MAX_DECLARATION_BYTES = 64 * 1024
MAX_NAME_BYTES = 64  # X.520 ub-common-name, in characters; cryptography counts bytes as UTF-8
MAX_CATALOG_BYTES = MAX_NAME_BYTES - len(" package signing")  # the longest of the names that it begins
MAX_VALID_DAYS = 36_500
MAX_PATH_LENGTH = 8

Days = Annotated[int, Field(ge=1, le=MAX_VALID_DAYS)]
Hosts = Annotated[tuple[str, ...], Field(max_length=100)]


class _Part(Document):
    """A part of the declaration: no conversions, so that `yes` is no name and `"3"` no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class DeclaredAuthority(_Part):
    """An authority.

    Attributes:
        name: common name; empty for the usual one.
        valid_days: from the ceremony's beginning.
        path_length: how many authorities may follow below it.
        permitted: DNS names, IP addresses and networks that may be named below it; empty permits all.
        excluded: the same, that may not.
    """

    name: str = ""
    valid_days: Days
    path_length: Annotated[int, Field(ge=0, le=MAX_PATH_LENGTH)] = 0
    permitted: Hosts = ()
    excluded: Hosts = ()


class DeclaredRoot(DeclaredAuthority):
    """The root."""

    valid_days: Days = profiles.ROOT_LIFETIME.days
    path_length: Annotated[int, Field(ge=1, le=MAX_PATH_LENGTH)] = 1


class DeclaredFactory(DeclaredAuthority):
    """The authority that issues IDevIDs."""

    valid_days: Days = profiles.FACTORY_CA_LIFETIME.days


class DeclaredIssuer(DeclaredAuthority):
    """The authority that issues LDevIDs."""

    valid_days: Days = profiles.ISSUING_CA_LIFETIME.days
    path_length: Annotated[int, Field(ge=0, le=0)] = 0  # its later generations certify one another


class DeclaredServerAuthority(DeclaredAuthority):
    """The authority that issues the service's TLS certificates."""

    valid_days: Days = profiles.SERVER_CA_LIFETIME.days


class DeclaredIntermediates(_Part):
    """The authorities below the root, by role."""

    factory: DeclaredFactory = DeclaredFactory()
    issuing_ca: Annotated[DeclaredIssuer, Field(alias="issuing-ca")] = DeclaredIssuer()
    server_ca: Annotated[DeclaredServerAuthority, Field(alias="server-ca")] = DeclaredServerAuthority()


class DeclaredServer(_Part):
    """The service's TLS certificate."""

    valid_days: Days = profiles.SERVER_LIFETIME.days


class DeclaredOcsp(_Part):
    """The certificate of the OCSP responder."""

    valid_days: Days = profiles.OCSP_LIFETIME.days


class DeclaredPackage(_Part):
    """The certificate of the package key."""

    valid_days: Days = profiles.PACKAGE_LIFETIME.days


class DeclaredCertificates(_Part):
    """The end entities, by role."""

    server: DeclaredServer = DeclaredServer()
    ocsp: DeclaredOcsp = DeclaredOcsp()
    package: DeclaredPackage = DeclaredPackage()


class DeclaredTransparency(_Part):
    """The transparency log, as devices are to trust it.

    Attributes:
        required: whether devices ask for a proof that an image is logged.
        witnesses: verifier keys of those who watch the log.
        quorum: how many of them must have cosigned; None for more than half.
    """

    required: bool = True
    witnesses: Annotated[tuple[Vkey, ...], Field(max_length=MAX_WITNESSES)] = ()
    quorum: Annotated[int, Field(ge=0, le=MAX_WITNESSES)] | None = None

    def policy(self, log: VerifierKey) -> LogPolicy | None:
        """Return what the Image root is to say of a log; None where devices ask for no proof.

        Raises:
            LogPolicyError: the witnesses are not of different names and keys, or fewer than the quorum.
        """
        if not self.required:
            return None
        default = len(self.witnesses) // 2 + 1 if self.witnesses else 0
        quorum = default if self.quorum is None else self.quorum
        field = {"origin": log.name, "log": str(log), "witnesses": list(self.witnesses), "quorum": quorum}
        return parse_policy(field)


class Declaration(_Part):
    """What is declared; see the module."""

    catalog: str
    participants: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)]
    hostnames: Hosts = ()
    publish_url: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:\[\]_~/-]{0,200}[A-Za-z0-9\]]$")] | None = None
    key_stores: Mapping[OfflineKey, str] = Field(default_factory=dict)
    root: DeclaredRoot = DeclaredRoot()
    intermediates: DeclaredIntermediates = DeclaredIntermediates()
    certificates: DeclaredCertificates = DeclaredCertificates()
    transparency: DeclaredTransparency = DeclaredTransparency()

    @property
    def authorities(self) -> Mapping[str, DeclaredAuthority]:
        """The authorities by role, the root first."""
        below = self.intermediates
        return {
            OfflineKey.ROOT: self.root,
            OfflineKey.FACTORY: below.factory,
            OnlineKey.ISSUING_CA: below.issuing_ca,
            OfflineKey.SERVER_CA: below.server_ca,
        }

    @property
    def server_names(self) -> tuple[str, ...]:
        """The service's DNS names and IP addresses, loopback included."""
        return (*profiles.LOOPBACK_HOSTNAMES, *self.hostnames)

    def name_of(self, role: str) -> str:
        """Return the common name of an authority."""
        return self.authorities[role].name or f"{self.catalog} {_USUAL_NAMES[role]}"

    def constraints_of(self, role: str) -> x509.NameConstraints | None:
        """Return the name constraints of an authority."""
        declared = self.authorities[role]
        if role in _DEVICE_AUTHORITIES:
            return profiles.NO_HOST
        excluded = [profiles.subtree(name) for name in declared.excluded]
        if role == OfflineKey.SERVER_CA:
            permitted = profiles.only_hosts(declared.permitted or self.server_names).permitted_subtrees
        else:
            permitted = [profiles.subtree(name) for name in declared.permitted]
        if not permitted and not excluded:
            return None
        return x509.NameConstraints(permitted or None, excluded or None)


_SOME_LOG = VerifierKey("log", SignatureKind.ED25519, bytes(PUBLIC_KEY_BYTES))  # stands for the service's
_OTHER_TYPE = 0.5  # stands for a date, set or the like, which no key takes, as it takes no fraction
_USUAL_NAMES: Mapping[str, str] = {
    OfflineKey.ROOT: "root",
    OfflineKey.FACTORY: "IDevID issuer",
    OnlineKey.ISSUING_CA: "LDevID issuer",
    OfflineKey.SERVER_CA: "server issuer",
}
_DEVICE_AUTHORITIES: frozenset[str] = frozenset({OfflineKey.FACTORY, OnlineKey.ISSUING_CA})


@dataclass(frozen=True, slots=True)
class DeclarationFile:
    """A verified declaration and the bytes that it was read from."""

    content: bytes
    declaration: Declaration

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes, hex."""
        return sha256_hex(self.content)


def usual_declaration(catalog: str, *, participants: Sequence[str], hostnames: Sequence[str]) -> DeclarationFile:
    """Return the declaration of `tinyfleet init`: everything as usual.

    Raises:
        DeclarationError: a name or host is none.
    """
    declared = {"catalog": catalog, "participants": list(participants), "hostnames": list(hostnames)}
    return parse_declaration(yaml.safe_dump(declared, sort_keys=False, allow_unicode=True).encode())


def parse_declaration(unverified: bytes) -> DeclarationFile:
    """Verify a declaration.

    Raises:
        DeclarationError: any step.
    """
    # Step 1: length.
    if len(unverified) > MAX_DECLARATION_BYTES:
        raise DeclarationError(f"declaration: expected at most {MAX_DECLARATION_BYTES} bytes, found {len(unverified)}")
    declaration = _schema(_yaml(unverified))
    # Step 4: names.
    _check_names(declaration)
    # Step 5: path lengths.
    _check_path_lengths(declaration)
    # Step 6: validity.
    _check_validity(declaration)
    # Step 7: hosts.
    _check_hosts(declaration)
    # Step 8: witnesses.
    _check_witnesses(declaration.transparency)
    return DeclarationFile(unverified, declaration)


class _StrictLoader(yaml.SafeLoader):
    """Takes no anchors, and each key of a mapping once."""

    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "expected no anchors or aliases, found one", event.start_mark)
        return super().compose_node(parent, index)

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen = set[str]()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"expected each key once, found {str(key.value)[:40]!r} again", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _yaml(unverified: bytes) -> object:
    # Step 2: form.
    try:
        return yaml.load(unverified.decode(), Loader=_StrictLoader)  # noqa: S506 - below SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        found = " ".join(str(error).split())[:300]
        raise DeclarationError(f"declaration: expected YAML, found: {found}") from error


def _schema(value: object) -> Declaration:
    # Step 3: schema. Through JSON, in which lists are tuples and texts enumerations even where all is strict.
    try:
        return Declaration.model_validate_json(json.dumps(value, default=lambda _: _OTHER_TYPE))
    except TypeError as error:
        raise DeclarationError(f"declaration: expected texts as keys, found: {error}") from error
    except ValidationError as error:  # a ValueError, so it comes first
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "declaration"
        raise DeclarationError(
            f"{where}: {_expectation(first['type'], first['msg'])}{_found(first['input'])}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DeclarationError(f"declaration: expected short numbers and shallow nesting, found: {error}") from error


def _expectation(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "expected no such key"
    if kind == "missing":
        return "expected this key, found none"
    return f"expected: {message}"


def _found(value: object) -> str:
    return "" if isinstance(value, dict) else f", found {str(value)[:80]!r}"


def _check_names(declaration: Declaration) -> None:
    _check_name("catalog", declaration.catalog, max_bytes=MAX_CATALOG_BYTES)
    for index, participant in enumerate(declaration.participants):
        _check_name(f"participants.{index}", participant)
    used = dict[str, str]()
    for role in declaration.authorities:
        where, name = f"{_place(role)}.name", declaration.name_of(role)
        _check_name(where, name)
        if name in used:
            raise DeclarationError(f"{where}: expected another name than that of {used[name]}, found {name!r}")
        used[name] = role


def _check_name(where: str, name: str, *, max_bytes: int = MAX_NAME_BYTES) -> None:
    size = len(name.encode())
    if not 0 < size <= max_bytes or not name.isprintable() or name != name.strip():
        raise DeclarationError(
            f"{where}: expected printable characters without spaces around them, 1 to {max_bytes} bytes as UTF-8, "
            f"found {size}: {name[:80]!r}"
        )


def _check_path_lengths(declaration: Declaration) -> None:
    above = declaration.root.path_length
    for role, declared in declaration.authorities.items():
        if role != OfflineKey.ROOT and declared.path_length >= above:
            raise DeclarationError(
                f"{_place(role)}.path_length: expected less than {above}, that of the root, "
                f"found {declared.path_length}"
            )


def _check_validity(declaration: Declaration) -> None:
    root, below, leaves = declaration.root.valid_days, declaration.intermediates, declaration.certificates
    limits = [
        ("intermediates.factory", below.factory.valid_days, "root", root),
        ("intermediates.issuing-ca", below.issuing_ca.valid_days, "root", root),
        ("intermediates.server-ca", below.server_ca.valid_days, "root", root),
        ("certificates.package", leaves.package.valid_days, "root", root),
        ("certificates.server", leaves.server.valid_days, "intermediates.server-ca", below.server_ca.valid_days),
        ("certificates.ocsp", leaves.ocsp.valid_days, "intermediates.factory", below.factory.valid_days),
    ]
    for where, days, issuer, limit in limits:
        if days > limit:
            raise DeclarationError(f"{where}.valid_days: expected at most {limit}, those of {issuer}, found {days}")


def _check_hosts(declaration: Declaration) -> None:
    for role in _DEVICE_AUTHORITIES:
        declared = declaration.authorities[role]
        if declared.permitted or declared.excluded:
            raise DeclarationError(
                f"{_place(role)}: expected no hosts permitted or excluded, for it names no server at all; found some"
            )
    for index, host in enumerate(declaration.hostnames):
        _check_host(f"hostnames.{index}", host)
    for role in (OfflineKey.ROOT, OfflineKey.SERVER_CA):
        constraints = _constraints(declaration, role)
        for host in declaration.server_names:
            if constraints is not None and not permits(constraints, host):
                raise DeclarationError(f"hostnames: expected hosts that {_place(role)} permits, found {host!r}")


def _check_host(where: str, host: str) -> None:
    try:
        profiles.server([host], now=profiles.NO_EXPIRY, lifetime=timedelta(0))
    except ProfileError as error:
        raise DeclarationError(f"{where}: {error}") from error


def _check_witnesses(declared: DeclaredTransparency) -> None:
    try:
        declared.policy(_SOME_LOG)
    except LogPolicyError as error:
        raise DeclarationError(f"transparency: {error}") from error


def _constraints(declaration: Declaration, role: str) -> x509.NameConstraints | None:
    try:
        return declaration.constraints_of(role)
    except ProfileError as error:
        raise DeclarationError(f"{_place(role)}: permitted or excluded: {error}") from error


def permits(constraints: x509.NameConstraints, host: str) -> bool:
    """Whether name constraints permit a DNS name or IP address (RFC 5280 §4.2.1.10)."""
    same_form = [name for name in constraints.permitted_subtrees or () if _is_address(name) == _is_ip(host)]
    same_form = [name for name in same_form if not isinstance(name, x509.UniformResourceIdentifier)]
    excluded = any(_within(host, name) for name in constraints.excluded_subtrees or ())
    return not excluded and (not same_form or any(_within(host, name) for name in same_form))


def _within(host: str, subtree: x509.GeneralName) -> bool:
    if isinstance(subtree, x509.IPAddress):
        network = subtree.value
        assert isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network)  # noqa: S101
        return _is_ip(host) and ipaddress.ip_address(host) in network
    name = str(subtree.value).lower()
    return not _is_ip(host) and (host.lower() == name or host.lower().endswith(f".{name}"))


def _is_address(name: x509.GeneralName) -> bool:
    return isinstance(name, x509.IPAddress)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _place(role: str) -> str:
    return "root" if role == OfflineKey.ROOT else f"intermediates.{role}"
