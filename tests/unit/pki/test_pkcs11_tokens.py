"""Modules and tokens that cannot be used: each has its own error, which says what was expected and what is there."""

import os
import shutil
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pki import tokens
from pki.errors import (
    AmbiguousTokenError,
    PinError,
    PinFileError,
    PinLockedError,
    TokenError,
    TokenMissingError,
    TokenModuleError,
    TokenRemovedError,
    TokenWriteError,
)
from pki.pkcs11 import Pkcs11KeyStore, TokenSigner
from pki.token_uri import TokenUri
from pki.tokens import MAX_PIN_BYTES, module_at, read_pin, stop_modules
from protocol.signing import verify
from tests.softhsm import PIN, SoftHsm, fault

GENERAL_ERROR, DEVICE_ERROR, DEVICE_REMOVED, TOKEN_NOT_PRESENT = 0x05, 0x30, 0x32, 0xE0
PIN_INCORRECT, PIN_EXPIRED, PIN_LOCKED, TOKEN_WRITE_PROTECTED = 0xA0, 0xA3, 0xA4, 0xE2


def _signs(signer: TokenSigner) -> bool:
    verify(signer.public_key, signer.sign(b"data"), b"data")
    return True


def test_missing_module_is_named(softhsm: SoftHsm) -> None:
    """A library that is not installed."""
    uri = replace(softhsm.add_token(), module=softhsm.folder / "none.so")
    with pytest.raises(TokenModuleError, match=r"PKCS#11 module: expected .*none.so, found no such file"):
        Pkcs11KeyStore(uri).holds("root")


def test_file_that_is_no_module_is_named(softhsm: SoftHsm) -> None:
    """A text file in its place."""
    uri = replace(softhsm.add_token(), module=softhsm.conf)
    with pytest.raises(TokenModuleError, match=r"expected that .*softhsm2.conf starts, found: OS exception"):
        Pkcs11KeyStore(uri).holds("root")


def test_module_that_does_not_start_is_named(softhsm: SoftHsm) -> None:
    """SoftHSM2 without its folder of tokens."""
    store = softhsm.store()
    shutil.rmtree(softhsm.tokens)
    with pytest.raises(TokenModuleError, match=r"expected that .* starts, found: GeneralError"):
        store.holds("root")


def test_missing_token_shows_which_are_there(softhsm: SoftHsm) -> None:
    """A misspelt label is found at a glance."""
    uri = softhsm.add_token("fleet")
    softhsm.add_token("other fleet")
    with pytest.raises(TokenMissingError, match=r"expected flet in .*, found these tokens: fleet, other fleet"):
        Pkcs11KeyStore(replace(uri, token="flet")).holds("root")


def test_no_token_at_all_is_said(softhsm: SoftHsm) -> None:
    """An uninitialised slot is no token."""
    uri = softhsm.add_token()
    shutil.rmtree(next(softhsm.tokens.iterdir()))
    with pytest.raises(TokenMissingError, match="found these tokens: none"):
        Pkcs11KeyStore(uri).holds("root")


def test_serial_and_slot_choose_among_tokens_of_one_label(softhsm: SoftHsm) -> None:
    """Two tokens of a name are refused until the URI says which."""
    softhsm.add_token()
    uri = softhsm.add_token()
    with pytest.raises(AmbiguousTokenError, match=r"expected one fleet, found serial numbers [0-9a-f]{16}, [0-9a-f]"):
        Pkcs11KeyStore(uri).holds("root")
    module = module_at(uri.module)
    first, second = (token for token in module._started().get_tokens() if token.label)
    by_serial = Pkcs11KeyStore(replace(uri, serial=first.serial.decode()))
    by_slot = Pkcs11KeyStore(replace(uri, slot_id=second.slot.slot_id))
    by_serial.generate("root")
    assert (by_serial.holds("root"), by_slot.holds("root")) == (True, False)
    with pytest.raises(TokenMissingError, match="expected fleet with serial number 00 in slot 7 in"):
        Pkcs11KeyStore(replace(uri, serial="00", slot_id=7)).holds("root")


def test_second_uri_of_an_open_token_needs_its_pin(softhsm: SoftHsm) -> None:
    """Who has opened it lends nobody the login; the first URI goes on."""
    first = softhsm.store()
    signer = first.generate("root")
    second = Pkcs11KeyStore(replace(first.uri, pin_file=softhsm.folder / "other-pin"))
    second.uri.pin_file.touch(mode=0o600)
    second.uri.pin_file.write_text("111111")
    with pytest.raises(PinError, match=r"expected the PIN that opened it in .*other-pin, found another"):
        second.load("root")
    assert _signs(signer)
    second.uri.pin_file.write_text(PIN)
    assert second.load("root").public_key == signer.public_key


def test_wrong_pin_is_tried_once(softhsm: SoftHsm) -> None:
    """A service that asks again and again does not lock the token; a new PIN in the file is tried."""
    store = softhsm.store()
    store.generate("root")
    store.uri.pin_file.write_text("111111")
    stop_modules()
    logins: list[str] = []

    def counted() -> None:
        logins.append("login")

    with fault("C_Login", counted):
        with pytest.raises(PinError, match=r"token fleet: expected its user PIN in .*pin, found another"):
            store.load("root")
        with pytest.raises(PinError, match=r"expected a new PIN in .*pin, found the one that was refused") as refused:
            store.load("root")
        assert "111111" not in str(refused.value)
        assert len(logins) == 1
        store.uri.pin_file.write_text(PIN)
        assert _signs(store.load("root"))


@pytest.mark.parametrize("code", [PIN_LOCKED, PIN_EXPIRED])
def test_locked_pin_is_told_from_a_wrong_one(softhsm: SoftHsm, code: int) -> None:
    """Three wrong PINs, and the token says that it takes none any more; SoftHSM2 itself never does."""
    uri, tries = softhsm.add_token(), list[str]()

    def answer() -> int | None:
        tries.append("login")
        return code if len(tries) > 3 else None

    with fault("C_Login", answer):
        for number in range(3):
            uri.pin_file.write_text(f"11111{number}")
            with pytest.raises(PinError, match="found another"):
                Pkcs11KeyStore(uri).holds("root")
        uri.pin_file.write_text(PIN)
        with pytest.raises(
            PinLockedError, match=r"token fleet: expected that it takes a PIN, found Pin(Locked|Expired)"
        ):
            Pkcs11KeyStore(uri).holds("root")


def test_pin_is_not_shown(softhsm: SoftHsm) -> None:
    """Not even where a log shows the local variables of a traceback."""
    pin = read_pin(softhsm.folder / "pin")
    assert pin.text == PIN
    assert PIN not in repr(pin)


def _gone(path: Path) -> None:
    path.unlink()


def _open_to_others(path: Path) -> None:
    path.chmod(0o644)


def _content(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_gone, "expected a readable .*pin, found No such file"),
        (_open_to_others, "expected .*pin closed to others, found mode 0644"),
        (_content(b"\n"), "expected 1 to 256 bytes in .*pin, found 0"),
        (_content(b"1" * (MAX_PIN_BYTES + 1)), "expected 1 to 256 bytes in .*pin, found 257"),
        (_content(b"\xff\xff"), "expected UTF-8 in .*pin, found other bytes"),
    ],
)
def test_unusable_pin_file_is_refused(softhsm: SoftHsm, spoil: Callable[[Path], None], message: str) -> None:
    """Missing, open to others, empty, too long, or no text."""
    store = softhsm.store()
    spoil(store.uri.pin_file)
    with pytest.raises(PinFileError, match=f"PIN: {message}"):
        store.holds("root")


def test_pin_file_may_be_read_by_its_group(softhsm: SoftHsm) -> None:
    """Orchestrators hand secrets to unprivileged processes that way."""
    store = softhsm.store()
    store.uri.pin_file.chmod(0o640)
    assert not store.holds("root")


def test_write_protected_token_signs_but_makes_no_key(softhsm: SoftHsm) -> None:
    """A session that may write is opened only to write."""
    store = softhsm.store()
    signer = store.generate("root")

    with fault("C_OpenSession", lambda: TOKEN_WRITE_PROTECTED):
        assert _signs(signer)
        with pytest.raises(TokenWriteError, match="expected room and leave to write, found TokenWriteProtected"):
            store.generate("package")
    assert not store.holds("package")


@pytest.mark.parametrize("code", [DEVICE_REMOVED, DEVICE_ERROR, TOKEN_NOT_PRESENT])
def test_token_that_went_away_counts_again_when_it_is_back(softhsm: SoftHsm, code: int) -> None:
    """Signing fails with its own error while the token is away; the same signer goes on afterwards."""
    store = softhsm.store()
    signer = store.generate("root")
    with fault("C_SignInit", lambda: code):
        for _ in range(2):
            with pytest.raises(TokenRemovedError, match="token fleet: expected it in its slot and open, found "):
                signer.sign(b"data")
    assert _signs(signer)


def test_token_whose_files_vanish_fails_and_heals(softhsm: SoftHsm) -> None:
    """No fault put in: the token's folder is moved away under a running signer, and back."""
    signer = softhsm.store().generate("root")
    away = softhsm.folder / "away"
    softhsm.tokens.rename(away)
    with pytest.raises(TokenRemovedError, match="found ObjectHandleInvalid"):
        signer.sign(b"data")
    with pytest.raises(TokenModuleError, match="starts, found: GeneralError"):
        signer.sign(b"data")
    away.rename(softhsm.tokens)
    assert _signs(signer)


def test_what_a_module_does_not_explain_is_passed_on_by_name(softhsm: SoftHsm) -> None:
    """CKR_GENERAL_ERROR says nothing; the error says which it was."""
    signer = softhsm.store().generate("root")
    with (
        fault("C_SignInit", lambda: GENERAL_ERROR),
        pytest.raises(TokenError, match="token fleet: expected an answer, found GeneralError"),
    ):
        signer.sign(b"data")


def test_two_uris_of_one_token_share_its_login(softhsm: SoftHsm) -> None:
    """PKCS#11 logs in a whole process: the operator's and the service's keys.toml may name one token."""
    uri = softhsm.add_token()
    other = uri.pin_file.with_name("pin-too")
    shutil.copy(uri.pin_file, other)
    signer = Pkcs11KeyStore(uri).generate("root")
    same = Pkcs11KeyStore(replace(uri, pin_file=other)).load("root")
    assert _signs(signer)
    assert _signs(same)
    with fault("C_SignInit", lambda: DEVICE_REMOVED), pytest.raises(TokenRemovedError):
        same.sign(b"data")
    assert _signs(signer)
    assert _signs(same)


def _connected() -> ssl.SSLObject:
    """The client's end of a TLS connection in memory, which has nothing to read."""
    sent, received = ssl.MemoryBIO(), ssl.MemoryBIO()
    contexts = [ssl.SSLContext(protocol) for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)]
    for context in contexts:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")  # needs no certificate
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    client, server = contexts[0].wrap_bio(received, sent), contexts[1].wrap_bio(sent, received, server_side=True)
    for end in (client, server, client, server, client):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return client


def test_module_leaves_no_error_to_tls(softhsm: SoftHsm) -> None:
    """A connection that was open when the module started still only waits for its peer."""
    store, connection = softhsm.store(), _connected()
    assert not store.holds("root")
    with pytest.raises(ssl.SSLWantReadError):
        connection.read()


def test_statically_linked_openssl_needs_no_clearing(softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that exports none of its functions shares no error queue with a module."""
    monkeypatch.setattr(tokens, "_openssl", SimpleNamespace)
    assert _signs(softhsm.store().generate("root"))


def test_forked_process_signs_for_itself(softhsm: SoftHsm) -> None:
    """The child opens the token anew, and the parent's session stays what it was."""
    signer = softhsm.store().generate("root")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, signer.sign(b"child"))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with os.fdopen(reader, "rb") as pipe:
        verify(signer.public_key, pipe.read(), b"child")
    assert _signs(signer)


def test_fork_closes_what_the_child_inherits(softhsm: SoftHsm) -> None:
    """What runs in the child: sessions are forgotten, the lock is free, and signing goes on."""
    signer = softhsm.store().generate("root")
    tokens._LOCK.acquire()
    tokens._after_fork()
    with ThreadPoolExecutor(1) as other_thread:
        assert other_thread.submit(_signs, signer).result()


_FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    from pki.errors import TokenWriteError
    from pki.pkcs11 import Pkcs11KeyStore
    from pki.token_uri import TokenUri

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    module, pin = map(Path, sys.argv[1:])
    store = Pkcs11KeyStore(TokenUri("fleet", module, pin))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for size in range(350, 1600, 50):  # each login of SoftHSM2 rewrites 320 bytes of the token itself
        limit(size)
        try:
            store.generate("root")
            found = "kept"
        except TokenWriteError:
            found = "refused"
        limit(resource.RLIM_INFINITY)
        print(found, store.holds("root"))
        if found == "kept":
            break
"""


def test_full_disk_at_any_byte_leaves_a_whole_key_or_none(softhsm: SoftHsm) -> None:
    """A key's files may grow to so many bytes and no further: SoftHSM2 reports success for keys that it has lost."""
    uri: TokenUri = softhsm.add_token()
    command = [sys.executable, "-c", textwrap.dedent(_FULL_DISK), str(uri.module), str(uri.pin_file)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    results = [line.split() for line in run.stdout.splitlines()]
    assert results == [["refused", "False"]] * (len(results) - 1) + [["kept", "True"]]
    assert len(results) > 3
    assert _signs(Pkcs11KeyStore(uri).load("root"))
