"""A simulated device with everything that a factory and an operator give it, and images for its slots."""

import hashlib
import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import flatbuffers  # type: ignore[import-untyped] # the package has no annotations
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

from device_sim.cores.kernels import Inference, Strain
from device_sim.hardware.machine import Machine
from device_sim.hardware.power import PowerSupply
from protocol.document import sign_document
from protocol.flash_geometry import FlashLayout
from protocol.geometry import SYSTEM_SLOTS, Core, ImageKind, Slot
from protocol.identity import parse_device_id
from protocol.image import IMAGE_TYPE, ImageInfo, compose
from protocol.model import InputContract, Measured, ModelCard, compose_model_payload
from protocol.scenario import Scenario
from protocol.signing import SoftwareSigner
from protocol.voucher import VOUCHER_PAYLOAD_TYPE, Voucher, encode_public_keys
from tests.voucher_roots import VoucherRoots, usual_roots
from tinyml.workers import InferenceResult, ModelImage

BUILT_AT = datetime(2026, 11, 1, tzinfo=UTC)
COLOURS = ("red", "green", "blue")
_ABS = 101
_CATALOG = "11111111-1111-4111-8111-111111111111"


class ManualClock:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return BUILT_AT

    def monotonic(self) -> float:
        return self.seconds


class ColourInference:
    """Answers as TFLM does for `colour_model`, without a process; a fake of the Inference port."""

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:  # noqa: A002
        del model, deadline_seconds
        return InferenceResult(np.abs(input), 0.001)


def colour_model() -> bytes:
    """The smallest useful model: the mean colour of a photo, by the operator ABS."""
    model = schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT()]
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = _ABS, _ABS, 1
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph = schema.SubGraphT()
    graph.tensors = [_pixel_tensor(), _pixel_tensor()]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    model.operatorCodes, model.subgraphs = [code], [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _pixel_tensor() -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer = [1, 1, 1, 3], schema.TensorType.FLOAT32, 0
    return tensor


@dataclass(frozen=True, slots=True)
class Keys:
    """Every key that a device checks."""

    rom: SoftwareSigner = field(default_factory=SoftwareSigner.generate)
    package: SoftwareSigner = field(default_factory=SoftwareSigner.generate)
    voucher: SoftwareSigner = field(default_factory=SoftwareSigner.generate)


@dataclass(frozen=True, slots=True)
class Packages:
    """Makes image packages, signed by the right key unless told otherwise."""

    keys: Keys = field(default_factory=Keys)

    def image(
        self,
        slot: Slot,
        *,
        version: str = "1.0.0",
        security: int = 1,
        size: int = 200,
        key: SoftwareSigner | None = None,
    ) -> bytes:
        """An image without meaning; `size` is of its payload, never two alike."""
        text = f"{slot} {version} ".encode()
        payload = (text * (size // len(text) + 1))[:size]
        return self._compose(slot, payload, f"{slot.kind.value}@{version}", security=security, key=key)

    def model(
        self,
        slot: Slot,
        *,
        version: str = "1.0.0",
        security: int = 1,
        arena: int = 4096,
        core: Core | None = None,
        content: bytes = b"",
        padding: int = 0,
    ) -> bytes:
        """A package of the colour model."""
        content = content or colour_model()
        card = ModelCard(
            name="colour",
            version=version,
            component_id=str(uuid.uuid5(uuid.NAMESPACE_URL, slot)),
            core=core or slot.core,
            input=InputContract(shape=(1, 1, 1, 3), dtype="float32"),
            labels=COLOURS,
            measured=Measured(model_bytes=len(content), arena_bytes=arena, macs=0),
        )
        payload = compose_model_payload(card, content) + bytes(padding)
        return self._compose(slot, payload, f"colour@{version}", security=security, key=None)

    def factory_set(self) -> dict[Slot, bytes]:
        """One image for every slot."""
        plain = {slot: self.image(slot) for slot in Slot if slot.kind != ImageKind.MODEL}
        return plain | {slot: self.model(slot) for slot in Slot if slot.kind == ImageKind.MODEL}

    def _compose(self, slot: Slot, payload: bytes, name: str, *, security: int, key: SoftwareSigner | None) -> bytes:
        info = ImageInfo(
            image_type=IMAGE_TYPE[slot.kind],
            component_id=str(uuid.uuid5(uuid.NAMESPACE_URL, slot)),
            image_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{slot} {name} {security} {len(payload)}")),
            name=name,
            security_version=security,
            built_at=BUILT_AT,
        )
        own = self.keys.rom if slot in SYSTEM_SLOTS else self.keys.package
        return compose(payload, info, key or own)


class DeviceBuilder:
    """Makes devices and takes them up again."""

    def __init__(self, folder: Path, *, layout: FlashLayout | None = None) -> None:
        self.folder = folder
        self.layout = layout or FlashLayout()
        self.packages = Packages()
        self.clock = ManualClock()
        self.strain: Strain | None = None  # of the devices that are opened

    def manufacture(self, *, seed: bytes | None = b"device") -> Path:
        """A device that the factory has signed, with blank flash."""
        folder = Machine.manufacture(self.folder, seed=seed, layout=self.layout)
        keys = self.packages.keys
        authorities = {"rom_key": _pem(keys.rom.public_key), "voucher_key": _pem(keys.voucher.public_key)}
        (folder / "authorities.json").write_text(json.dumps(authorities))
        return folder

    def claim(
        self,
        folder: Path,
        *,
        sequence: int = 1,
        key: SoftwareSigner | None = None,
        roots: VoucherRoots | None = None,
        package: SoftwareSigner | None = None,
        expires_at: datetime | None = None,
    ) -> bytes:
        """Give the device a voucher of one catalog, or of another by its roots and package key; returns it."""
        public = json.loads((folder / "device.json").read_text())
        roots = roots or usual_roots()
        voucher = Voucher(
            device_id=parse_device_id(public["device_id"]),
            catalog_id=_CATALOG,
            catalog_name="tests",
            sequence=sequence,
            issued_at=BUILT_AT,
            expires_at=expires_at,
            tls_root=roots.tls,
            director_root=roots.director,
            image_root=roots.image,
            package_keys=encode_public_keys([(package or self.packages.keys.package).public_key]),
            golden_keys=(),
        )
        envelope = sign_document(voucher, VOUCHER_PAYLOAD_TYPE, key or self.packages.keys.voucher)
        (folder / "voucher.json").write_bytes(envelope)
        return envelope

    def open(
        self,
        folder: Path,
        *,
        power: PowerSupply | None = None,
        pool: Inference | None = None,
        scenario: Scenario | None = None,
    ) -> Machine:
        return Machine.open(
            folder,
            clock=self.clock,
            pool=pool or ColourInference(),
            power=power,
            scenario=scenario,
            strain=self.strain,
        )

    def ready(self, *, pool: Inference | None = None, scenario: Scenario | None = None) -> Machine:
        """A claimed device with factory images, open but not booted."""
        folder = self.manufacture()
        self.claim(folder)
        machine = self.open(folder, pool=pool, scenario=scenario)
        machine.flash_factory(self.packages.factory_set())
        return machine


def _pem(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def install_trial(machine: Machine, slot: Slot, package: bytes) -> None:
    """Bring a package into the spare, resuming where a cut left it, and start its trial."""
    there = machine.spare_begin(slot, hashlib.sha256(package).hexdigest(), len(package))
    for start in range(there, len(package), 512):
        machine.spare_write(start, package[start : start + 512])
    machine.start_trial(slot)
