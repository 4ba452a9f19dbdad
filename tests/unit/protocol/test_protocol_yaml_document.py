"""YAML that people write: what is read of it, and what is refused before it costs anything."""

import pytest

from protocol.document import DocumentError
from protocol.yaml_document import parse_yaml_keys

BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (letter, letter, b",".join([b"*%c" % (letter - 1)] * 9)) for letter in range(98, 110)
)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"", {}),
        (b"# nothing yet\n", {}),
        (b'{"a": [1, 0.5, true, null]}', {"a": [1, 0.5, True, None]}),
        (b"start: 2026-01-05T08:00:00Z", {"start": "2026-01-05T08:00:00Z"}),
        (b"\xef\xbb\xbfa: {b: c}", {"a": {"b": "c"}}),
    ],
)
def test_keys_are_read_as_json_would_have_them(written: bytes, read: dict[str, object]) -> None:
    """Dates stay text; a document without content has no keys."""
    assert parse_yaml_keys(written) == read


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (BOMB, "expected no alias, found one"),
        (b"a: &a [*a]", "expected no alias"),
        (b"a: 1\nb: {c: 1, c: 2}", "expected each key once, found 'c' twice"),
        (b"1: a", "expected text as key"),
        (b"? [1, 2]\n: a", "expected text as key"),
        (b"<<: {a: 1}", "expected text as key"),
        (b"a: .inf", "expected a finite number"),
        (b"a: !!set {b, c}", "could not determine a constructor"),
        (b"a: !!python/name:os.system", "could not determine a constructor"),
        (b"a: " + b"[" * 5000, "expected YAML of a few levels"),
        (b"a: " + b"9" * 5000, "expected YAML, found Exceeds the limit"),
        (b"a: \xff", "expected YAML, found"),
        (b"a: \x00", "expected YAML, found .*special characters"),
        (b"a: [", "expected YAML, found while parsing"),
        (b"a: 1\n---\nb: 2", "expected a single document"),
        (b"[]", "expected keys, found list"),
        (b"0", "expected keys, found int"),
        (b"false", "expected keys, found bool"),
        (b"null", "expected keys, found NoneType"),
    ],
)
def test_what_is_not_json_in_yaml_is_refused(written: bytes, why: str) -> None:
    """Aliases, double keys, tags, depth and what is no mapping."""
    with pytest.raises(DocumentError, match=f"(?s){why}"):
        parse_yaml_keys(written)


def test_long_document_is_refused_unread() -> None:
    """The length is tested before the form."""
    with pytest.raises(DocumentError, match="expected at most 10 bytes, found 11"):
        parse_yaml_keys(b"[" * 11, max_bytes=10)
