"""The Director's set is, byte for byte, what python-tuf writes and signs."""

import json
from datetime import timedelta
from typing import Any

import pytest
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from pki.metadata import DirectorSigner, content_target, director_target
from protocol.geometry import Slot
from protocol.signing import tuf_key
from protocol.updates import DEVICE_FIELD, DirectorDevice, ImageCustom, image_target_name
from tests.unit.pki.pki_builder import NOW, OpaqueSigner

EXPIRES = (NOW + timedelta(days=1)).replace(microsecond=0)
GUID = "253ee667-88ae-4f55-acf6-2cdaa9ca15bc"
DIRECTOR = OpaqueSigner()
DIRECTOR_KEY = tuf_key(DIRECTOR.public_key)


def target(slot: Slot, *, release: str) -> TargetFile:
    custom = ImageCustom(
        slot_kind=slot.kind,
        hardware_ids=(slot.core.hardware_id,),
        component_id=GUID,
        image_id=GUID,
        name="person-detection@1.2.0",
        security_counter=3,
        built_at=NOW,
    )
    image = content_target(image_target_name(slot, GUID), b"an image", custom.model_dump(mode="json"))
    return director_target(image, slot=slot, release=release)


SETS = {
    "nothing": [],
    "a model": [target(Slot.M4_0_MODEL, release="releases/1-main.json")],
    "all there is": [target(slot, release="releases/2-größer.json") for slot in reversed(Slot)],
}


@pytest.mark.parametrize("action_id", [None, GUID])
@pytest.mark.parametrize("name", SETS)
def test_set_is_that_of_python_tuf(name: str, action_id: str | None) -> None:
    """Targets, snapshot and timestamp; the signature apart, which is another each time."""
    device = DirectorDevice(device_id="a" * 128, action_id=action_id)
    files = DirectorSigner(DIRECTOR).sign_set(device, SETS[name], version=77, expires=EXPIRES)
    named = {DEVICE_FIELD: device.model_dump(mode="json")}
    listed = {each.path: each for each in SETS[name]}
    expected: dict[bytes, Any] = {
        files.targets: Targets(77, expires=EXPIRES, targets=listed, unrecognized_fields=named),
        files.snapshot: Snapshot(77, expires=EXPIRES, meta={"targets.json": MetaFile(77)}),
        files.timestamp: Timestamp(77, expires=EXPIRES, snapshot_meta=MetaFile(77)),
    }
    for content, signed in expected.items():
        signatures = Metadata[Any].from_bytes(content).signatures
        theirs = Metadata(signed, signatures)
        assert content.partition(b',"signed":')[2] == theirs.signed_bytes + b"}"
        assert json.loads(content) == json.loads(theirs.to_bytes(JSONSerializer(compact=True)))
        DIRECTOR_KEY.verify_signature(signatures[DIRECTOR_KEY.keyid], theirs.signed_bytes)


def test_file_is_that_of_python_tuf() -> None:
    """Signature included; python-tuf escapes what is not ASCII in a file, and not in what is signed."""
    files = DirectorSigner(DIRECTOR).sign_set(
        DirectorDevice(device_id="a" * 128), SETS["a model"], version=77, expires=EXPIRES
    )
    for content in (files.targets, files.snapshot, files.timestamp):
        assert Metadata[Any].from_bytes(content).to_bytes(JSONSerializer(compact=True)) == content
