"""Keys in a token: made, used, never read, and refused where they are not what a role needs."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, KeyType, ObjectClass

from pki import tokens
from pki.errors import (
    AmbiguousKeyError,
    HalfKeyError,
    KeyExistsError,
    KeyMissingError,
    TokenKeyError,
    TokenWriteError,
)
from pki.pkcs11 import Pkcs11KeyStore
from pki.tokens import module_at, stop_modules
from protocol.signing import SoftwareSigner, verify
from tests.softhsm import SoftHsm, fault

P384 = bytes.fromhex("06052b81040022")
FUNCTION_FAILED = 0x06
DEVICE_MEMORY = 0x31
DEVICE_REMOVED = 0x32


@contextmanager
def _inside(store: Pkcs11KeyStore) -> Iterator[pkcs11.Session]:
    """A session that may write, for what other tools would do."""
    with module_at(store.uri.module).writing(store.uri) as session:
        yield session


def _objects(store: Pkcs11KeyStore) -> list[tuple[str, str]]:
    with _inside(store) as session:
        return sorted((found[Attribute.LABEL], found[Attribute.CLASS].name) for found in session.get_objects({}))


def _change(store: Pkcs11KeyStore, kind: ObjectClass, change: Callable[[pkcs11.Object], None]) -> None:
    with _inside(store) as session:
        for found in list(session.get_objects({Attribute.CLASS: kind})):
            change(found)


def test_generated_key_signs_and_is_loaded_again(softhsm: SoftHsm) -> None:
    """Another store of the token signs with the same key after the module has been started afresh."""
    store = softhsm.store()
    assert not store.holds("root")
    generated = store.generate("root")
    assert store.holds("root")
    stop_modules()
    loaded = Pkcs11KeyStore(store.uri).load("root")
    assert loaded.public_key == generated.public_key
    verify(generated.public_key, loaded.sign(b"data" * 100_000), b"data" * 100_000)


def test_generated_key_cannot_leave_the_token(softhsm: SoftHsm) -> None:
    """Both halves bear the role and one random id; the private one is sensitive and cannot be extracted."""
    store = softhsm.store()
    store.generate("root")
    with _inside(store) as session:
        halves = {found[Attribute.CLASS]: found for found in session.get_objects({Attribute.LABEL: "root"})}
        private, public = halves[ObjectClass.PRIVATE_KEY], halves[ObjectClass.PUBLIC_KEY]
        assert (len(private[Attribute.ID]), private[Attribute.ID]) == (16, public[Attribute.ID])
        flags = (Attribute.SENSITIVE, Attribute.ALWAYS_SENSITIVE, Attribute.NEVER_EXTRACTABLE, Attribute.LOCAL)
        assert [private[flag] for flag in flags] == [True] * 4
        with pytest.raises(pkcs11.AttributeSensitive):
            private[Attribute.VALUE]


def test_imported_key_is_the_same_key(softhsm: SoftHsm) -> None:
    """A file's key moves into the token, and cannot be read there."""
    store, signer = softhsm.store(), SoftwareSigner.generate()
    taken = store.take("root", signer.private_key)
    assert taken.public_key == signer.public_key
    verify(signer.public_key, taken.sign(b"data"), b"data")
    with _inside(store) as session:
        (private,) = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
        with pytest.raises(pkcs11.AttributeSensitive):
            private[Attribute.VALUE]


def test_existing_key_is_never_replaced(softhsm: SoftHsm) -> None:
    """A second generate or import is refused and the key stays."""
    store = softhsm.store()
    signer = store.generate("root")
    with pytest.raises(KeyExistsError, match="key root: expected none in token fleet yet, found one"):
        store.generate("root")
    with pytest.raises(KeyExistsError, match="found one"):
        store.take("root", SoftwareSigner.generate().private_key)
    assert store.load("root").public_key == signer.public_key
    assert len(_objects(store)) == 2


def test_missing_key_is_named(softhsm: SoftHsm) -> None:
    """The message names role and token; another role's key does not stand in."""
    store = softhsm.store()
    store.generate("package")
    with pytest.raises(KeyMissingError, match="key root in token fleet: expected one, found none"):
        store.load("root")


def test_two_keys_of_one_role_are_refused(softhsm: SoftHsm) -> None:
    """Which of them signs would be chance."""
    store = softhsm.store()
    store.generate("root")
    store.generate("package")
    _change(store, ObjectClass.PRIVATE_KEY, lambda found: found.__setitem__(Attribute.LABEL, "root"))
    with pytest.raises(AmbiguousKeyError, match="expected one key, found 2 private and 1 public"):
        store.load("root")


def test_halves_of_two_keys_are_refused(softhsm: SoftHsm) -> None:
    """One label does not make a pair: a signature would verify under another key."""
    store = softhsm.store()
    store.generate("root")
    _change(store, ObjectClass.PRIVATE_KEY, lambda found: found.destroy())
    store.generate("package")
    _change(store, ObjectClass.PRIVATE_KEY, lambda found: found.__setitem__(Attribute.LABEL, "root"))
    with pytest.raises(AmbiguousKeyError, match="expected two halves of one key, found two CKA_IDs"):
        store.load("root")


@pytest.mark.parametrize(("lost", "left"), [(ObjectClass.PRIVATE_KEY, "public"), (ObjectClass.PUBLIC_KEY, "private")])
def test_half_a_key_is_refused(softhsm: SoftHsm, lost: ObjectClass, left: str) -> None:
    """It is neither loaded nor taken for no key, which would make a second one of that label."""
    store = softhsm.store()
    store.generate("root")
    _change(store, lost, lambda found: found.destroy())
    assert store.holds("root")
    with pytest.raises(HalfKeyError, match=f"expected both halves, found the {left} one alone"):
        store.load("root")
    with pytest.raises(KeyExistsError, match="found one"):
        store.generate("root")


def _rsa(session: pkcs11.Session) -> None:
    session.generate_keypair(KeyType.RSA, 2048, label="root", store=True)


def _p384(session: pkcs11.Session) -> None:
    curve = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: P384}, local=True)
    curve.generate_keypair(label="root", store=True)


def _p256(private: Mapping[Attribute, bool]) -> Callable[[pkcs11.Session], None]:
    def make(session: pkcs11.Session) -> None:
        parameters = {Attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}
        curve = session.create_domain_parameters(KeyType.EC, parameters, local=True)
        curve.generate_keypair(label="root", store=True, private_template=dict(private))

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_rsa, "expected a key of P-256, found another type or curve"),
        (_p384, "expected a key of P-256, found another type or curve"),
        (_p256({Attribute.EXTRACTABLE: True}), "expected CKA_EXTRACTABLE False, found True"),
        (_p256({Attribute.SENSITIVE: False}), "expected CKA_SENSITIVE True, found False"),
        (_p256({Attribute.ALWAYS_AUTHENTICATE: True}), "expected CKA_ALWAYS_AUTHENTICATE False, found True"),
        (_p256({Attribute.SIGN: False}), "expected CKA_SIGN True, found False"),
    ],
)
def test_key_of_another_make_is_refused(softhsm: SoftHsm, make: Callable[[pkcs11.Session], None], message: str) -> None:
    """Another type or curve, a key that may leave the token, wants its PIN each time, or does not sign."""
    store = softhsm.store()
    with _inside(store) as session:
        make(session)
    with pytest.raises(TokenKeyError, match=f"key root in token fleet: {message}"):
        store.load("root")


def test_public_key_that_is_no_point_is_refused(softhsm: SoftHsm) -> None:
    """The public half is read once, and checked then."""
    store = softhsm.store()
    store.generate("root")
    _change(store, ObjectClass.PUBLIC_KEY, lambda found: found.destroy())
    template = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.KEY_TYPE: KeyType.EC, Attribute.TOKEN: True}
    curve = {Attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107"), Attribute.EC_POINT: b"\x04\x41" + bytes(65)}
    with _inside(store) as session:
        (private,) = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
        name = {Attribute.LABEL: "root", Attribute.ID: private[Attribute.ID]}
        session.create_object({**template, **curve, **name})
    with pytest.raises(TokenKeyError, match="expected a point of P-256, found another"):
        store.load("root")


def test_signer_refuses_another_key_in_its_place(softhsm: SoftHsm) -> None:
    """A token that was changed behind a running service signs nothing for the old key."""
    store = softhsm.store()
    signer = store.generate("root")
    _change(store, ObjectClass.PRIVATE_KEY, lambda found: found.destroy())
    _change(store, ObjectClass.PUBLIC_KEY, lambda found: found.destroy())
    store.generate("root")
    with pytest.raises(TokenKeyError, match="key root: expected the one first found in fleet, found another"):
        signer.sign(b"data")


def test_key_that_cannot_sign_is_removed(softhsm: SoftHsm) -> None:
    """The pair is made, and the module fails when it is to show that it signs."""
    store = softhsm.store()
    with (
        fault("C_SignInit", lambda: FUNCTION_FAILED),
        pytest.raises(TokenWriteError, match=r"keeps key root, found that it is full or broken: .*FunctionFailed"),
    ):
        store.generate("root")
    assert _objects(store) == []


def test_key_that_does_not_prove_itself_is_removed(softhsm: SoftHsm) -> None:
    """An import whose public half belongs to another key is found out when it is to sign for it."""
    store, other = softhsm.store(), ec.generate_private_key(ec.SECP256R1())

    class Crossed:
        def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
            return ec.generate_private_key(ec.SECP256R1()).private_numbers()

        def public_key(self) -> ec.EllipticCurvePublicKey:
            return other.public_key()

    with pytest.raises(TokenWriteError, match="expected that it keeps key root, found that it is full or broken"):
        store.take("root", Crossed())  # type: ignore[arg-type]  # a broken key on purpose
    assert _objects(store) == []


@pytest.mark.parametrize("late", [False, True])
def test_full_token_keeps_nothing_of_a_key(softhsm: SoftHsm, *, late: bool) -> None:
    """CKR_DEVICE_MEMORY before the pair is made, and when it has been made already."""
    store = softhsm.store()
    store.generate("package")
    with (
        fault("C_GenerateKeyPair", lambda: DEVICE_MEMORY, late=late),
        pytest.raises(TokenWriteError, match="token fleet: expected room and leave to write, found DeviceMemory"),
    ):
        store.generate("root")
    assert not store.holds("root")
    assert len(_objects(store)) == 2


def test_token_that_cannot_be_cleaned_hides_nothing(softhsm: SoftHsm) -> None:
    """The pair is made, the token fails and takes no more orders: the first error counts, and no key is hidden."""
    store = softhsm.store()
    with (
        fault("C_GenerateKeyPair", lambda: DEVICE_MEMORY, late=True),
        fault("C_DestroyObject", lambda: DEVICE_REMOVED),
        pytest.raises(TokenWriteError, match="found DeviceMemory"),
    ):
        store.generate("root")
    assert store.holds("root")


def test_threads_share_one_session(softhsm: SoftHsm) -> None:
    """Eight threads sign with two keys at once; every signature is of the key that was asked."""
    store = softhsm.store()
    signers = [store.generate("root"), store.generate("package")]
    failures: list[Exception] = []

    def sign(number: int) -> None:
        signer, data = signers[number % 2], bytes([number]) * 100
        try:
            for _ in range(50):
                verify(signer.public_key, signer.sign(data), data)
        except Exception as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=sign, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(tokens._MODULES[store.uri.module]._sessions) == 1
