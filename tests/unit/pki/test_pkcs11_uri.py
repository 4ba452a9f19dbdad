"""PKCS#11 URIs: what is read, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import TokenUriError
from pki.token_uri import MAX_URI_CHARACTERS, TokenUri, parse_token_uri

FOLDER = Path("/operator")
GOOD = "pkcs11:token=fleet?module-path=/lib/p11.so&pin-source=file:pin"


def test_uri_names_token_module_and_pin_file() -> None:
    """The three that must be there; a relative PIN file lies in the folder."""
    expected = TokenUri(token="fleet", module=Path("/lib/p11.so"), pin_file=Path("/operator/pin"))
    assert parse_token_uri(GOOD, folder=FOLDER) == expected


@pytest.mark.parametrize("source", ["file:/run/pin", "file:///run/pin"])
def test_absolute_pin_file_stays_where_it_is(source: str) -> None:
    """Both spellings of RFC 8089."""
    assert parse_token_uri(GOOD.replace("file:pin", source), folder=FOLDER).pin_file == Path("/run/pin")


def test_uri_may_name_serial_and_slot() -> None:
    """The order within path and query does not count, and percent-encoding is undone."""
    text = "pkcs11:slot-id=1908993775;serial=20%32b;token=My%20fleet?pin-source=file:pin&module-path=/lib/p11.so"
    parsed = parse_token_uri(text, folder=FOLDER)
    assert (parsed.token, parsed.serial, parsed.slot_id) == ("My fleet", "202b", 1908993775)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http:token=fleet", "expected pkcs11:"),
        (GOOD + "x" * MAX_URI_CHARACTERS, "at most 2048 characters"),
        ("pkcs11:?module-path=/lib/p11.so&pin-source=file:pin", "found ''"),
        ("pkcs11:token=fleet", "found ''"),
        (GOOD.replace("token=fleet", "serial=1"), "expected token, found none"),
        (GOOD.replace("module-path=/lib/p11.so&", ""), "expected module-path, found none"),
        (GOOD.replace("&pin-source=file:pin", ""), "expected pin-source, found none"),
        (GOOD.replace("token=fleet", "token=fleet;object=root"), "once, found 'object'"),
        (GOOD.replace("token=fleet", "token=fleet;token=other"), "once, found 'token'"),
        (GOOD + "&module-name=softhsm2", "once, found 'module-name'"),
        (GOOD.replace("token=fleet", "token="), "expected token of the characters of RFC 7512, found others or none"),
        (GOOD.replace("token=fleet", "token=my fleet"), "expected token of the characters"),
        (GOOD.replace("token=fleet", "token=fl%zzeet"), "expected token of the characters"),
        (GOOD.replace("token=fleet", "token=%ff"), "expected token in UTF-8"),
        (GOOD.replace("token=fleet", "token=a%00b"), "expected token of printable characters"),
        (GOOD.replace("/lib/p11.so", "p11.so"), "expected an absolute module-path, found 'p11.so'"),
        (GOOD.replace("file:pin", "|echo 1234"), "characters of RFC 7512"),
        (GOOD.replace("file:pin", "|/bin/pin"), "expected pin-source=file:PATH"),
        (GOOD.replace("file:pin", "file:"), "expected pin-source=file:PATH"),
        (GOOD.replace("file:pin", "file://host/pin"), "expected pin-source=file:PATH"),
        (GOOD.replace("token=fleet", "token=fleet;slot-id=0x1"), "expected slot-id in decimal digits, found '0x1'"),
    ],
)
def test_malformed_uri_is_refused(text: str, message: str) -> None:
    """Exactly one thing is wrong with each."""
    with pytest.raises(TokenUriError, match=message):
        parse_token_uri(text, folder=FOLDER)


@pytest.mark.parametrize("text", [GOOD + "&pin-value=846213", GOOD.replace("token", "pin-value=846213;token")])
def test_pin_on_the_uri_is_refused_and_not_repeated(text: str) -> None:
    """A secret on a URI ends in logs; the refusal does not put it there."""
    with pytest.raises(TokenUriError, match="found pin-value") as refused:
        parse_token_uri(text, folder=FOLDER)
    assert "846213" not in str(refused.value)


@given(st.text(max_size=80), st.sampled_from(["{}", "pkcs11:{}", "pkcs11:token={}", GOOD + "{}"]))
def test_any_text_is_parsed_or_refused(text: str, frame: str) -> None:
    """Nothing but our error comes out."""
    try:
        parsed = parse_token_uri(frame.format(text), folder=FOLDER)
    except TokenUriError:
        return
    assert parsed.module.is_absolute()
