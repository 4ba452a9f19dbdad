"""`tinyfleet image`: every kind made, signed anew, explained and verified; and what is refused without a trace."""

import json
import shutil
import struct
from pathlib import Path

import pytest
from azuresphere_imagemetadata.image import Image
from hypothesis import given
from hypothesis import strategies as st

from pki.public_keys import encode_public_key
from protocol.board import parse_board
from protocol.errors import ProtocolError
from protocol.geometry import SYSTEM_SLOTS, Core, ImageKind, Slot
from protocol.image import (
    IMAGE_TYPE,
    DevelopmentKeyError,
    ImageInfo,
    Interface,
    PackageError,
    PackageSignatureError,
    Runtime,
    TemporaryImageError,
    compose,
    read_info,
    resign,
    verify_package,
)
from protocol.image_layout import Section, SectionId, read_layout, signed_part
from protocol.model import InputContract, Measured, ModelCard, compose_model_payload
from protocol.signing import SoftwareSigner
from protocol.trust_store import TrustRole, parse_trust_store
from service.cli.app_manifests import ManifestError
from service.cli.errors import BadArgumentError, CliError
from service.cli.image_sections import explain_package
from service.cli.offered import NoSlotError, Note, PackageFileError, note_path
from tests.unit.cli.offline_service import Operator, wall_clock

COMPONENT = "b7a1f569-9587-43f0-ac75-7edf5b558dec"
IMAGE = "11a11404-de20-41c1-b66e-32354cb78e49"
LABELS = ("--name", "telemetry-app", "--version", "1.1.0", "--component-id", COMPONENT)
BOARD = "model: acme-eye\nhardware_revision: B2\ncores: {m4-0: {adc0: [41, 42]}, a7: {uart0: [26, 27]}}\n"


def _payload(content: bytes = b"what it runs") -> Path:
    path = Path("payload.bin")
    path.write_bytes(content)
    return path


def _create(operator: Operator, *options: object, payload: Path | None = None, out: str = "app.img") -> Path:
    operator.run("image", "create", payload or _payload(), *LABELS, *options, "--out", out)
    return Path(out)


def _note(path: Path) -> Note:
    return Note.model_validate_json(note_path(path).read_bytes())


def _show(operator: Operator, path: Path, *, expect: int = 0) -> dict[str, str]:
    """What each part says."""
    shown = json.loads(operator.run("image", "show", path, "--json", expect=expect).stdout)
    return {part["name"]: part["says"] for part in shown["parts"]} | {"verified": shown["verified_by"]}


@pytest.mark.parametrize(
    ("kind", "core", "slot"),
    [
        (ImageKind.BOOT_LOADER, Core.A7, Slot.BOOT_LOADER),
        (ImageKind.SECURITY_MONITOR, Core.A7, Slot.SECURITY_MONITOR),
        (ImageKind.OS, Core.A7, Slot.OS),
        (ImageKind.APPLICATION, Core.A7, Slot.A7_APPLICATION),
        (ImageKind.FIRMWARE, Core.M4_1, Slot.M4_1_FIRMWARE),
    ],
)
def test_image_of_each_kind_is_made_for_its_slot(operator: Operator, kind: ImageKind, core: Core, slot: Slot) -> None:
    """Signed by the key of its kind, with a note that says where it belongs."""
    path = _create(operator, "--kind", kind, "--core", core)
    assert _note(path).slot is slot
    role = "rom" if slot in SYSTEM_SLOTS else "package"
    image = verify_package(path.read_bytes(), [operator.folders.keys.load(role).public_key], kind=kind)
    assert (image.info.name, image.info.component_id) == ("telemetry-app@1.1.0", COMPONENT)
    verified = json.loads(operator.run("image", "verify", path, "--kind", kind, "--json").stdout)
    assert verified["sha256"] == image.digest
    assert verified["verified_by"].startswith(f"{role} key of ")


@pytest.mark.parametrize(("core", "kind"), [("a7", ImageKind.APPLICATION), ("m4-0", ImageKind.FIRMWARE)])
def test_kind_is_what_the_core_runs(operator: Operator, core: str, kind: ImageKind) -> None:
    """Where nobody says another."""
    slot = _note(_create(operator, "--core", core)).slot
    assert slot is not None
    assert slot.kind is kind


def test_every_section_is_made_and_explained(operator: Operator) -> None:
    """Interfaces, requirements, and what each part means on the device."""
    interfaces = ("--depends", "os@3", "--depends", "secure-world@1", "--provides", "application@7")
    path = _create(operator, *interfaces, "--requires", "m4-0-runtime=>=2,<3", "--security-version", "4")
    info = read_info(path.read_bytes())
    assert info.depends == (Interface(Runtime.OS, 3), Interface(Runtime.SECURE_WORLD, 1))
    assert (info.provides, info.security_version) == ((Interface(Runtime.APPLICATION, 7),), 4)
    assert _note(path).requires == {"m4-0-runtime": ">=2,<3"}
    says = _show(operator, path)
    assert set(says) == {
        "payload", "identity", "revocation", "depends on", "provides", "debug", "signature section", "signature",
        "verified",
    }  # fmt: skip
    assert says["depends on"] == "os interface 3, secure world interface 1"
    assert COMPONENT in says["identity"]
    assert says["debug"].startswith("'telemetry-app@1.1.0', built 20")
    text = operator.run("image", "show", path).stdout
    assert "fuse" in text
    assert "package key of" in text


def test_temporary_image_is_made_but_not_released(operator: Operator) -> None:
    """It is for devices in development."""
    path = _create(operator, "--temporary", "remove-at-boot", "--temporary", "under-development")
    assert _show(operator, path)["temporary image"] == "remove at boot, under development"
    operator.refused(TemporaryImageError, "expected an image that stays", "release", "create", "t", path, "--yes")
    operator.refused(TemporaryImageError, "expected an image that stays", "image", "verify", path)
    operator.run("image", "verify", path, "--allow-development")


def test_trust_store_is_made_from_a_list_of_keys(operator: Operator) -> None:
    """Signed by the maker's key; it has no slot, so no release takes it."""
    keys = [SoftwareSigner.generate().public_key for _ in range(2)]
    for number, key in enumerate(keys):
        Path(f"{number}.pem").write_bytes(encode_public_key(key))
    listed = Path("keys.yaml")
    listed.write_text("keys: [{role: package, file: 0.pem}, {role: golden, file: 1.pem}]")
    path = _create(operator, "--kind", "trust-store", payload=listed)
    image = verify_package(
        path.read_bytes(), [operator.folders.keys.load("rom").public_key], kind=ImageKind.TRUST_STORE
    )
    trusted = parse_trust_store(image.payload)
    assert [(key.role, key.public_key) for key in trusted] == [
        (TrustRole.PACKAGE, keys[0]),
        (TrustRole.GOLDEN, keys[1]),
    ]
    assert "2 trusted keys: package " in _show(operator, path)["payload"]
    operator.run("image", "verify", path)
    operator.refused(NoSlotError, "found a trust-store: it can be made", "release", "create", "t", path, "--yes")


def test_board_configuration_is_made_from_yaml(operator: Operator) -> None:
    """It has no slot either."""
    source = Path("board.yaml")
    source.write_text(BOARD)
    path = _create(operator, "--kind", "board-configuration", payload=source)
    assert parse_board(read_layout(path.read_bytes()).payload).cores[Core.M4_0] == {"adc0": (41, 42)}
    assert "board acme-eye, revision B2: a7: uart0; m4-0: adc0" in _show(operator, path)["payload"]
    operator.run("image", "verify", path, "--kind", "board-configuration")
    message = "expected an image with a slot on the device, found a board-configuration"
    operator.refused(NoSlotError, message, "release", "create", "b", path, "--yes")


@pytest.mark.parametrize(
    ("kind", "content", "error"),
    [
        ("trust-store", b"keys: []", ProtocolError),
        ("trust-store", b"keys: [{role: king, file: 0.pem}]", ProtocolError),
        ("trust-store", b"keys: [{role: root, file: missing.pem}]", Exception),
        ("trust-store", b"{unclosed", PackageFileError),
        ("board-configuration", b"\x00\x01", PackageFileError),
        ("board-configuration", BOARD.encode().replace(b"uart0", b"adc0"), ProtocolError),
    ],
)
def test_source_of_another_form_is_refused(
    operator: Operator, kind: str, content: bytes, error: type[Exception]
) -> None:
    """Nothing is written."""
    words = ("image", "create", _payload(content), *LABELS, "--kind", kind, "--out", "app.img")
    operator.refused(error, "expected|match|found", *words)
    assert not Path("app.img").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kind", "model"), "which `model pack` measures and makes"),
        (("--kind", "firmware"), "core: expected one with a slot for a firmware, found a7"),
        (("--kind", "application", "--core", "m4-0"), "core: expected one with a slot for a application, found m4-0"),
        (("--depends", "kernel@3"), "interface: expected secure-world, os or application and @version"),
        (("--requires", "telemetry-app"), "requires: expected NAME=VERSIONS"),
        (("--requires", "telemetry-app=newest"), "requires: expected NAME=VERSIONS"),
        (("--requires", "a=>=1", "--requires", "a=>=2"), "requires: expected each name once"),
    ],
)
def test_words_without_a_meaning_are_refused(operator: Operator, options: tuple[str, ...], message: str) -> None:
    """Exit code 2, nothing written."""
    words = ("image", "create", _payload(), *LABELS, *options, "--out", "app.img")
    failed = operator.run(*words, expect=1).exception
    with pytest.raises(BadArgumentError, match=message):
        raise failed or AssertionError
    assert not Path("app.img").exists()


MANIFEST = {
    "SchemaVersion": 1,
    "Name": "telemetry-app",
    "ComponentId": COMPONENT.upper(),
    "EntryPoint": "/bin/app",
    "CmdArgs": [],
    "Capabilities": {
        "AllowedApplicationConnections": [IMAGE.upper()],
        "Gpio": ["$LED"],
        "MutableStorage": {"SizeKB": 8},
    },
    "ApplicationType": "Default",
}


def _manifest(**changes: object) -> Path:
    path = Path("app_manifest.json")
    path.write_text(json.dumps(MANIFEST | changes))
    return path


def test_manifest_gives_name_and_component(operator: Operator) -> None:
    """As Azure Sphere's own tools take them."""
    words = ("--manifest", _manifest(), "--version", "2.0.0", "--out", "app.img")
    operator.run("image", "create", _payload(), *words)
    info = read_info(Path("app.img").read_bytes())
    assert (info.name, info.component_id) == ("telemetry-app@2.0.0", COMPONENT)


def test_manifest_of_a_real_time_application_is_for_an_m4(operator: Operator) -> None:
    """Its entry point is a name: an M4 has no files."""
    manifest = _manifest(ApplicationType="RealTimeCapable", EntryPoint="main")
    _create(operator, "--manifest", manifest, "--core", "m4-0")


@pytest.mark.parametrize(
    ("changes", "options", "error", "message"),
    [
        ({"Name": "other"}, (), BadArgumentError, "name: expected other as the manifest says, found telemetry-app"),
        ({"ComponentId": IMAGE}, (), BadArgumentError, f"component id: expected {IMAGE} as the manifest says"),
        ({"ComponentId": "app"}, (), ProtocolError, "ComponentId"),
        ({"SchemaVersion": 2}, (), ProtocolError, "SchemaVersion"),
        ({"EntryPoint": "bin/app"}, (), ManifestError, "EntryPoint: expected a path such as /bin/app"),
        ({"EntryPoint": "/../app"}, (), ManifestError, "EntryPoint: expected a path such as /bin/app"),
        ({"ApplicationType": "RealTimeCapable"}, (), ManifestError, "expected Default for a application"),
        ({}, ("--core", "m4-0"), ManifestError, "expected RealTimeCapable for a firmware, found Default"),
        ({}, ("--kind", "os"), ManifestError, "expected an application or a firmware beside it, found a os"),
        ({"Capabilities": {"MutableStorage": {"SizeKB": 65}}}, (), ProtocolError, "MutableStorage.SizeKB"),
        (
            {"Capabilities": {"AllowedApplicationConnections": ["x"]}},
            (),
            ProtocolError,
            "AllowedApplicationConnections",
        ),
        ({"Surprise": 1}, (), ProtocolError, "Surprise"),
    ],
)
def test_manifest_that_says_otherwise_is_refused(
    operator: Operator, changes: dict[str, object], options: tuple[str, ...], error: type[Exception], message: str
) -> None:
    """Before anything is signed."""
    words = ("image", "create", _payload(), *LABELS, "--manifest", _manifest(**changes), *options, "--out", "app.img")
    operator.refused(error, message, *words)
    assert not Path("app.img").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--component-id", COMPONENT), "name: expected it as an option or in a manifest, found neither"),
        (("--name", "app"), "component id: expected it as an option or in a manifest, found neither"),
        (("--name", "an app", "--component-id", COMPONENT), "name: expected letters, digits"),
    ],
)
def test_image_without_name_or_component_is_refused(operator: Operator, words: tuple[str, ...], message: str) -> None:
    """They come from the options or from a manifest."""
    operator.refused(BadArgumentError, message, "image", "create", _payload(), "--version", "1.0.0", *words)


def test_development_image_is_signed_anew_by_our_key(operator: Operator) -> None:
    """A developer's package becomes one that can be released: same payload, same metadata, our signature."""
    path = _create(operator)
    foreign = Path("dev.img")
    foreign.write_bytes(Image(path.read_bytes()).serialize())
    assert _show(operator, foreign)["verified"].startswith("Azure Sphere's public development key")
    operator.refused(DevelopmentKeyError, "AppDevelopment capability", "image", "verify", foreign)
    operator.run("image", "verify", foreign, "--allow-development")
    signed = json.loads(operator.run("image", "sign", foreign, "--core", "a7", "--json").stdout)
    assert signed["signed_before"].endswith("verified")
    assert signed["signed_before"].startswith("Azure Sphere's public development key")
    again = Path("dev-signed.img")
    assert read_info(again.read_bytes()) == read_info(foreign.read_bytes())
    assert read_layout(again.read_bytes()).payload == read_layout(foreign.read_bytes()).payload
    operator.run("release", "create", "signed", again, "--yes")


def test_image_of_an_unknown_key_is_signed_anew_with_a_word(operator: Operator) -> None:
    """Nobody here can say whose it was; with its public key we can."""
    theirs = SoftwareSigner.generate()
    foreign = Path("foreign.img")
    foreign.write_bytes(resign(_create(operator).read_bytes(), theirs))
    assert _show(operator, foreign)["verified"] is None
    assert "no: not by one of the 3 keys" in operator.run("image", "show", foreign).stdout
    signed = json.loads(operator.run("image", "sign", foreign, "--out", "ours.img", "--json").stdout)
    assert "not verified" in signed["signed_before"]
    assert "cannot be released" in signed["slot"]
    assert not note_path(Path("ours.img")).exists()
    Path("theirs.pem").write_bytes(encode_public_key(theirs.public_key))
    named = operator.run("image", "sign", foreign, "--key", "theirs.pem", "--out", "ours.img", "--json")
    assert "theirs.pem" in json.loads(named.stdout)["signed_before"]
    operator.run("image", "verify", foreign, "--key", "theirs.pem")


def test_changed_package_is_not_signed_anew(operator: Operator) -> None:
    """It names our key, which did not sign it: what somebody has changed does not get our signature."""
    path = _create(operator)
    path.write_bytes(b"W" + path.read_bytes()[1:])
    operator.refused(PackageSignatureError, "which it names, found none", "image", "sign", path, "--out", "again.img")
    assert not Path("again.img").exists()


def test_note_goes_along_when_a_model_is_signed_anew(operator: Operator) -> None:
    """Slot, golden vectors and requirements stay; the note is of the new package."""
    path = _model(operator)
    note = _note(path).model_copy(update={"golden": "golden.json", "requires": {"app": ">=2"}})
    note_path(path).write_text(note.model_dump_json())
    operator.run("image", "sign", path, "--out", "sub/again.img")
    again = _note(Path("sub/again.img"))
    assert (again.golden, again.requires, again.slot) == ("../golden.json", {"app": ">=2"}, Slot.M4_0_MODEL)
    operator.run("image", "sign", path, "--requires", "app=>=3", "--out", "third.img")
    assert _note(Path("third.img")).requires == {"app": ">=3"}
    assert again.sha256 != note.sha256


def test_requirements_of_a_card_go_along_without_a_note(operator: Operator) -> None:
    """The card is in the package, and signed with it."""
    path = _model(operator)
    note_path(path).unlink()
    operator.run("image", "sign", path, "--core", "m4-0", "--out", "again.img")
    assert _note(Path("again.img")).requires == {"m4-0-runtime": ">=1"}


def test_trust_store_is_signed_anew_by_the_makers_key(operator: Operator) -> None:
    """Its note still says that it has no slot."""
    Path("0.pem").write_bytes(encode_public_key(SoftwareSigner.generate().public_key))
    path = _create(operator, "--kind", "trust-store", payload=_payload(b"keys: [{role: root, file: 0.pem}]"))
    signed = json.loads(operator.run("image", "sign", path, "--out", "again.img", "--json").stdout)
    assert signed["signed_by"].startswith("rom key")
    assert _note(Path("again.img")).kind is ImageKind.TRUST_STORE


def test_image_of_a_type_that_the_fleet_does_not_know_is_not_signed(operator: Operator) -> None:
    """Azure Sphere has more types than we have keys for."""
    image = Image(_create(operator).read_bytes())
    image.metadata.identity.image_type = 8
    path = Path("rootfs.img")
    path.write_bytes(image.serialize())
    operator.refused(BadArgumentError, "image type: expected one of the fleet, found 8", "image", "sign", path)
    assert "of no kind here" in _show(operator, path)["identity"]


def _model(operator: Operator) -> Path:
    card = ModelCard(
        name="person",
        version="1.0.0",
        component_id=COMPONENT,
        core=Core.M4_0,
        input=InputContract(shape=(1,), dtype="int8"),
        labels=("a", "b"),
        measured=Measured(model_bytes=64, arena_bytes=16, macs=1),
        requires={"m4-0-runtime": ">=1"},
    )
    info = ImageInfo(
        IMAGE_TYPE[ImageKind.MODEL], COMPONENT, IMAGE, "person@1.0.0", 1, wall_clock().replace(microsecond=0)
    )
    package = compose(compose_model_payload(card, bytes(64)), info, operator.folders.keys.load("package"))
    path = Path("model.img")
    path.write_bytes(package)
    signed = operator.run("image", "sign", path, "--core", "m4-0", "--out", "model.img")
    assert signed.exit_code == 0
    return path


def test_model_package_is_shown_with_its_card(operator: Operator) -> None:
    """Also by its own command; a card from before outputs were described is explained as it is."""
    path = _model(operator)
    assert "model person@1.0.0 for m4-0: 64 bytes" in _show(operator, path)["payload"]
    operator.run("image", "verify", path)
    text = " ".join(operator.run_without_folder("model", "show", path).stdout.split())
    assert "from before outputs were described" in text
    assert json.loads(operator.run_without_folder("model", "show", path, "--json").stdout)["name"] == "person"


def test_package_whose_payload_is_not_of_its_kind_is_not_verified(operator: Operator) -> None:
    """Signed by the right key, but no model."""
    info = ImageInfo(IMAGE_TYPE[ImageKind.MODEL], COMPONENT, IMAGE, "person@1.0.0", 1, wall_clock())
    path = Path("model.img")
    path.write_bytes(compose(b"no model at all, but long enough", info, operator.folders.keys.load("package")))
    operator.refused(ProtocolError, "model payload: expected", "image", "verify", path)


def test_system_image_by_the_package_key_is_not_verified(operator: Operator) -> None:
    """A key counts for the kinds that it may sign."""
    info = ImageInfo(IMAGE_TYPE[ImageKind.OS], COMPONENT, IMAGE, "os@1.0.0", 1, wall_clock())
    path = Path("os.img")
    path.write_bytes(compose(b"an OS", info, operator.folders.keys.load("package")))
    operator.refused(PackageSignatureError, "by one of 1 trusted keys, found none", "image", "verify", path)


def test_truncated_package_is_explained_up_to_where_it_breaks(operator: Operator) -> None:
    """At every length: never another error, and no part that is not there."""
    whole = _create(operator, "--depends", "os@3").read_bytes()
    names = [part.name for part in explain_package(whole).parts]
    for length in range(len(whole)):
        explanation = explain_package(whole[:length])
        assert explanation.broken
        assert [part.name for part in explanation.parts] == names[: len(explanation.parts)]
    metadata = len(read_layout(whole).payload)
    broken = explain_package(whole[: metadata + 60]).broken
    assert broken.startswith(f"byte {metadata + 56}, section 3 of 5")
    assert "the file is cut off" in explain_package(whole[:-66]).broken
    assert "cut off inside the payload" in explain_package(whole[:5]).broken
    path = Path("cut.img")
    path.write_bytes(whole[:-70])
    assert "identity" in _show(operator, path, expect=1)


def test_compressed_package_is_shown_as_one_that_no_device_takes(operator: Operator) -> None:
    """With its size when unpacked."""
    whole = read_layout(_create(operator).read_bytes())
    sections = (*whole.sections, Section(SectionId.COMPRESSION, struct.pack("<II", 5000, 1)))
    compressed = signed_part(whole.payload, sections) + bytes(64)
    parts = {part.name: part for part in explain_package(compressed).parts}
    assert parts["compression"].says == "5,000 bytes when unpacked, LZMA"
    assert "each refuses it" in parts["compression"].means


@given(st.binary(max_size=300))
def test_any_bytes_are_explained_or_said_to_be_broken(content: bytes) -> None:
    """Nothing is trusted there, not even a length."""
    header = struct.pack("<II", 0x4D345834, 0xFFFFFFFF)
    for package in (content, content + b"\x20\0\0\0" + bytes(64), header + content, content + header):
        assert explain_package(package).broken


def test_flipped_package_is_explained_or_said_to_be_broken(operator: Operator) -> None:
    """Every bit of the metadata in turn."""
    package = _create(operator, "--depends", "os@3", "--temporary", "remove-at-boot").read_bytes()
    for bit in range(12 * 8, len(package) * 8):
        flipped = bytearray(package)
        flipped[bit // 8] ^= 1 << (bit % 8)
        explanation = explain_package(bytes(flipped))
        assert explanation.broken or explanation.parts[0].name == "payload"


def test_missing_or_foreign_files_are_refused_by_name(operator: Operator) -> None:
    """A file that is not there, and one that is no package."""
    operator.refused(PackageFileError, "none.img: expected a readable file", "image", "show", "none.img")
    operator.refused(CliError, "cut off inside the payload, or no image package", "image", "show", _payload())
    operator.refused(PackageError, "image package: expected 76 to", "image", "verify", _payload())
    operator.refused(PackageError, "image package: expected 76 to", "image", "sign", _payload())


def test_package_is_shown_without_an_operators_folder(operator: Operator) -> None:
    """Anybody may look; the keys of the catalog are not known then."""
    path = _create(operator)
    shutil.rmtree(operator.folders.operator)
    assert _show(operator, path)["verified"] is None
