"""Vouchers, the signed time, image packages and golden vectors: each by the key of its role."""

from datetime import datetime
from pathlib import Path

import pytest

from pki.catalog import Catalog
from pki.errors import KeyMissingError
from pki.keystore import FileKeyStore
from pki.packages import SIGNING_KEY, sign_golden, sign_package, trusted_keys
from pki.roles import OfflineKey
from pki.signed_time import sign_time
from pki.vouchers import sign_voucher
from protocol.document import EnvelopeSignatureError, verify_document
from protocol.geometry import ImageKind
from protocol.image import IMAGE_TYPE, ImageInfo, PackageSignatureError, verify_package
from protocol.messages import TIME_PAYLOAD_TYPE, SignedTime
from protocol.model import GOLDEN_PAYLOAD_TYPE, GoldenVector, GoldenVectors
from protocol.signing import SoftwareSigner
from protocol.voucher import Voucher, encode_public_keys, verify_voucher
from tests.unit.pki.pki_builder import NOW, Tree

COMPONENT = "253ee667-88ae-4f55-acf6-2cdaa9ca15bc"


def _store(folder: Path, *roles: OfflineKey) -> FileKeyStore:
    store = FileKeyStore(folder, passphrase=None)
    for role in roles:
        store.generate(role)
    return store


def _info(kind: ImageKind, *, built_at: datetime = NOW) -> ImageInfo:
    return ImageInfo(IMAGE_TYPE[kind], COMPONENT, COMPONENT, "app@1.0.0", 1, built_at)


@pytest.mark.parametrize("kind", list(ImageKind))
def test_image_is_signed_by_the_key_of_its_kind(tmp_path: Path, kind: ImageKind) -> None:
    """System images by the maker, everything else by the package key; never by the other."""
    keys = _store(tmp_path, OfflineKey.ROM, OfflineKey.PACKAGE)
    package = sign_package(b"payload", _info(kind), kind=kind, keys=keys)
    own = SIGNING_KEY[kind]
    other = OfflineKey.PACKAGE if own == OfflineKey.ROM else OfflineKey.ROM
    assert verify_package(package, [keys.load(own).public_key], kind=kind).info == _info(kind)
    with pytest.raises(PackageSignatureError, match="expected a signature by one of 1 trusted keys"):
        verify_package(package, [keys.load(other).public_key], kind=kind)


def test_golden_vectors_are_signed_by_the_golden_key_alone(tmp_path: Path) -> None:
    """The author of a model does not decide what a good answer is."""
    vectors = GoldenVectors(
        component_id=COMPONENT, vectors=(GoldenVector(name="a", input="AAAA", expected=(0.5,), tolerance=0.1),)
    )
    with pytest.raises(KeyMissingError, match="key golden"):
        sign_golden(vectors, _store(tmp_path / "a", OfflineKey.PACKAGE))
    keys = _store(tmp_path / "b", OfflineKey.GOLDEN, OfflineKey.PACKAGE)
    envelope = sign_golden(vectors, keys)
    golden, package = keys.load(OfflineKey.GOLDEN).public_key, keys.load(OfflineKey.PACKAGE).public_key
    assert verify_document(envelope, GOLDEN_PAYLOAD_TYPE, GoldenVectors, trusted_keys=[golden]) == vectors
    with pytest.raises(EnvelopeSignatureError, match="expected a signature by one of 1 trusted keys"):
        verify_document(envelope, GOLDEN_PAYLOAD_TYPE, GoldenVectors, trusted_keys=[package])


def test_signed_time_answers_one_nonce() -> None:
    """Nonce and time come back as they were given."""
    signer = SoftwareSigner.generate()
    envelope = sign_time(b"n" * 32, signer, now=NOW)
    answer = verify_document(envelope, TIME_PAYLOAD_TYPE, SignedTime, trusted_keys=[signer.public_key])
    assert (answer.device_nonce, answer.now) == (b"n" * 32, NOW)


def test_voucher_is_verified_by_the_device() -> None:
    """What the authority signs, the device accepts."""
    tree, signer = Tree(), SoftwareSigner.generate()
    voucher = Voucher(
        device_id=tree.device_id,
        catalog_id=COMPONENT,
        catalog_name="demo",
        sequence=1,
        issued_at=NOW,
        tls_root=b"root",
        director_root=b"{}",
        image_root=b"{}",
        package_keys=encode_public_keys([signer.public_key]),
        golden_keys=(),
    )
    envelope = sign_voucher(voucher, signer)
    assert verify_voucher(envelope, tree.device_id, voucher_key=signer.public_key) == voucher


def test_catalog_says_who_signs_packages_of_a_kind() -> None:
    """The maker's keys for system images and trust stores, package keys for the rest."""
    package, system = SoftwareSigner.generate().public_key, SoftwareSigner.generate().public_key
    catalog = Catalog(COMPONENT, "demo", package_keys=(package,), system_keys=(system,), golden_keys=())
    assert trusted_keys(catalog, ImageKind.OS) == (system,)
    assert trusted_keys(catalog, ImageKind.TRUST_STORE) == (system,)
    assert trusted_keys(catalog, ImageKind.MODEL) == (package,)
