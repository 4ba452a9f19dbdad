"""`device-sim`: what it makes, what it refuses, and with which exit code."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from device_sim.cli import main
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.root_of_trust import RootOfTrust
from pki import profiles
from pki.authority import CertificateAuthority, self_signed_root
from pki.csr import verify_idevid_csr
from protocol.document import parse_document
from protocol.evidence import LifeCycle, bind_nonce, verify_evidence
from protocol.geometry import Slot
from protocol.messages import ClaimProof
from protocol.signing import SoftwareSigner
from tests.unit.device_hardware.device_builder import Packages
from tests.unit.device_update.update_builder import NOW

CHALLENGE = bytes(range(32))


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def device_sim(*arguments: object) -> Ended:
    """Run the command in this process: starting an interpreter for each would take seconds."""
    before, sys.argv = sys.argv, ["device-sim", *(str(argument) for argument in arguments)]
    code = 0
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv = before
    return Ended(code, stdout.getvalue(), stderr.getvalue())


def test_module_runs_as_a_command() -> None:
    """`python -m device_sim` is the same command."""
    command = [sys.executable, "-m", "device_sim", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "manufacture" in ended.stdout


def make(devices: Path, count: int = 2) -> list[Path]:
    made = device_sim("manufacture", "--out", devices, "--count", count, "--seed", "tests")
    assert made.code == 0, made.stderr
    return [Path(line) for line in made.stdout.splitlines()]


def sign_as_factory(folder: Path, packages: Packages) -> SoftwareSigner:
    """What `tinyfleet factory sign` leaves in a device's folder; returns a key that stands for the device's."""
    request = verify_idevid_csr((folder / "csr.pem").read_bytes())
    root = self_signed_root(profiles.root_ca("tests", now=NOW), SoftwareSigner.generate())
    issuer = SoftwareSigner.generate()
    factory = CertificateAuthority([root.issue(profiles.factory_ca("tests", now=NOW), issuer.public_key)], issuer)
    leaf = factory.issue(profiles.idevid(request.device_id, now=NOW), request.public_key)
    (folder / "idevid.pem").write_bytes(factory.chain_pem(leaf))
    keys = {"rom_key": packages.keys.rom, "voucher_key": packages.keys.voucher}
    pems = {
        name: key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        for name, key in keys.items()
    }
    (folder / "authorities.json").write_text(json.dumps(pems))
    (folder / "factory").mkdir()
    for slot, package in packages.factory_set().items():
        (folder / "factory" / f"{slot.value.replace('/', '_')}.img").write_bytes(package)
    return issuer


@pytest.fixture
def flashed(tmp_path: Path) -> list[Path]:
    """Two devices with everything a factory gives."""
    folders = make(tmp_path / "devices")
    packages = Packages()
    for folder in folders:
        sign_as_factory(folder, packages)
    result = device_sim("flash", tmp_path / "devices")
    assert result.code == 0, result.stderr
    return folders


def test_manufacture_again_leaves_seeded_devices_alone(tmp_path: Path) -> None:
    """An interrupted manufacture is finished by the same command."""
    first = make(tmp_path, count=1)
    key = (first[0] / "rot.json").read_bytes()
    assert make(tmp_path, count=3)[0] == first[0]
    assert (first[0] / "rot.json").read_bytes() == key
    assert (first[0] / "rot.json").stat().st_mode & 0o077 == 0


def test_device_proves_its_identity_over_a_challenge(flashed: list[Path]) -> None:
    """The proof holds the IDevID and evidence bound to challenge and identity key."""
    result = device_sim("prove", flashed[0].parent, "--challenge", CHALLENGE.hex())
    assert result.code == 0, result.stderr
    for folder in flashed:
        proof = parse_document((folder / "claim.json").read_bytes(), ClaimProof)
        identity = verify_idevid_csr((folder / "csr.pem").read_bytes()).public_key
        evidence = verify_evidence(proof.evidence, identity)
        assert evidence.nonce == bind_nonce(CHALLENGE, identity)
        assert proof.device_id == json.loads((folder / "device.json").read_text())["device_id"]
        assert proof.idevid_chain == (folder / "idevid.pem").read_text()


def test_tampered_device_does_not_prove_and_the_others_do(flashed: list[Path]) -> None:
    """The one that does not boot is named; exit 1."""
    tampered, good = flashed
    assert device_sim("flash", tampered, "--slot", "os", "--tamper").code == 0
    result = device_sim("prove", tampered.parent, "--challenge", CHALLENGE.hex())
    assert result.code == 1
    assert f"{tampered.name}: os: expected" in result.stderr
    assert (good / "claim.json").exists()
    assert not (tampered / "claim.json").exists()


def test_single_package_is_flashed_into_its_slot(flashed: list[Path], tmp_path: Path) -> None:
    """`--slot --package` writes one image, whatever it is."""
    package = tmp_path / "os.img"
    package.write_bytes(Packages().image(Slot.OS))
    assert device_sim("flash", flashed[0], "--slot", "os", "--package", package).code == 0
    assert (flashed[0] / "system" / "os.img").read_bytes() == package.read_bytes()


def shown_life_cycle(folder: Path) -> int:
    assert device_sim("prove", folder, "--challenge", CHALLENGE.hex()).code == 0
    proof = parse_document((folder / "claim.json").read_bytes(), ClaimProof)
    return verify_evidence(proof.evidence, verify_idevid_csr((folder / "csr.pem").read_bytes()).public_key).lifecycle


def test_capability_and_decommission_show_in_the_evidence(flashed: list[Path]) -> None:
    """A device under development says so until the capability is taken away; one out of service says so for good."""
    opened, other = flashed
    assert device_sim("capability", opened, "--app-development").stdout == "given to 1 devices\n"
    assert (shown_life_cycle(opened), shown_life_cycle(other)) == (LifeCycle.NON_PSA_DEBUG, LifeCycle.SECURED)
    assert device_sim("capability", opened, "--no-app-development").stdout == "taken from 1 devices\n"
    assert shown_life_cycle(opened) == LifeCycle.SECURED
    assert device_sim("decommission", opened).stdout == "decommissioned 1 devices\n"
    assert device_sim("capability", opened, "--app-development").code == 0
    assert shown_life_cycle(opened) == LifeCycle.DECOMMISSIONED


def test_device_is_made_with_the_development_capability(tmp_path: Path) -> None:
    """`manufacture --debug` makes devices for a workbench."""
    made = device_sim("manufacture", "--out", tmp_path, "--debug")
    root_of_trust = RootOfTrust.open(Path(made.stdout.strip()) / "rot.json", power=PowerSupply())
    assert root_of_trust.lifecycle is LifeCycle.NON_PSA_DEBUG


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["capability", "{devices}"], "Missing option '--app-development'"),
        (["flash", "{devices}", "--slot", "os"], "--slot goes with either --package or --tamper"),
        (["flash", "{devices}", "--tamper"], "--slot goes with either --package or --tamper"),
        (["flash", "{devices}", "--slot", "m5/model", "--tamper"], "is not one of"),
        (["prove", "{devices}", "--challenge", "xyz"], "expected hex digits"),
        (["manufacture", "--out", "{devices}", "--count", "0"], "Invalid value for '--count'"),
        (["fly"], "No such command"),
    ],
)
def test_wrong_usage_is_exit_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    """The command line says what it wants, and nothing is done."""
    result = device_sim(*(argument.format(devices=tmp_path) for argument in arguments))
    assert (result.code, message in " ".join(result.stderr.split())) == (2, True), result.stderr
    assert not list(tmp_path.iterdir())


SERVICE = {"device_url": "https://127.0.0.1:1", "mqtt_host": "127.0.0.1", "mqtt_port": 1, "pid": 1}


@pytest.mark.parametrize(
    ("service", "scenario", "message"),
    [
        (None, "", "service.json: expected the file of a running service, found No such file"),
        ("{", "", "service.json: document: Invalid JSON"),
        (json.dumps({**SERVICE, "mqtt_port": 0}), "", "service.json: mqtt_port: Input should be greater"),
        (
            json.dumps({**SERVICE, "device_url": "http://x"}),
            "",
            "service.json: device_url: Value error, expected",
        ),
        (json.dumps(SERVICE), "seeds: 1", "scenario.yaml: Scenario: seeds: Extra inputs are not permitted"),
        (json.dumps(SERVICE), "kernel_faults: [{model: m@1, kind: melt}]", "kernel_faults.0.kind: Input should be"),
        (json.dumps(SERVICE), "seed: [", "scenario.yaml: expected YAML"),
        (json.dumps(SERVICE), "- 1", "scenario.yaml: expected keys, found list"),
    ],
)
def test_run_with_a_bad_file_starts_nothing(tmp_path: Path, service: str | None, scenario: str, message: str) -> None:
    """A wrong file is named with what is wrong in it; exit 1, no event."""
    make(tmp_path / "devices", count=1)
    if service is not None:
        (tmp_path / "service.json").write_text(service)
    (tmp_path / "scenario.yaml").write_text(scenario)
    files = ["--service-file", tmp_path / "service.json", "--scenario", tmp_path / "scenario.yaml"]
    result = device_sim("run", tmp_path / "devices", *files)
    assert (result.code, result.stdout) == (1, "")
    assert message in result.stderr


def test_folder_without_devices_is_refused(tmp_path: Path) -> None:
    """A mistyped path is not an empty fleet."""
    result = device_sim("flash", tmp_path)
    assert (result.code, "expected a device's folder" in result.stderr) == (1, True)


def test_recover_brings_a_tampered_device_back(flashed: list[Path]) -> None:
    """It proves its identity again."""
    assert device_sim("flash", flashed[0], "--slot", Slot.OS, "--tamper").code == 0
    assert device_sim("prove", flashed[0], "--challenge", CHALLENGE.hex()).code == 1
    recovered = device_sim("recover", flashed[0].parent)
    assert (recovered.code, recovered.stdout) == (0, "recovered 2 devices\n")
    assert device_sim("prove", flashed[0], "--challenge", CHALLENGE.hex()).code == 0


def test_recover_without_factory_images_says_so(tmp_path: Path) -> None:
    """A device that no factory has signed has nothing to go back to."""
    folder = make(tmp_path, count=1)[0]
    refused = device_sim("recover", folder)
    assert refused.code == 1
    assert "expected packages in factory/, found none" in refused.stderr


def test_show_says_which_flash_a_device_has_and_how_worn_it_is(flashed: list[Path]) -> None:
    """One line for each; a factory's flashing wears each sector once at most, the journal's apart."""
    shown = device_sim("show", flashed[0].parent)
    assert shown.code == 0
    first, _ = shown.stdout.splitlines()
    assert f"{flashed[0].name}: 1024 KiB in sectors of 4096 bytes, a spare of 336 KiB; erases: " in first
    assert first.endswith(" of 100000")


def test_geometry_that_no_chip_could_be_stops_before_the_device_starts(flashed: list[Path]) -> None:
    """The message says the file, the field and why."""
    (flashed[0] / "geometry.json").write_text('{"sector_bytes": 1000}')
    refused = device_sim("show", flashed[0])
    assert refused.code == 1
    assert "geometry.json: expected the geometry of a flash" in refused.stderr
    assert "divide each other" in refused.stderr


def test_manufacture_with_a_geometry_keeps_it(tmp_path: Path) -> None:
    """Two places for the application, in a flash of 2 MiB."""
    document = {"size_bytes": 2 * 1024 * 1024, "two_places": ["a7/application"]}
    (tmp_path / "geometry.json").write_text(json.dumps(document))
    made = device_sim("manufacture", "--out", tmp_path, "--geometry", tmp_path / "geometry.json")
    assert made.code == 0, made.stderr
    assert (Path(made.stdout.strip()) / "flash.bin").stat().st_size == 2 * 1024 * 1024
    shown = device_sim("show", made.stdout.strip())
    assert "2048 KiB in sectors of 4096 bytes, two places for a7/application, a spare of 336 KiB;" in shown.stdout


def test_manufacture_with_an_impossible_geometry_makes_nothing(tmp_path: Path) -> None:
    """The message says which file and why."""
    (tmp_path / "geometry.json").write_text('{"two_places": ["a7/application"]}')
    made = device_sim("manufacture", "--out", tmp_path / "devices", "--geometry", tmp_path / "geometry.json")
    assert made.code == 1
    assert "expected slots, spare and 4 sectors of trailers in 1048576 bytes, found 1163264" in made.stderr
    assert not (tmp_path / "devices").exists()
