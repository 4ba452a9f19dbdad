"""Keys in a PKCS#11 token: made there, used there, never read.

A role's key is a pair of token objects, private and public, that bear the role as label and one random CKA_ID; halves
with two CKA_IDs are of two keys. Only a key of the wanted curve counts that signs, cannot leave the token, and asks for
no PIN of its own. For P-256 data is hashed here and the token signs the digest (CKM_ECDSA), so that an image of
megabytes does not travel into it; the transparency log's Ed25519 key signs its short notes whole (CKM_EDDSA).

A new key counts only when a module that was started afresh finds both halves and the private one signs for the public
one. SoftHSM2 2.6.1 on a full disk reports success, and has lost the key after its next start.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Generic, TypeVar

import pkcs11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, MechanismFlag, ObjectClass
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
from pki.token_curves import ED25519, P256, Curve, PublicKey
from pki.token_uri import TokenUri
from pki.tokens import TokenModule, module_at
from protocol.errors import SignatureError
from protocol.signing import P256_COORDINATE_BYTES, der_from_raw, verify

KEY_ID_BYTES = 16
_PROOF = b"tinyfleet: a new key signs"

_STAYS_INSIDE: Mapping[Attribute, bool] = MappingProxyType({Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False})
# A key with CKA_ALWAYS_AUTHENTICATE wants its PIN for each signature.
_USABLE: Mapping[Attribute, bool] = MappingProxyType({**_STAYS_INSIDE, Attribute.ALWAYS_AUTHENTICATE: False})

_Maker = Callable[[pkcs11.Session, dict[Attribute, object]], None]
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class _KeyPair(Generic[PublicKey]):
    private: SignMixin
    public_key: PublicKey


class TokenKey(Generic[PublicKey]):
    """A key in a token; threads may share it.

    Args:
        uri: its token.
        role: its label.
        curve: its kind.
        public_key: its public half; the token must still hold this key whenever it is opened again.
    """

    def __init__(self, uri: TokenUri, role: str, *, curve: Curve[PublicKey], public_key: PublicKey) -> None:
        self._uri = uri
        self._role = role
        self._curve: Curve[PublicKey] = curve
        self._public_key: PublicKey = public_key
        self._module = module_at(uri.module)
        self._found: tuple[pkcs11.Session, SignMixin] | None = None

    @property
    def public_key(self) -> PublicKey:
        """The public half."""
        return self._public_key

    def sign_raw(self, data: bytes) -> bytes:
        """Return the token's own signature: r‖s over a digest (P-256), or over the data itself (Ed25519), 64 bytes.

        Raises:
            TokenError: the token does not sign: it is gone, locked, or holds another key by now.
            KeyMissingError: the key has gone from it.
        """
        with self._module.session(self._uri) as session:
            return self._private(session).sign(data, mechanism=self._curve.signing)

    def _private(self, session: pkcs11.Session) -> SignMixin:
        if self._found is None or self._found[0] is not session:  # a handle lives as long as its session
            pair = _find(session, self._role, self._uri, curve=self._curve)
            if pair.public_key != self._public_key:
                raise TokenKeyError(
                    f"key {self._role}: expected the one first found in {self._uri.token}, found another"
                )
            self._found = session, pair.private
        return self._found[1]


class TokenSigner(TokenKey[ec.EllipticCurvePublicKey]):
    """A P-256 key in a token. Implements `Signer`."""

    def sign(self, data: bytes) -> bytes:
        """Return a DER ECDSA signature over SHA-256 of the data. Raises as `sign_raw`."""
        return der_from_raw(self.sign_raw(hashlib.sha256(data).digest()))


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
            pair = _find(session, role, self._uri, curve=P256)
            return TokenSigner(self._uri, role, curve=P256, public_key=pair.public_key)

    def load_ed25519(self, role: str) -> TokenKey[Ed25519PublicKey]:
        """Return a role's Ed25519 key. Raises as `load`."""
        with self._module.session(self._uri) as session:
            pair = _find(session, role, self._uri, curve=ED25519)
            return TokenKey(self._uri, role, curve=ED25519, public_key=pair.public_key)

    def generate(self, role: str) -> TokenSigner:
        """Make a new P-256 key in the token.

        Raises:
            KeyExistsError: the token already has a key of this role, or half of one.
            TokenWriteError: the token did not keep it; nothing of it stays.
            TokenError: the token cannot be used.
        """
        return self._keep(role, partial(_generate_pair, P256), self._proved)

    def generate_ed25519(self, role: str) -> TokenKey[Ed25519PublicKey]:
        """Make a new Ed25519 key in the token. Raises as `generate`."""
        return self._keep(role, partial(_generate_pair, ED25519), self._proved_ed25519)

    def take(self, role: str, private_key: ec.EllipticCurvePrivateKey) -> TokenSigner:
        """Copy a P-256 key into the token, from which it cannot be read again.

        Raises: as `generate`.
        """
        return self._keep(role, partial(_create_pair, private_key), self._proved)

    def _keep(self, role: str, make: _Maker, proved: Callable[[str], _Key]) -> _Key:
        key_id = secrets.token_bytes(KEY_ID_BYTES)
        with self._module.writing(self._uri) as session:
            self._refuse_second(session, role)
            try:
                make(session, {Attribute.LABEL: role, Attribute.ID: key_id, Attribute.TOKEN: True})
            except BaseException:
                _destroy(session, key_id)
                raise
        try:
            self._module.stop()  # what it still remembers proves nothing
            return self._kept(role, proved)
        except BaseException:
            with suppress(TokenError), self._module.writing(self._uri) as session:
                _destroy(session, key_id)
            raise

    def _refuse_second(self, session: pkcs11.Session, role: str) -> None:
        if _is_taken(session, role):
            raise KeyExistsError(f"key {role}: expected none in token {self._uri.token} yet, found one")

    def _kept(self, role: str, proved: Callable[[str], _Key]) -> _Key:
        try:
            return proved(role)
        except (KeyStoreError, SignatureError, InvalidSignature) as error:
            where = f"token {self._uri.token}: expected that it keeps key {role}"
            raise TokenWriteError(f"{where}, found that it is full or broken: {error}") from error

    def _proved(self, role: str) -> TokenSigner:
        signer = self.load(role)
        verify(signer.public_key, signer.sign(_PROOF), _PROOF)
        return signer

    def _proved_ed25519(self, role: str) -> TokenKey[Ed25519PublicKey]:
        key = self.load_ed25519(role)
        key.public_key.verify(key.sign_raw(_PROOF), _PROOF)
        return key


def _destroy(session: pkcs11.Session, key_id: bytes) -> None:
    # A token that went away cannot be cleaned; half a key in it is refused by `load`.
    with suppress(pkcs11.PKCS11Error):
        for found in list(session.get_objects({Attribute.ID: key_id})):
            found.destroy()


def _find(session: pkcs11.Session, role: str, uri: TokenUri, *, curve: Curve[PublicKey]) -> _KeyPair[PublicKey]:
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
    return _KeyPair(_private_key(private[0], where, curve=curve), _public_key(public[0], where, curve=curve))


def _is_taken(session: pkcs11.Session, role: str) -> bool:
    return any(_labelled(session, role, kind) for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY))


def _labelled(session: pkcs11.Session, role: str, kind: ObjectClass) -> list[pkcs11.Object]:
    return list(session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: role}))


def _private_key(key: pkcs11.Object, where: str, *, curve: Curve[PublicKey]) -> SignMixin:
    _check_curve(key, where, curve=curve)
    for attribute, expected in _USABLE.items():
        if (found := key[attribute]) is not expected:
            raise TokenKeyError(f"{where}: expected CKA_{attribute.name} {expected}, found {found}")
    if not isinstance(key, SignMixin):
        raise TokenKeyError(f"{where}: expected CKA_SIGN True, found False")
    return key


def _public_key(key: pkcs11.Object, where: str, *, curve: Curve[PublicKey]) -> PublicKey:
    _check_curve(key, where, curve=curve)
    try:
        return curve.public_key(key[Attribute.EC_POINT])
    except ValueError as error:
        raise TokenKeyError(f"{where}: expected a point of {curve.name}, found another") from error


def _check_curve(key: pkcs11.Object, where: str, *, curve: Curve[PublicKey]) -> None:
    if key[Attribute.KEY_TYPE] is not curve.key_type or key[Attribute.EC_PARAMS] not in curve.parameters:
        raise TokenKeyError(f"{where}: expected a key of {curve.name}, found another type or curve")


def _generate_pair(curve: Curve[PublicKey], session: pkcs11.Session, name: dict[Attribute, object]) -> None:
    domain = session.create_domain_parameters(curve.key_type, {Attribute.EC_PARAMS: curve.parameters[0]}, local=True)
    domain.generate_keypair(
        mechanism=curve.generation,
        store=True,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        public_template=name,
        private_template={**name, **_STAYS_INSIDE},
    )


def _create_pair(
    private_key: ec.EllipticCurvePrivateKey, session: pkcs11.Session, name: dict[Attribute, object]
) -> None:
    point = private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    scalar = private_key.private_numbers().private_value.to_bytes(P256_COORDINATE_BYTES, "big")
    curve = {**name, Attribute.KEY_TYPE: P256.key_type, Attribute.EC_PARAMS: P256.parameters[0]}
    private = {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY,
        Attribute.VALUE: scalar,
        Attribute.PRIVATE: True,
        Attribute.SIGN: True,
    }
    public = {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY,
        Attribute.EC_POINT: P256.point_header + point,
        Attribute.VERIFY: True,
    }
    session.create_object({**curve, **private, **_STAYS_INSIDE})
    session.create_object({**curve, **public})
