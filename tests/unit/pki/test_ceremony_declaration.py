"""Declarations: what is usual, what may be said, and that a refusal says where, expected and found."""

import ipaddress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from pki import profiles
from pki.ceremony_certificates import planned_again, planned_certificates
from pki.ceremony_declaration import Declaration, parse_declaration, permits, usual_declaration
from pki.errors import CeremonyError, DeclarationError
from pki.roles import OfflineKey, OnlineKey
from tests.unit.pki.pki_builder import DECLARED_CERTIFICATES, NOW

EXAMPLE = Path(__file__).parents[3] / "deployments" / "ceremonies" / "example.yaml"
HEAD = "catalog: Example\nparticipants: [Ada, Grace]\n"


def _parsed(more: str = "") -> Declaration:
    return parse_declaration((HEAD + more).encode()).declaration


def test_two_lines_declare_what_init_does() -> None:
    """Names, path lengths, validity and name constraints as the profiles have them."""
    usual = usual_declaration("Example", participants=["Ada", "Grace"], hostnames=[]).declaration
    assert usual == _parsed()
    profile = {planned.role: planned.profile for planned in planned_certificates(usual, began_at=NOW)}
    assert profile == {
        "root": profiles.root_ca("Example", now=NOW),
        "factory": profiles.factory_ca("Example", now=NOW),
        "server-ca": profiles.server_ca("Example", profiles.LOOPBACK_HOSTNAMES, now=NOW),
        "package": profiles.package_signing("Example", now=NOW),
        "issuing-ca": profiles.issuing_ca("Example", now=NOW),
        "server": profiles.server(profiles.LOOPBACK_HOSTNAMES, now=NOW),
        "ocsp": profiles.ocsp_responder("Example", now=NOW),
    }


def test_everything_may_be_declared() -> None:
    """Names, path lengths, validity and constraints of each authority, validity of each certificate."""
    declaration = _parsed(
        """
hostnames: [a.fleet.example, 192.0.2.7]
publish_url: http://fleet.example:8444
key_stores: {root: hsm, package: file}
"""
        + DECLARED_CERTIFICATES
    )
    assert declaration.key_stores == {OfflineKey.ROOT: "hsm", OfflineKey.PACKAGE: "file"}
    assert declaration.publish_url == "http://fleet.example:8444"
    planned = {each.role: each.profile for each in planned_certificates(declaration, began_at=NOW)}
    common_names = {role: profile.subject.rfc4514_string() for role, profile in planned.items()}
    assert common_names["server-ca"] == "CN=The server issuer"
    assert (planned["root"].path_length, planned["server-ca"].path_length) == (2, 1)
    days = {role: (profile.not_after - NOW).days for role, profile in planned.items()}
    assert days == {
        "root": 4000, "factory": 4000, "issuing-ca": 400, "server-ca": 900, "server": 90, "ocsp": 91, "package": 92,
    }  # fmt: skip
    assert planned["root"].constraints == x509.NameConstraints(None, [x509.DNSName("evil.example")])
    server_constraints = planned["server-ca"].constraints
    assert server_constraints is not None
    assert x509.IPAddress(ipaddress.ip_network("192.0.2.0/24")) in (server_constraints.permitted_subtrees or [])
    assert server_constraints.excluded_subtrees == [x509.DNSName("b.fleet.example")]


def test_root_may_permit_hosts() -> None:
    """Then the hosts must be among them."""
    permitted = 'permitted: [localhost, 127.0.0.1, "::1", fleet.example]'
    declaration = _parsed(f"root: {{{permitted}}}\nhostnames: [fleet.example]\n")
    constraints = declaration.constraints_of(OfflineKey.ROOT)
    assert constraints is not None
    assert constraints.excluded_subtrees is None
    assert permits(constraints, "a.fleet.example")


def test_example_declares_what_is_usual() -> None:
    """deployments/ceremonies: every default that it writes down is the default."""
    example = parse_declaration(EXAMPLE.read_bytes()).declaration
    usual = parse_declaration(
        b"catalog: Example works\nparticipants: [Ada Lovelace, Grace Hopper]\n"
        b"hostnames: [fleet.example, 192.0.2.7]\npublish_url: http://fleet.example:8444\n"
    ).declaration
    assert planned_certificates(example, began_at=NOW) == planned_certificates(usual, began_at=NOW)
    assert example.publish_url == usual.publish_url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "declaration: expected: .*, found"),
        ("a: [", "declaration: expected YAML, found: while parsing"),
        ("catalog: &x a\nparticipants: [*x]", "expected no anchors or aliases, found one"),
        ("catalog: a\ncatalog: b\nparticipants: [Ada]", "expected each key once, found 'catalog' again"),
        ("catalog: !!python/name:os.system a\nparticipants: [Ada]", "could not determine a constructor"),
        ("catalog: !!set {a}\nparticipants: [Ada]", "catalog: expected: Input should be a valid string, found"),
        (HEAD + "publish_url: 2026-01-01", "publish_url: expected: Input should be a valid string, found"),
        (HEAD + "2026-01-01: a", "declaration: expected texts as keys, found: keys must be str"),
        ("? {a: b}\n: c", "declaration: expected YAML, found: .*unhashable"),
        ("catalog: a\x00", "declaration: expected YAML"),
        ("participants: [Ada]", "catalog: expected this key, found none"),
        ("catalog: a\nparticipants: []", "participants: expected: .*at least 1 item"),
        ("catalog: a\nparticipants: [yes]", "participants.0: expected: Input should be a valid string, found 'True'"),
        (HEAD + "colour: red", "colour: expected no such key, found 'red'"),
        (HEAD + "intermediates: {voucher: {name: a}}", "intermediates.voucher: expected no such key"),
        (HEAD + "intermediates: {factory: {valid_day: 3}}", "intermediates.factory.valid_day: expected no such key"),
        (HEAD + "root: {valid_days: '3'}", "root.valid_days: expected: Input should be a valid integer, found '3'"),
        (HEAD + "root: {valid_days: 0}", "root.valid_days: expected: .*greater than or equal to 1, found '0'"),
        (HEAD + "root: {valid_days: 99999}", "root.valid_days: expected: .*less than or equal to 36500"),
        (HEAD + "root: {path_length: 0}", "root.path_length: expected: .*greater than or equal to 1"),
        (HEAD + "intermediates: {issuing-ca: {path_length: 1}}", "issuing-ca.path_length: expected: .*equal to 0"),
        (
            HEAD + "intermediates: {server-ca: {path_length: 1}}",
            "intermediates.server-ca.path_length: expected less than 1, that of the root, found 1",
        ),
        (
            HEAD + "root: {valid_days: 100}\nintermediates: {issuing-ca: {valid_days: 5}, server-ca: {valid_days: 5}}",
            "intermediates.factory.valid_days: expected at most 100, those of root, found 10950",
        ),
        (
            HEAD + "intermediates: {server-ca: {valid_days: 729}}",
            "certificates.server.valid_days: expected at most 729, those of intermediates.server-ca, found 730",
        ),
        (
            HEAD + "intermediates: {factory: {valid_days: 9}}\n",
            "certificates.ocsp.valid_days: expected at most 9, those of intermediates.factory, found 730",
        ),
        ("catalog: ' a'\nparticipants: [Ada]", "catalog: expected printable characters without spaces around them"),
        ('catalog: "a\\tb"\nparticipants: [Ada]', "catalog: expected printable characters .*, 1 to 48 bytes"),
        ('catalog: "a\\ud800b"\nparticipants: [Ada]', "declaration: expected: Invalid JSON: "),
        ("catalog: a\nparticipants: ['']", "participants.0: expected printable .*, 1 to 64 bytes as UTF-8, found 0"),
        (HEAD + f"root: {{name: {'a' * 65}}}", "root.name: expected printable .*, 1 to 64 bytes as UTF-8, found 65"),
        (f"catalog: {'a' * 49}\nparticipants: [Ada]", "catalog: expected .*, 1 to 48 bytes as UTF-8, found 49"),
        (f"catalog: {'工' * 17}\nparticipants: [Ada]", "catalog: expected .*, 1 to 48 bytes as UTF-8, found 51"),
        (HEAD + f"root: {{name: {'ä' * 33}}}", "root.name: expected .*, 1 to 64 bytes as UTF-8, found 66"),
        (f"catalog: 0x{'F' * 5000}\nparticipants: [Ada]", "declaration: expected short numbers and shallow nesting"),
        (HEAD + "hostnames: ['fe80::1%eth0']", "hostnames.0: host name: expected .* without a scope, found"),
        (
            HEAD + "intermediates: {server-ca: {permitted: ['fe80::1%eth0/128']}}",
            "intermediates.server-ca: permitted or excluded: host name: expected .* without a scope",
        ),
        (
            HEAD + "intermediates: {factory: {name: Example root}}",
            "intermediates.factory.name: expected another name than that of root, found 'Example root'",
        ),
        (HEAD + "hostnames: [two words]", "hostnames.0: host name: expected a DNS name or an IP address"),
        (HEAD + "hostnames: [10.0.0.0/8]", "hostnames.0: host name: expected a DNS name or an IP address"),
        (HEAD + "hostnames: ['*.example']", "hostnames.0: host name: expected a DNS name"),
        (
            HEAD + "intermediates: {factory: {permitted: [a.example]}}",
            "intermediates.factory: expected no hosts permitted or excluded, for it names no server at all",
        ),
        (HEAD + "intermediates: {issuing-ca: {excluded: [a.example]}}", "intermediates.issuing-ca: expected no hosts"),
        (
            HEAD + "hostnames: [a.example]\nroot: {excluded: [a.example]}",
            "hostnames: expected hosts that root permits, found 'a.example'",
        ),
        (
            HEAD + "intermediates: {server-ca: {permitted: [fleet.example]}}",
            "hostnames: expected hosts that intermediates.server-ca permits, found 'localhost'",
        ),
        (
            HEAD + "intermediates: {server-ca: {permitted: [localhost]}}\nhostnames: [192.0.2.1, b.example]",
            "hostnames: expected hosts that intermediates.server-ca permits, found 'b.example'",
        ),
        (
            HEAD + "intermediates: {server-ca: {permitted: ['-a']}}",
            "intermediates.server-ca: permitted or excluded: host name: expected a DNS name",
        ),
        (HEAD + "publish_url: ftp://fleet.example", "publish_url: expected: String should match pattern"),
        (HEAD + "publish_url: http://fleet.example/", "publish_url: expected: String should match pattern"),
        (HEAD + "key_stores: {director: hsm}", r"key_stores.director.\[key\]: expected: Input should be 'root'"),
        ("[" * 5000, "declaration: expected YAML"),
    ],
)
def test_declaration_that_cannot_hold_is_refused_with_its_place(text: str, message: str) -> None:
    """Before anything is made."""
    with pytest.raises(DeclarationError, match=message):
        parse_declaration(text.encode())


@pytest.mark.parametrize("name", ["a" * 48, "ä" * 24, "工" * 16])
def test_longest_names_of_any_script_can_be_certified(name: str) -> None:
    """X.509 counts bytes; the catalog's name is a part of longer ones."""
    declared = usual_declaration(name, participants=["Ada"], hostnames=[]).declaration
    assert len(planned_certificates(declared, began_at=NOW)) == 7


def test_long_declaration_and_other_bytes_are_refused() -> None:
    """By length, then by encoding."""
    with pytest.raises(DeclarationError, match="expected at most 65536 bytes, found 65537"):
        parse_declaration(b"#" * 65_537)
    with pytest.raises(DeclarationError, match="expected YAML"):
        parse_declaration(b"\xff\xfe\xfa")


@pytest.mark.parametrize(
    ("host", "permitted", "excluded", "is_permitted"),
    [
        ("fleet.example", ["fleet.example"], [], True),
        ("a.FLEET.example", ["fleet.example"], [], True),
        ("afleet.example", ["fleet.example"], [], False),
        ("10.1.2.3", ["10.0.0.0/8"], [], True),
        ("11.1.2.3", ["10.0.0.0/8"], [], False),
        ("::1", ["10.0.0.0/8"], [], False),
        ("10.1.2.3", ["fleet.example"], [], True),  # RFC 5280: no constraint on addresses, so all are permitted
        ("10.1.2.3", [], ["10.1.0.0/16"], False),
        ("fleet.example", [], ["10.1.0.0/16"], True),
        ("a.fleet.example", ["fleet.example"], ["a.fleet.example"], False),
    ],
)
def test_constraints_permit_as_rfc_5280_says(
    host: str,
    permitted: list[str],
    excluded: list[str],
    is_permitted: bool,  # noqa: FBT001 - a case's outcome
) -> None:
    """§4.2.1.10: by name form; excluded wins."""
    subtrees = [[profiles.subtree(name) for name in names] or None for names in (permitted, excluded)]
    assert permits(x509.NameConstraints(*subtrees), host) is is_permitted


def test_only_what_a_ceremony_makes_is_planned_again() -> None:
    """The server's second certificate is like its first; of a voucher there is none."""
    first = planned_certificates(_parsed(), began_at=NOW)
    again = planned_again(_parsed(), "server-2", began_at=NOW + timedelta(days=1))
    assert (again.role, again.path) == ("server-2", "service/certificates/server-2.pem")
    assert again.profile.not_after - timedelta(days=1) == next(
        each.profile.not_after for each in first if each.role == OnlineKey.SERVER
    )
    with pytest.raises(CeremonyError, match=r"certificate: expected one of root, .*, found 'voucher'"):
        planned_again(_parsed(), "voucher", began_at=NOW)
