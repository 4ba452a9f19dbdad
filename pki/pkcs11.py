"""Keys in a PKCS#11 token: made there, used there, never read.

A role's key is a pair of token objects, private and public, that bear the role as label and one random CKA_ID; halves
with two CKA_IDs are of two keys. Only a P-256 key counts that signs, cannot leave the token, and asks for no PIN of its
own; data is hashed here and the token signs the digest (CKM_ECDSA), so that an image of megabytes does not travel into
it.

A new key counts only when a module that was started afresh finds both halves and the private one signs for the public
one. SoftHSM2 2.6.1 on a full disk reports success, and has lost the key after its next start.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.types import SignMixin

from pki.errors import (
    AmbiguousKeyError,
    HalfKeyError,
    KeyExistsError,
    KeyMissingError,
    KeyStoreError,
    TokenError,
    TokenKeyError,
    TokenWriteError,
)
from pki.token_uri import TokenUri
from pki.tokens import TokenModule, module_at
from protocol.errors import SignatureError
from protocol.signing import P256_COORDINATE_BYTES, der_from_raw, verify

KEY_ID_BYTES = 16
_P256 = bytes.fromhex("06082a8648ce3d030107")  # 1.2.840.10045.3.1.7
_POINT_BYTES = 1 + 2 * P256_COORDINATE_BYTES
_POINT_HEADER = bytes([0x04, _POINT_BYTES])  # OCTET STRING; some modules leave it out
_PROOF = b"tinyfleet: a new key signs"

_STAYS_INSIDE: Mapping[Attribute, bool] = MappingProxyType({Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False})
# A key with CKA_ALWAYS_AUTHENTICATE wants its PIN for each signature.
_USABLE: Mapping[Attribute, bool] = MappingProxyType({**_STAYS_INSIDE, Attribute.ALWAYS_AUTHENTICATE: False})

_Maker = Callable[[pkcs11.Session, dict[Attribute, object]], None]


@dataclass(frozen=True, slots=True)
class _KeyPair:
    private: SignMixin
    public_key: ec.EllipticCurvePublicKey


class TokenSigner:
    """A key in a token; threads may share it.

    Args:
        uri: its token.
        role: its label.
        public_key: its public half; the token must still hold this key whenever it is opened again.
    """

    def __init__(self, uri: TokenUri, role: str, public_key: ec.EllipticCurvePublicKey) -> None:
        self._uri = uri
        self._role = role
        self._public_key = public_key
        self._module = module_at(uri.module)
        self._found: tuple[pkcs11.Session, SignMixin] | None = None

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        """Return a DER ECDSA signature over SHA-256 of the data.

        Raises:
            TokenError: the token does not sign: it is gone, locked, or holds another key by now.
            KeyMissingError: the key has gone from it.
        """
        digest = hashlib.sha256(data).digest()
        with self._module.session(self._uri) as session:
            raw = self._private(session).sign(digest, mechanism=Mechanism.ECDSA)
        return der_from_raw(raw)

    def _private(self, session: pkcs11.Session) -> SignMixin:
        if self._found is None or self._found[0] is not session:  # a handle lives as long as its session
            pair = _find(session, self._role, self._uri)
            if pair.public_key != self._public_key:
                raise TokenKeyError(
                    f"key {self._role}: expected the one first found in {self._uri.token}, found another"
                )
            self._found = session, pair.private
        return self._found[1]


class Pkcs11KeyStore:
    """The keys of one token. Implements `KeyStore`.

    Args:
        uri: the token and who opens it; nothing is opened before a key is asked for.
    """

    def __init__(self, uri: TokenUri) -> None:
        self._uri = uri

    @property
    def uri(self) -> TokenUri:
        """The token."""
        return self._uri

    @property
    def _module(self) -> TokenModule:
        return module_at(self._uri.module)

    def holds(self, role: str) -> bool:
        """Whether the token has a key of this role, be it half a key.

        Raises:
            TokenError: the token cannot be opened.
        """
        with self._module.session(self._uri) as session:
            return _is_taken(session, role)

    def load(self, role: str) -> TokenSigner:
        """Return the signer of a role.

        Raises:
            KeyMissingError: the token has no such key.
            TokenError: token or key cannot be used; the leaf says why.
        """
        with self._module.session(self._uri) as session:
            return TokenSigner(self._uri, role, _find(session, role, self._uri).public_key)

    def generate(self, role: str) -> TokenSigner:
        """Make a new P-256 key in the token.

        Raises:
            KeyExistsError: the token already has a key of this role, or half of one.
            TokenWriteError: the token did not keep it; nothing of it stays.
            TokenError: the token cannot be used.
        """
        return self._keep(role, _generate_pair)

    def take(self, role: str, private_key: ec.EllipticCurvePrivateKey) -> TokenSigner:
        """Copy a P-256 key into the token, from which it cannot be read again.

        Raises: as `generate`.
        """
        return self._keep(role, lambda session, name: _create_pair(session, name, private_key))

    def _keep(self, role: str, make: _Maker) -> TokenSigner:
        key_id = secrets.token_bytes(KEY_ID_BYTES)
        with self._module.writing(self._uri) as session:
            self._refuse_second(session, role)
            try:
                make(session, {Attribute.LABEL: role, Attribute.ID: key_id, Attribute.TOKEN: True})
            except BaseException:
                _destroy(session, key_id)
                raise
        try:
            return self._proved(role)
        except BaseException:
            with suppress(TokenError), self._module.writing(self._uri) as session:
                _destroy(session, key_id)
            raise

    def _refuse_second(self, session: pkcs11.Session, role: str) -> None:
        if _is_taken(session, role):
            raise KeyExistsError(f"key {role}: expected none in token {self._uri.token} yet, found one")

    def _proved(self, role: str) -> TokenSigner:
        self._module.stop()  # what it still remembers proves nothing
        try:
            signer = self.load(role)
            verify(signer.public_key, signer.sign(_PROOF), _PROOF)
        except (KeyStoreError, SignatureError) as error:
            where = f"token {self._uri.token}: expected that it keeps key {role}"
            raise TokenWriteError(f"{where}, found that it is full or broken: {error}") from error
        return signer


def _destroy(session: pkcs11.Session, key_id: bytes) -> None:
    # A token that went away cannot be cleaned; half a key in it is refused by `load`.
    with suppress(pkcs11.PKCS11Error):
        for found in list(session.get_objects({Attribute.ID: key_id})):
            found.destroy()


def _find(session: pkcs11.Session, role: str, uri: TokenUri) -> _KeyPair:
    private = _labelled(session, role, ObjectClass.PRIVATE_KEY)
    public = _labelled(session, role, ObjectClass.PUBLIC_KEY)
    where = f"key {role} in token {uri.token}"
    if not private and not public:
        raise KeyMissingError(f"{where}: expected one, found none")
    if len(private) > 1 or len(public) > 1:
        raise AmbiguousKeyError(f"{where}: expected one key, found {len(private)} private and {len(public)} public")
    if not private or not public:
        raise HalfKeyError(f"{where}: expected both halves, found the {'private' if private else 'public'} one alone")
    if private[0][Attribute.ID] != public[0][Attribute.ID]:
        raise AmbiguousKeyError(f"{where}: expected two halves of one key, found two CKA_IDs")
    return _KeyPair(_private_key(private[0], where), _public_key(public[0], where))


def _is_taken(session: pkcs11.Session, role: str) -> bool:
    return any(_labelled(session, role, kind) for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY))


def _labelled(session: pkcs11.Session, role: str, kind: ObjectClass) -> list[pkcs11.Object]:
    return list(session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: role}))


def _private_key(key: pkcs11.Object, where: str) -> SignMixin:
    _check_curve(key, where)
    for attribute, expected in _USABLE.items():
        if (found := key[attribute]) is not expected:
            raise TokenKeyError(f"{where}: expected CKA_{attribute.name} {expected}, found {found}")
    if not isinstance(key, SignMixin):
        raise TokenKeyError(f"{where}: expected CKA_SIGN True, found False")
    return key


def _public_key(key: pkcs11.Object, where: str) -> ec.EllipticCurvePublicKey:
    _check_curve(key, where)
    try:
        point = key[Attribute.EC_POINT].removeprefix(_POINT_HEADER)
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise TokenKeyError(f"{where}: expected a point of P-256, found another") from error


def _check_curve(key: pkcs11.Object, where: str) -> None:
    if key[Attribute.KEY_TYPE] is not KeyType.EC or key[Attribute.EC_PARAMS] != _P256:
        raise TokenKeyError(f"{where}: expected a P-256 key, found another type or curve")


def _generate_pair(session: pkcs11.Session, name: dict[Attribute, object]) -> None:
    curve = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: _P256}, local=True)
    curve.generate_keypair(
        store=True,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        public_template=name,
        private_template={**name, **_STAYS_INSIDE},
    )


def _create_pair(
    session: pkcs11.Session, name: dict[Attribute, object], private_key: ec.EllipticCurvePrivateKey
) -> None:
    point = private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    scalar = private_key.private_numbers().private_value.to_bytes(P256_COORDINATE_BYTES, "big")
    curve = {**name, Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: _P256}
    private = {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY,
        Attribute.VALUE: scalar,
        Attribute.PRIVATE: True,
        Attribute.SIGN: True,
    }
    public = {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY,
        Attribute.EC_POINT: _POINT_HEADER + point,
        Attribute.VERIFY: True,
    }
    session.create_object({**curve, **private, **_STAYS_INSIDE})
    session.create_object({**curve, **public})
