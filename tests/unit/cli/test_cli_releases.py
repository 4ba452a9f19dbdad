"""`tinyfleet release`, `image` and `factory`: what they sign, and what they refuse without a trace."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from tuf.api.metadata import Metadata, Root

from pki.chains import verify_idevid
from pki.errors import (
    CsrError,
    MetadataExpiredError,
    MetadataSignatureError,
    MetadataVersionError,
    PassphraseError,
)
from pki.keystore import PASSPHRASE_VARIABLE
from pki.metadata import sign_targets
from pki.online import load_certificate
from pki.packages import sign_golden, sign_package
from pki.proposals import read_proposal
from pki.repository import verify_root, verify_targets
from pki.roles import OfflineKey
from protocol.document import EnvelopeSignatureError, sign_document
from protocol.geometry import Core, ImageKind, Slot
from protocol.identity import device_id_of, device_uri
from protocol.image import IMAGE_TYPE, ImageInfo, PackageSignatureError, verify_package
from protocol.model import (
    GOLDEN_PAYLOAD_TYPE,
    GoldenVector,
    GoldenVectors,
    InputContract,
    Measured,
    ModelCard,
    compose_model_payload,
)
from protocol.signing import SoftwareSigner, TufSigner, tuf_key
from protocol.updates import ReleaseDocument, image_custom, image_target_name
from service.cli.catalog_papers import own_catalog
from service.cli.errors import BadArgumentError, DeviceFolderError, RefusedError
from service.cli.offered import (
    OfferedImage,
    PackageFileError,
    PackageSizeError,
    note_path,
    verify_offered,
    write_offered,
)
from service.cli.publishing import ReleaseRefusedError
from service.cli.working_copy import WorkingCopyError
from tests.unit.cli.offline_service import DAY, Operator, wall_clock

COMPONENT = "b7a1f569-9587-43f0-ac75-7edf5b558dec"
IMAGE = "11a11404-de20-41c1-b66e-32354cb78e49"


def _pack(operator: Operator, name: str = "app.img", *, size: int = 1000, core: str = "a7") -> Path:
    payload = Path("payload.bin")
    payload.write_bytes(bytes(range(250)) * (size // 250))
    labels = ("--name", "telemetry-app", "--version", "1.1.0", "--component-id", COMPONENT)
    operator.run("image", "create", payload, *labels, "--core", core, "--out", name)
    return Path(name)


def _golden(operator: Operator, *, component: str = COMPONENT, role: OfflineKey = OfflineKey.GOLDEN) -> Path:
    vector = GoldenVector(name="a", input="AAAA", expected=(0.5,), tolerance=0.1)
    vectors = GoldenVectors(component_id=component, vectors=(vector,))
    path = Path(f"golden-{role}.json")
    keys = operator.folders.keys
    signed = sign_golden(vectors, keys) if role == OfflineKey.GOLDEN else _signed_by(operator, vectors, role)
    path.write_bytes(signed)
    return path


def _signed_by(operator: Operator, vectors: GoldenVectors, role: OfflineKey) -> bytes:
    return sign_document(vectors, GOLDEN_PAYLOAD_TYPE, operator.folders.keys.load(role))


def _model(operator: Operator, golden: Path | None, name: str = "model.img") -> Path:
    """A model package with a card; nobody runs it here."""
    card = ModelCard(
        name="person",
        version="1.0.0",
        component_id=COMPONENT,
        core=Core.M4_0,
        input=InputContract(shape=(1,), dtype="int8"),
        labels=("a", "b"),
        measured=Measured(model_bytes=64, arena_bytes=16, macs=1),
    )
    info = ImageInfo(
        IMAGE_TYPE[ImageKind.MODEL], COMPONENT, IMAGE, "person@1.0.0", 2, wall_clock().replace(microsecond=0)
    )
    keys, catalog = operator.folders.keys, own_catalog(operator.folders.operator)
    package = sign_package(compose_model_payload(card, bytes(64)), info, kind=ImageKind.MODEL, keys=keys)
    offered = OfferedImage(Slot.M4_0_MODEL, package, verify_offered(package, Slot.M4_0_MODEL, catalog))
    write_offered(Path(name), offered, golden=golden)
    return Path(name)


def test_release_is_signed_here_and_taken_there(operator: Operator) -> None:
    """Targets for package, golden vectors and release document; the files are with the service first."""
    golden = _golden(operator)
    result = operator.run("release", "create", "main", _pack(operator), _model(operator, golden), "--yes", "--json")
    assert json.loads(result.stdout)["name"] == "main"
    root = verify_root((operator.folders.service / "genesis" / "image.root.json").read_bytes(), now=wall_clock())
    targets = verify_targets(operator.service.targets, root=root, now=wall_clock(), version=2).targets
    assert set(operator.service.artifacts) == {target.hashes["sha256"] for target in targets.values()}
    assert operator.repository()["2.targets.json"] == operator.service.targets
    model = image_custom(targets[image_target_name(Slot.M4_0_MODEL, IMAGE)])
    assert (model.security_counter, model.hardware_ids) == (2, ("mt3620-m4-0",))
    assert model.golden in targets
    document = ReleaseDocument.model_validate_json(operator.repository()["releases/1-main.json"])
    assert set(document.images) == {Slot.A7_APPLICATION, Slot.M4_0_MODEL}
    assert (document.counter, document.factory) == (1, False)


def test_second_release_has_the_next_counter(operator: Operator) -> None:
    """The same package may be released again under another name."""
    package = _pack(operator)
    operator.run("release", "create", "one", package, "--yes")
    operator.run("release", "create", "two", package, "--yes")
    assert {"releases/1-one.json", "releases/2-two.json"} <= set(operator.repository())
    assert "one" in operator.run("release", "list").stdout
    assert [item["name"] for item in json.loads(operator.run("release", "list", "--json").stdout)] == ["one", "two"]


def test_no_changes_nothing(operator: Operator) -> None:
    """The changes are shown; the answer is no."""
    package, before = _pack(operator), operator.repository()
    result = operator.run("release", "create", "main", package, expect=1, answer="n\n")
    assert isinstance(result.exception, BadArgumentError)
    assert "releases/1-main.json" in result.stdout
    assert (operator.repository(), operator.service.artifacts) == (before, {})


def test_yes_publishes(operator: Operator) -> None:
    """The answer is yes."""
    operator.run("release", "create", "main", _pack(operator), answer="y\n")
    assert operator.service.releases == ["main"]


def test_expired_metadata_is_refused(operator: Operator) -> None:
    """A frozen service gets no signature."""
    package = _pack(operator)
    operator.service.expires = wall_clock() - DAY
    operator.refused(MetadataExpiredError, "timestamp: expected an expiry", "release", "create", "m", package, "--yes")


def test_metadata_of_another_fleet_is_refused(operator: Operator) -> None:
    """Signed by keys that our root does not name."""
    package, service = _pack(operator), operator.service
    service.targets = sign_targets([], SoftwareSigner.generate(), version=1, expires=service.expires)
    operator.refused(MetadataSignatureError, "targets: expected", "release", "create", "m", package, "--yes")


def test_service_that_went_back_is_refused(operator: Operator) -> None:
    """A restored backup: targets below those that we have seen."""
    package, service = _pack(operator), operator.service
    first = service.targets
    operator.run("release", "create", "main", package, "--yes")
    service.targets, service.version = first, 1
    operator.refused(MetadataVersionError, "at least version 2, found 1", "release", "create", "m", package, "--yes")


def test_other_content_under_a_known_version_is_refused(operator: Operator) -> None:
    """Two histories signed by the same key."""
    package, service = _pack(operator), operator.service
    signer = operator.folders.keys.load(OfflineKey.IMAGE_TARGETS)
    service.targets = sign_targets([], signer, version=1, expires=service.expires + DAY)
    message = "targets version 1: expected the one that we know, found another"
    operator.refused(WorkingCopyError, message, "release", "create", "m", package, "--yes")


def test_refusal_of_the_service_leaves_the_metadata(operator: Operator) -> None:
    """Somebody else was first: our version is not kept, and the next try starts from theirs."""
    package, service = _pack(operator), operator.service
    service.refuses = True
    result = operator.run("release", "create", "main", package, "--yes", expect=1)
    assert isinstance(result.exception, RefusedError)
    assert "2.targets.json" not in operator.repository()
    service.refuses = False
    operator.run("release", "create", "main", package, "--yes")


def test_newer_root_is_followed_and_kept(operator: Operator) -> None:
    """A root rotated by the root key."""
    repository = operator.folders.operator / "repository"
    metadata: Metadata[Root] = Metadata.from_bytes((repository / "1.root.json").read_bytes())
    metadata.signed.version = 2
    metadata.sign(TufSigner(operator.folders.keys.load(OfflineKey.ROOT)))
    operator.service.extra["2.root.json"] = metadata.to_bytes()
    operator.run("release", "create", "main", _pack(operator), "--yes")
    assert operator.repository()["2.root.json"] == metadata.to_bytes()
    assert tuf_key(operator.folders.keys.load(OfflineKey.ROOT).public_key).keyid in metadata.signatures


def test_key_that_the_root_does_not_name_makes_a_proposal(operator: Operator) -> None:
    """Its signature would not count: the release waits for somebody whose does."""
    package = _pack(operator)
    keys = operator.folders.keys
    keys.files.path(OfflineKey.IMAGE_TARGETS).unlink()
    keys.generate(OfflineKey.IMAGE_TARGETS)
    result = operator.run("release", "create", "m", package, "--yes", "--json")
    answer = json.loads(result.stdout)
    assert [each["role"] for each in answer["missing"]] == ["targets"]
    assert read_proposal(Path(answer["proposal"])).purpose == "release m"
    assert operator.service.releases == []


def test_wrong_passphrase_is_refused(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be signed."""
    package = _pack(operator)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "another passphrase")
    operator.refused(PassphraseError, "key package", "release", "create", "m", package, "--yes")


def test_taken_name_is_refused(operator: Operator) -> None:
    """A release keeps its name for ever."""
    package = _pack(operator)
    operator.run("release", "create", "main", package, "--yes")
    message = "expected one that is not taken, found releases/1-main.json"
    operator.refused(ReleaseRefusedError, message, "release", "create", "main", package, "--yes")


def test_name_that_is_none_is_refused(operator: Operator) -> None:
    """A name becomes a part of a target's name."""
    package = _pack(operator)
    result = operator.run("release", "create", "../main", package, "--yes", expect=1)
    assert isinstance(result.exception, BadArgumentError)
    assert operator.service.artifacts == {}


def test_two_images_for_one_slot_are_refused(operator: Operator) -> None:
    """At most one image per slot."""
    packages = [_pack(operator, "a.img"), _pack(operator, "b.img")]
    message = "expected one image per slot, found two for a7/application"
    operator.refused(ReleaseRefusedError, message, "release", "create", "m", *packages, "--yes")


def test_missing_files_are_named(operator: Operator) -> None:
    """Package or note."""
    operator.refused(PackageFileError, "none.img: expected a readable file", "release", "create", "m", "none.img")
    package = _pack(operator)
    note_path(package).unlink()
    operator.refused(PackageFileError, "app.img.json: expected a readable file", "release", "create", "m", package)


def test_package_that_is_not_the_notes_is_refused(operator: Operator) -> None:
    """Truncated, or exchanged."""
    package = _pack(operator)
    package.write_bytes(package.read_bytes()[:-1])
    operator.refused(PackageFileError, "expected SHA-256 .* as its note says", "release", "create", "m", package)


def test_package_of_another_key_is_refused(operator: Operator) -> None:
    """Of one that the catalog does not name; that it is in our own folder does not help."""
    keys = operator.folders.keys
    keys.files.path(OfflineKey.PACKAGE).unlink()
    keys.generate(OfflineKey.PACKAGE)
    package = _pack(operator)
    operator.refused(PackageSignatureError, "expected a signature by one of 1", "release", "create", "m", package)


def test_packages_are_released_without_the_keys_that_signed_them(operator: Operator) -> None:
    """Application and model count by the catalog's public keys; only provenance needs a private one."""
    packages, keys = [_pack(operator), _model(operator, _golden(operator))], operator.folders.keys
    for role in (OfflineKey.PACKAGE, OfflineKey.GOLDEN):
        keys.files.path(role).unlink()
    result = operator.run("release", "create", "main", *packages, "--yes")
    assert "without provenance" in result.stderr.replace("\n", " ")
    assert operator.service.releases == ["main"]


def test_model_without_golden_vectors_is_refused(operator: Operator) -> None:
    """No device would take it."""
    package = _model(operator, None)
    operator.refused(PackageFileError, "expected golden vectors", "release", "create", "m", package, "--yes")


def test_golden_vectors_by_the_package_key_are_refused(operator: Operator) -> None:
    """Another role signs them."""
    package = _model(operator, _golden(operator, role=OfflineKey.PACKAGE))
    operator.refused(EnvelopeSignatureError, "GoldenVectors", "release", "create", "m", package, "--yes")


def test_golden_vectors_of_another_component_are_refused(operator: Operator) -> None:
    """They belong to one component."""
    package = _model(operator, _golden(operator, component=IMAGE))
    operator.refused(PackageFileError, f"found {IMAGE}", "release", "create", "m", package, "--yes")


def test_image_that_does_not_fit_its_slot_is_refused_by_how_much(operator: Operator) -> None:
    """Nothing is written."""
    with pytest.raises(PackageSizeError, match=r"slot m4-0/firmware: expected at most 57,344 bytes, found .* too many"):
        raise _failed_pack(operator, size=57_500, core="m4-0")
    assert not Path("app.img").exists()


def _failed_pack(operator: Operator, *, size: int, core: str) -> BaseException:
    Path("payload.bin").write_bytes(bytes(size))
    labels = ("--name", "runtime", "--version", "1.0.0", "--component-id", COMPONENT, "--out", "app.img")
    error = operator.run("image", "create", "payload.bin", *labels, "--core", core, expect=1).exception
    assert error is not None
    return error


def test_factory_images_are_published_once(operator: Operator) -> None:
    """Six images signed by the keys of their kinds; a second run finds them in force."""
    operator.run("factory", "images", "--json")
    keys, repository = operator.folders.keys, operator.repository()
    document = ReleaseDocument.model_validate_json(repository["releases/1-factory.json"])
    assert document.factory
    for slot, image in document.images.items():
        role = OfflineKey.ROM if slot in (Slot.BOOT_LOADER, Slot.SECURITY_MONITOR, Slot.OS) else OfflineKey.PACKAGE
        verified = verify_package(repository[image.target], [keys.load(role).public_key], kind=slot.kind)
        assert verified.digest == image.sha256
    assert json.loads(operator.run("factory", "images", "--json").stdout) == {"already": True}
    assert "already" in operator.run("factory", "images").stdout
    assert operator.service.releases == ["factory"]


def test_interrupted_factory_images_keep_what_was_signed(operator: Operator) -> None:
    """The service refused after the upload: the second run sends the same bytes."""
    operator.service.refuses = True
    operator.run("factory", "images", expect=1)
    uploaded = set(operator.service.artifacts)
    operator.service.refuses = False
    operator.run("factory", "images")
    assert set(operator.service.artifacts) >= uploaded


def test_damaged_working_copy_of_a_factory_image_is_signed_again(operator: Operator) -> None:
    """A file that is not ours is replaced before it is published."""
    operator.service.refuses = True
    operator.run("factory", "images", expect=1)
    for path in (operator.folders.operator / "repository" / "images").rglob("*.img"):
        path.write_bytes(b"damaged")
    operator.service.refuses = False
    operator.run("factory", "images")
    assert b"damaged" not in operator.repository().values()


def _device(devices: Path, *, name: str | None = None, common_name: bool = False) -> Path:
    identity = SoftwareSigner.generate()
    device_id = device_id_of(identity.public_key)
    subject = [x509.NameAttribute(x509.NameOID.COMMON_NAME, "device")] if common_name else []
    uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(device_uri(device_id))])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject)).add_extension(uri, critical=True)
    folder = devices / (name or device_id[:16])
    folder.mkdir(parents=True)
    (folder / "csr.pem").write_bytes(builder.sign(identity.private_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return folder


def test_factory_sign_gives_birth_certificate_keys_and_images(operator: Operator) -> None:
    """What docs/architecture.md names; a second run signs only new devices."""
    operator.run("factory", "images")
    folder = _device(Path("devices"))
    assert json.loads(operator.run("factory", "sign", "devices", "--json").stdout) == {"signed": 1, "signed_before": 0}
    certificates = operator.folders.operator / "certificates"
    verified = verify_idevid(
        (folder / "idevid.pem").read_bytes(),
        factory=load_certificate(certificates / "factory.pem"),
        root=load_certificate(certificates / "root.pem"),
        now=wall_clock() + timedelta(seconds=1),
    )
    assert verified.device_id.startswith(folder.name)
    assert set(json.loads((folder / "authorities.json").read_bytes())) == {"rom_key", "voucher_key"}
    assert {path.name for path in (folder / "factory").iterdir()} == {
        "boot-loader.img", "security-monitor.img", "os.img", "a7_application.img", "m4-0_firmware.img",
        "m4-1_firmware.img",
    }  # fmt: skip
    before = (folder / "idevid.pem").read_bytes()
    _device(Path("devices"))
    assert json.loads(operator.run("factory", "sign", "devices", "--json").stdout) == {"signed": 1, "signed_before": 1}
    assert (folder / "idevid.pem").read_bytes() == before


def test_factory_sign_refuses_all_for_one_bad_request(operator: Operator) -> None:
    """Every CSR is verified before anything is written."""
    operator.run("factory", "images")
    good, _ = _device(Path("devices")), _device(Path("devices"), common_name=True)
    operator.refused(CsrError, "expected no common name", "factory", "sign", "devices")
    assert [path.name for path in good.iterdir()] == ["csr.pem"]


def test_factory_sign_refuses_a_folder_of_another_name(operator: Operator) -> None:
    """A folder is named after its device."""
    operator.run("factory", "images")
    _device(Path("devices"), name="somebody")
    operator.refused(DeviceFolderError, "expected a folder named after", "factory", "sign", "devices")


def test_factory_sign_without_devices_or_images_is_refused(operator: Operator) -> None:
    """Each message says what to do first."""
    Path("devices").mkdir()
    operator.refused(DeviceFolderError, "expected folders of devices with a csr.pem", "factory", "sign", "devices")
    _device(Path("devices"))
    operator.refused(WorkingCopyError, "make it by `factory images`", "factory", "sign", "devices")


def test_factory_sign_refuses_a_damaged_image(operator: Operator) -> None:
    """The working copy must be what the signed metadata names."""
    operator.run("factory", "images")
    _device(Path("devices"))
    images = operator.folders.operator / "repository" / "images"
    damaged = min(images.rglob("*.img"))
    damaged.write_bytes(damaged.read_bytes() + b"x")
    operator.refused(WorkingCopyError, "expected the content that the metadata names", "factory", "sign", "devices")
    damaged.unlink()
    operator.refused(WorkingCopyError, "found no such file", "factory", "sign", "devices")


def test_operator_folder_without_a_ceremony_is_refused(operator: Operator) -> None:
    """The message names the file that is missing."""
    package = _pack(operator)
    for path in (operator.folders.operator / "repository").glob("*.root.json"):
        path.unlink()
    operator.refused(
        WorkingCopyError, r"expected a root.json in .* made by `tinyfleet init`", "release", "create", "m", package
    )
