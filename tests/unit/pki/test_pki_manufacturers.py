"""Manufacturers whose devices a catalog takes: their bundles, and the list that the offline root signs."""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pki.authority import chain_pem
from pki.catalog import Catalog, encode_catalog
from pki.errors import ManufacturerError
from pki.manufacturers import (
    TRUST_FILE,
    Manufacturer,
    TrustList,
    load_trust_list,
    peek_manufacturer,
    sign_manufacturer,
    sign_trust_list,
    trusted_manufacturers,
    verify_manufacturer,
    verify_trust_list,
)
from protocol.identity import spki_der
from protocol.signing import SoftwareSigner
from tests.unit.pki.pki_builder import NOW, Tree, der

CATALOG = "253ee667-88ae-4f55-acf6-2cdaa9ca15bc"


@dataclass(frozen=True, slots=True)
class Maker:
    """A manufacturer: his authorities and keys."""

    tree: Tree = field(default_factory=Tree)
    voucher: SoftwareSigner = field(default_factory=SoftwareSigner.generate)
    rom: SoftwareSigner = field(default_factory=SoftwareSigner.generate)

    def bundle(self, **changes: Any) -> Manufacturer:
        known = {
            "name": "Maker",
            "made_at": NOW,
            "root": der(self.tree.root.certificate),
            "factory": der(self.tree.factory.certificate),
            "voucher_key": spki_der(self.voucher.public_key),
            "rom_key": spki_der(self.rom.public_key),
        }
        return Manufacturer(**{**known, **changes})

    def signed(self, **changes: Any) -> bytes:
        return sign_manufacturer(self.bundle(**changes), self.tree.root_signer)


MAKER, OTHER, OWN = Maker(), Maker(), Maker()
TRUSTED = TrustList(catalog_id=CATALOG, version=1, made_at=NOW, manufacturers=(MAKER.bundle(),))


def _p384_root() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP384R1())
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([]))
    builder = builder.public_key(key.public_key()).serial_number(1).not_valid_before(NOW).not_valid_after(NOW)
    return builder.sign(key, hashes.SHA256())


def test_bundle_is_verified_by_the_fingerprint() -> None:
    """What the manufacturer read out."""
    fingerprint = MAKER.bundle().fingerprint
    assert peek_manufacturer(MAKER.signed()).fingerprint == fingerprint
    bundle = verify_manufacturer(MAKER.signed(crl_url="http://crl.example/f"), fingerprint=fingerprint)
    assert bundle.crl_url == "http://crl.example/f"
    assert bundle.factory_certificate == MAKER.tree.factory.certificate
    assert bundle.system_key == MAKER.rom.public_key


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        (OTHER.signed(), "expected the manufacturer of"),
        (sign_manufacturer(MAKER.bundle(), OTHER.tree.root_signer), "expected a signature by its own root key"),
        (MAKER.signed(factory=der(OTHER.tree.factory.certificate)), "expected a factory authority by his root"),
        (MAKER.signed(factory=der(MAKER.tree.idevid())), "expected a factory authority by his root"),
        (MAKER.signed(factory=b"no certificate"), "factory: expected a DER certificate"),
        (MAKER.signed(rom_key=b"no key"), "manufacturer Maker: public key: expected"),
        (b"no bundle", "expected one by `tinyfleet factory bundle`"),
    ],
    ids=["other", "forged", "other-factory", "end-entity", "no-certificate", "no-key", "no-bundle"],
)
def test_bundle_that_is_not_the_makers_is_refused(bundle: bytes, message: str) -> None:
    """Another's, forged, or with a factory that is not his."""
    with pytest.raises(ManufacturerError, match=message):
        verify_manufacturer(bundle, fingerprint=MAKER.bundle().fingerprint)


def test_authority_below_a_root_is_no_root() -> None:
    """Somebody else's word could end it."""
    with pytest.raises(ManufacturerError, match="expected a self-signed root"):
        MAKER.bundle(root=der(MAKER.tree.factory.certificate)).check()


def test_root_with_a_key_of_another_kind_signs_nothing() -> None:
    """P-256 alone."""
    signed = MAKER.signed(root=der(_p384_root()))
    with pytest.raises(ManufacturerError, match="expected a P-256 key"):
        verify_manufacturer(signed, fingerprint=peek_manufacturer(signed).fingerprint)


def test_root_with_a_key_that_does_not_load_signs_nothing() -> None:
    """A certificate that parses only in part: of a curve that there is not."""
    p256_oid, unknown_oid = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030109")
    signed = MAKER.signed(root=der(MAKER.tree.root.certificate).replace(p256_oid, unknown_oid))
    with pytest.raises(ManufacturerError, match="expected a P-256 key, found none that loads"):
        verify_manufacturer(signed, fingerprint=peek_manufacturer(signed).fingerprint)


@pytest.mark.parametrize("name", ["Maker\x1b[2K", "Maker\nOther", "Maker\u202e", "", "M" * 51])
def test_name_that_cannot_be_shown_is_refused(name: str) -> None:
    """An operator reads it before he confirms the fingerprint; every catalog's name is one."""
    spoiled = sign_manufacturer(MAKER.bundle().model_copy(update={"name": name}), MAKER.tree.root_signer)
    with pytest.raises(ManufacturerError, match="name"):
        peek_manufacturer(spoiled)
    assert peek_manufacturer(MAKER.signed(name="Ångström & Söhne, Ltd.")).name == "Ångström & Söhne, Ltd."


def test_certificate_that_says_nothing_of_itself_is_no_authority() -> None:
    """Without basic constraints."""
    with pytest.raises(ManufacturerError, match="expected a self-signed root"):
        MAKER.bundle(root=der(_p384_root())).check()


def test_manufacturer_knows_his_devices() -> None:
    """By their IDevIDs, whoever shows them."""
    assert MAKER.bundle().made(der(MAKER.tree.idevid()), now=NOW)
    assert not MAKER.bundle().made(der(OTHER.tree.idevid()), now=NOW)
    assert not MAKER.bundle().made(der(MAKER.tree.ldevid()), now=NOW)


def test_list_by_the_catalogs_root_is_trusted() -> None:
    """Every manufacturer in it."""
    signed = sign_trust_list(TRUSTED, OWN.tree.root_signer)
    found = verify_trust_list(signed, root=OWN.tree.root.certificate, catalog_id=CATALOG)
    assert found == TRUSTED


def test_service_cannot_add_a_manufacturer() -> None:
    """Whoever has the service's folder has no root key."""
    signed = sign_trust_list(TRUSTED, SoftwareSigner.generate())
    with pytest.raises(ManufacturerError, match="expected a list by the catalog's root key"):
        verify_trust_list(signed, root=OWN.tree.root.certificate, catalog_id=CATALOG)


def test_list_of_another_catalog_is_refused() -> None:
    """One root may have signed for two."""
    signed = sign_trust_list(TRUSTED, OWN.tree.root_signer)
    other = "11111111-1111-4111-8111-111111111111"
    with pytest.raises(ManufacturerError, match=f"expected catalog {other}, found {CATALOG}"):
        verify_trust_list(signed, root=OWN.tree.root.certificate, catalog_id=other)


def test_list_with_a_malformed_manufacturer_is_refused() -> None:
    """The operator's tool checks; the service does so again."""
    spoiled = TRUSTED.model_copy(update={"manufacturers": (MAKER.bundle(rom_key=b"no key"),)})
    with pytest.raises(ManufacturerError, match="public key: expected"):
        verify_trust_list(
            sign_trust_list(spoiled, OWN.tree.root_signer), root=OWN.tree.root.certificate, catalog_id=CATALOG
        )


def test_list_grows_is_renewed_and_shrinks() -> None:
    """Each change raises the version."""
    grown = TRUSTED.trusting(OTHER.bundle(name="Other"), made_at=NOW)
    assert (grown.version, [each.name for each in grown.manufacturers]) == (2, ["Maker", "Other"])
    renewed = grown.trusting(MAKER.bundle(name="Renamed"), made_at=NOW)
    assert [each.name for each in renewed.manufacturers] == ["Other", "Renamed"]
    shrunk = renewed.without("Other", made_at=NOW)
    assert (shrunk.version, [each.name for each in shrunk.manufacturers]) == (4, ["Renamed"])


def test_older_bundle_does_not_replace_a_newer_one() -> None:
    """Replayed, it would bring back a voucher key that was replaced."""
    older = MAKER.bundle(made_at=NOW - timedelta(days=900), voucher_key=spki_der(OTHER.voucher.public_key))
    with pytest.raises(ManufacturerError, match=r"expected a bundle made since .*, found one of"):
        TRUSTED.trusting(older, made_at=NOW)
    newer = MAKER.bundle(made_at=NOW + timedelta(days=1))
    assert TRUSTED.trusting(newer, made_at=NOW).manufacturers == (newer,)


def test_two_manufacturers_cannot_have_one_name() -> None:
    """An operator could not tell them apart."""
    with pytest.raises(ManufacturerError, match="expected each name and root once"):
        TRUSTED.trusting(OTHER.bundle(), made_at=NOW)


def test_manufacturer_that_is_not_trusted_cannot_be_removed() -> None:
    """A slip of the pen does not go unnoticed."""
    with pytest.raises(ManufacturerError, match="expected one of the name 'Nobody', found none"):
        TRUSTED.without("Nobody", made_at=NOW)


def test_list_is_read_from_the_services_folder(tmp_path: Path) -> None:
    """No list, no manufacturers."""
    assert trusted_manufacturers(tmp_path) == ()
    certificates, genesis = tmp_path / "certificates", tmp_path / "genesis"
    certificates.mkdir()
    genesis.mkdir()
    root = OWN.tree.root.certificate
    assert load_trust_list(certificates / TRUST_FILE, root=root, catalog_id=CATALOG) is None
    (certificates / "root.pem").write_bytes(chain_pem([root]))
    (genesis / "catalog.json").write_bytes(encode_catalog(Catalog(CATALOG, "own", [], [], [])))
    (certificates / TRUST_FILE).write_bytes(sign_trust_list(TRUSTED, OWN.tree.root_signer))
    assert trusted_manufacturers(tmp_path) == TRUSTED.manufacturers
    assert load_trust_list(certificates / TRUST_FILE, root=root, catalog_id=CATALOG) == TRUSTED
