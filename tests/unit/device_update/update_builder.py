"""A catalog that signs real update metadata, and the wire of the device API in one process.

Every key is real, every signature is made by the code that the service uses; a test changes exactly one thing.
"""

import base64
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from azuresphere_imagemetadata.image import Image
from azuresphere_imagemetadata.metadata_sections import MetadataSectionId
from tuf.api.metadata import Delegations, Metadata, MetaFile, TargetFile, Targets

from device_sim.cores.kernels import Inference, Strain
from device_sim.hardware.machine import Machine
from device_sim.hardware.power import PowerSupply
from device_sim.network.https import SUCCESS
from device_sim.network.ports import EndlessDataError, HttpResponse, NetworkError
from device_sim.update.client import UpdateClient
from device_sim.update.installer import Installer
from device_sim.update.progress import Progress
from device_sim.update.uptane import UptaneClient
from pki.metadata import (
    DirectorSigner,
    add_signature,
    content_target,
    director_root,
    director_target,
    image_root,
    listed_file,
    sign_snapshot,
    sign_targets,
    sign_timestamp,
)
from protocol.document import canonical_json, parse_document, sign_document
from protocol.geometry import Slot
from protocol.identity import parse_guid
from protocol.image import ImageInfo
from protocol.messages import ActionReport, ActionState, PollReply
from protocol.model import GOLDEN_PAYLOAD_TYPE, GoldenVector, GoldenVectors, Sha256Hex
from protocol.scenario import Scenario
from protocol.shadow import ShadowTask
from protocol.signing import SoftwareSigner
from protocol.updates import (
    DirectorDevice,
    ImageCustom,
    Order,
    ReleaseDocument,
    ReleaseImage,
    golden_target_name,
    image_target_name,
    release_target_name,
)
from protocol.voucher import VOUCHER_PAYLOAD_TYPE, Voucher, encode_public_keys
from tests.unit.device_hardware.device_builder import DeviceBuilder
from tests.voucher_roots import usual_roots

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ACTION = "22222222-2222-4222-8222-222222222222"
FRAME = np.full((8, 8, 3), 100, np.uint8)
PREFIX = "/device/v1"


@dataclass(frozen=True, slots=True)
class CatalogKeys:
    """The keys that the voucher leads to."""

    root: SoftwareSigner = field(default_factory=SoftwareSigner.generate)
    director: SoftwareSigner = field(default_factory=SoftwareSigner.generate)
    targets: SoftwareSigner = field(default_factory=SoftwareSigner.generate)
    snapshot: SoftwareSigner = field(default_factory=SoftwareSigner.generate)
    timestamp: SoftwareSigner = field(default_factory=SoftwareSigner.generate)
    golden: SoftwareSigner = field(default_factory=SoftwareSigner.generate)


class Catalog:
    """Both repositories and the artifacts, as the service would serve them to one device."""

    def __init__(self, device_id: str, *, expires: datetime = NOW + timedelta(days=1)) -> None:
        self.device_id = device_id
        self.keys = CatalogKeys()
        self.expires = expires
        self.artifacts: dict[str, bytes] = {}
        self.targets: dict[str, TargetFile] = {}
        self.director_targets: list[TargetFile] = []
        self.more_targets_keys: list[SoftwareSigner] = []
        self.delegations: Delegations | None = None
        self.roles: dict[str, bytes] = {}  # delegated ones, signed
        self.files: dict[str, bytes] = {}
        self.version = 0
        self.action_id = ACTION
        self.order = Order.INSTALL
        self.shadow: ShadowTask | None = None
        far = NOW + timedelta(days=365)
        self.director_root = director_root(self.keys.root, director=self.keys.director.public_key, expires=far)
        self.image_root = image_root(
            self.keys.root,
            targets=self.keys.targets.public_key,
            snapshot=self.keys.snapshot.public_key,
            timestamp=self.keys.timestamp.public_key,
            expires=far,
        )
        self.publish()

    def add(self, name: str, content: bytes, custom: Mapping[str, object] | None = None) -> str:
        """Take bytes in as a target of the Image repository; return their SHA-256."""
        digest = hashlib.sha256(content).hexdigest()
        self.artifacts[digest] = content
        self.targets[name] = content_target(name, content, custom)
        return digest

    @property
    def listed(self) -> dict[str, TargetFile]:
        """Every target, whichever role lists it."""
        delegated = (Metadata[Targets].from_bytes(content).signed.targets for content in self.roles.values())
        return {name: target for targets in (*delegated, self.targets) for name, target in targets.items()}

    def add_golden(
        self, component_id: str, *, key: SoftwareSigner | None = None, expected: float = 5.0, count: int = 1
    ) -> str:
        """Sign golden vectors of the colour model; return their target name."""
        values = np.array([5.0, -6.0, 7.0], np.float32)
        vector = GoldenVector.model_validate(
            {"name": "signs", "input": _base64(values), "expected": (expected, 6.0, 7.0), "tolerance": 0.01}
        )
        vectors = GoldenVectors(component_id=component_id, vectors=(vector,) * count)
        envelope = sign_document(vectors, GOLDEN_PAYLOAD_TYPE, key or self.keys.golden)
        name = golden_target_name(component_id, hashlib.sha256(envelope).hexdigest())
        self.add(name, envelope)
        return name

    def add_image(self, slot: Slot, package: bytes, *, golden: str | None = None, **changes: object) -> str:
        """Take a package in; `changes` replace fields of its custom metadata. Returns the target name."""
        info = info_of(package)
        custom = ImageCustom(
            slot_kind=slot.kind,
            hardware_ids=(slot.core.hardware_id,),
            component_id=info.component_id,
            image_id=info.image_id,
            name=info.name,
            security_counter=info.security_version,
            built_at=info.built_at,
            golden=golden,
        )
        name = image_target_name(slot, info.image_id)
        self.add(name, package, custom.model_copy(update=changes).model_dump(mode="json"))
        return name

    def add_release(
        self, images: Mapping[Slot, str], *, counter: int = 2, name: str = "models", **changes: object
    ) -> str:
        """Take a release document in; `changes` replace its other fields. Returns its target name."""
        listed = {slot: _release_image(self.listed[target]) for slot, target in images.items()}
        release = ReleaseDocument(name=name, counter=counter, images=listed).model_copy(update=changes)
        document = canonical_json(release)
        target = release_target_name(counter, name)
        self.add(target, document)
        return target

    def direct(self, images: Mapping[Slot, str], release: str) -> None:
        """Have the Director want images in slots."""
        self.director_targets = [
            director_target(self.listed[target], slot=slot, release=release) for slot, target in images.items()
        ]

    def publish(self, *, device_id: str | None = None, expires: datetime | None = None) -> None:
        """Sign the next version of all metadata."""
        self.version += 1
        moment, version = expires or self.expires, self.version
        device = DirectorDevice(
            device_id=device_id or self.device_id, action_id=self.action_id, order=self.order, shadow=self.shadow
        )
        director = DirectorSigner(self.keys.director).sign_set(
            device, self.director_targets, version=version, expires=moment
        )
        targets = sign_targets(
            list(self.targets.values()),
            self.keys.targets,
            version=version,
            expires=moment,
            delegations=self.delegations,
        )
        for signer in self.more_targets_keys:
            targets = add_signature(targets, signer)
        listed = {"targets": listed_file(targets, version=version), **self.listed_roles()}
        snapshot = sign_snapshot(listed, self.keys.snapshot, version=version, expires=moment)
        timestamp = sign_timestamp(
            snapshot, self.keys.timestamp, snapshot_version=version, version=version, expires=moment
        )
        self.files |= {
            "director/targets.json": director.targets,
            "director/snapshot.json": director.snapshot,
            "director/timestamp.json": director.timestamp,
            "image/targets.json": targets,
            "image/snapshot.json": snapshot,
            "image/timestamp.json": timestamp,
            **{f"image/{role}.json": content for role, content in self.roles.items()},
        }

    def listed_roles(self) -> dict[str, MetaFile]:
        """What the snapshot says of delegated roles."""
        versions = {role: Metadata[Targets].from_bytes(content).signed.version for role, content in self.roles.items()}
        return {role: listed_file(content, version=versions[role]) for role, content in self.roles.items()}

    def roll_out(self, images: Mapping[Slot, str], *, counter: int = 2, **changes: object) -> None:
        """Release images and have the Director want them; `changes` replace fields of the release document."""
        self.direct(images, self.add_release(images, counter=counter, name="models", **changes))
        self.publish()

    def voucher(self, packages: SoftwareSigner) -> Voucher:
        """What the device trusts."""
        return Voucher(
            device_id=self.device_id,
            catalog_id=str(uuid.uuid5(uuid.NAMESPACE_URL, "catalog")),
            catalog_name="tests",
            sequence=1,
            issued_at=NOW,
            tls_root=usual_roots().tls,
            director_root=self.director_root,
            image_root=self.image_root,
            package_keys=encode_public_keys([packages.public_key]),
            golden_keys=encode_public_keys([self.keys.golden.public_key]),
        )


Hook = Callable[[str, Mapping[str, str]], HttpResponse | NetworkError | None]


class Wire:
    """The device API in one process, an `HttpTransport`; `hook` may answer in its place or break the connection."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.hook: Hook = lambda _path, _headers: None
        self.reports: list[ActionReport] = []
        self.manifests: list[bytes] = []
        self.requests: list[str] = []

    def request(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        del method
        self.requests.append(path)
        answer = self.hook(path, headers or {})
        if isinstance(answer, NetworkError):
            raise answer
        response = answer or self._serve(path.removeprefix(PREFIX), headers or {}, body)
        if response.status in SUCCESS and len(response.body) > max_bytes:
            raise EndlessDataError(f"{path}: expected at most {max_bytes} bytes, found more")
        return response

    def close(self) -> None:
        """Nothing is open."""

    def serve_whole(self, path: str) -> HttpResponse:
        """Answer as a server that knows no ranges."""
        return self._serve(path.removeprefix(PREFIX), {}, None)

    @property
    def states(self) -> list[ActionState]:
        """The states that were reported, in order."""
        return [report.state for report in self.reports]

    def _serve(self, path: str, headers: Mapping[str, str], body: bytes | None) -> HttpResponse:
        if path == "/reports":
            self.reports.append(parse_document(body or b"", ActionReport))
            return HttpResponse(204, {}, b"")
        if path == "/manifest":
            self.manifests.append(body or b"")
            return HttpResponse(204, {}, b"")
        if path == "/poll":
            return HttpResponse(
                200, {}, canonical_json(PollReply(action_id=self.catalog.action_id, next_poll_seconds=5))
            )
        content = self.catalog.files.get(path.removeprefix("/uptane/"))
        if path.startswith("/artifacts/"):
            content = self.catalog.artifacts.get(path.removeprefix("/artifacts/"))
        return serve_range(content, headers)


def serve_range(content: bytes | None, headers: Mapping[str, str]) -> HttpResponse:
    """Answer as a file server that knows ranges."""
    if content is None:
        return HttpResponse(404, {}, json.dumps({"detail": "no such file"}).encode())
    if "Range" not in headers:
        return HttpResponse(200, {}, content)
    first, last = (int(number) for number in headers["Range"].removeprefix("bytes=").split("-"))
    part = content[first : last + 1]
    return HttpResponse(206, {"content-range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"}, part)


@dataclass
class Updated:
    """A claimed, booted device with factory images, its catalog and its update client."""

    builder: DeviceBuilder
    folder: Path
    machine: Machine
    catalog: Catalog
    wire: Wire
    client: UpdateClient
    progress: Progress

    def model(
        self, slot: Slot = Slot.M4_0_MODEL, *, version: str = "2.0.0", security: int = 1, content: bytes = b""
    ) -> bytes:
        """A package of the colour model for a slot, of which no other test knows."""
        return self.builder.packages.model(slot, version=version, security=security, content=content)

    def offer_model(
        self, slot: Slot = Slot.M4_0_MODEL, *, version: str = "2.0.0", counter: int = 2, content: bytes = b""
    ) -> bytes:
        """Roll a new model out to the device; return its package."""
        package = self.model(slot, version=version, content=content)
        golden = self.catalog.add_golden(info_of(package).component_id)
        target = self.catalog.add_image(slot, package, golden=golden)
        self.catalog.roll_out({slot: target}, counter=counter)
        return package

    def run(self) -> None:
        """Run the catalog's action to its end and send its reports."""
        for _ in self.client.run(self.catalog.action_id):
            pass
        self.progress.send(self.wire)

    def restart(self, *, power: PowerSupply | None = None, pool: Inference | None = None) -> None:
        """Lose everything volatile, as a kill -9 does."""
        self.machine.close()
        again = wake(self.builder, self.folder, self.catalog, self.wire, power=power, pool=pool)
        self.machine, self.client, self.progress = again.machine, again.client, again.progress

    def digests(self) -> dict[Slot, Sha256Hex]:
        """What is installed."""
        return {slot: image.digest for slot, image in self.machine.installed().items()}


def ready_device(
    tmp_path: Path,
    *,
    pool: Inference | None = None,
    scenario: Scenario | None = None,
    seed: bytes = b"device",
    strain: Strain | None = None,
) -> Updated:
    """A device that runs factory images and trusts a new catalog."""
    builder = DeviceBuilder(tmp_path)
    builder.strain = strain
    folder = builder.manufacture(seed=seed)
    device_id = json.loads((folder / "device.json").read_text())["device_id"]
    catalog = Catalog(device_id)
    voucher = catalog.voucher(builder.packages.keys.package)
    (folder / "voucher.json").write_bytes(sign_document(voucher, VOUCHER_PAYLOAD_TYPE, builder.packages.keys.voucher))
    machine = builder.open(folder)
    machine.flash_factory(builder.packages.factory_set())
    machine.close()
    return wake(builder, folder, catalog, Wire(catalog), pool=pool, scenario=scenario)


def wake(
    builder: DeviceBuilder,
    folder: Path,
    catalog: Catalog,
    wire: Wire,
    *,
    power: PowerSupply | None = None,
    pool: Inference | None = None,
    scenario: Scenario | None = None,
) -> Updated:
    """Open and boot a device and make its update client."""
    machine = builder.open(folder, power=power, pool=pool, scenario=scenario)
    machine.boot()
    assert machine.voucher is not None
    machine.learn_time(NOW)
    progress = Progress(machine, observe=lambda _report: None)
    installer = Installer(
        machine,
        progress,
        package_keys=[builder.packages.keys.package.public_key],
        look=lambda _core: FRAME,
        reach_service=lambda: None,
    )
    uptane = UptaneClient(machine.device_id, machine.voucher, machine.storage)
    client = UpdateClient(
        machine, uptane, installer, progress, transport=lambda: wire, retry_seconds=lambda _failures: 0.0
    )
    return Updated(builder, folder, machine, catalog, wire, client, progress)


def with_reach(device: Updated, reach: Callable[[], None]) -> UpdateClient:
    """The device's client with another way to the service for a new A7 application."""
    installer = Installer(
        device.machine,
        device.progress,
        package_keys=[device.builder.packages.keys.package.public_key],
        look=lambda _core: FRAME,
        reach_service=reach,
    )
    return replace(device.client, installer=installer)


def info_of(package: bytes) -> ImageInfo:
    """What a package says of itself; its signature is not looked at."""
    return _info_of(Image(package))


def _info_of(image: Image) -> ImageInfo:
    identity, revocation, debug = (
        image.metadata.sections_by_id(section)[0]
        for section in (MetadataSectionId.Identity, MetadataSectionId.Revocation, MetadataSectionId.Debug)
    )
    return ImageInfo(
        image_type=identity.image_type,
        component_id=parse_guid(identity.component_uid),
        image_id=parse_guid(identity.image_uid),
        name=debug.image_name,
        security_version=revocation.version,
        built_at=NOW,
    )


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _release_image(target: TargetFile) -> ReleaseImage:
    return ReleaseImage(target=target.path, sha256=target.hashes["sha256"], length=target.length)
