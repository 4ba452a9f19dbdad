"""Board configurations and trust stores: the service keeps their bytes, but no release brings them to a device yet."""

import pytest

from pki.metadata import content_target
from protocol.board import BoardConfiguration, BoardError, encode_board
from protocol.geometry import Core, ImageKind, Slot
from protocol.image import digest_of, read_info
from protocol.signing import SoftwareSigner
from protocol.trust_store import TrustedKey, TrustRole, TrustStoreError, encode_trust_store
from protocol.updates import ImageCustom
from service.application.artifacts import UnknownArtifactError
from service.domain.release_checks import HardwareMismatchError
from tests.integration.service_updates.update_world import UpdateWorld, add_target

BOARD = encode_board(BoardConfiguration(model="eye", hardware_revision="B2", cores={Core.A7: {"uart0": (26,)}}))
STORE = encode_trust_store([TrustedKey(TrustRole.PACKAGE, SoftwareSigner.generate().public_key)])
CASES = [(ImageKind.BOARD_CONFIGURATION, BOARD), (ImageKind.TRUST_STORE, STORE)]


@pytest.mark.parametrize(("kind", "payload"), CASES)
@pytest.mark.parametrize("folder", ["", "a7/application"])
async def test_image_without_a_slot_is_in_no_release(
    world: UpdateWorld, kind: ImageKind, payload: bytes, folder: str
) -> None:
    """Neither under a name of its own kind, nor in the name of a slot; the release before stays in force."""
    package = world.package("thing@1.0.0", kind, payload)
    info = read_info(package)
    custom = ImageCustom(
        slot_kind=kind,
        hardware_ids=(Core.A7.hardware_id,),
        component_id=info.component_id,
        image_id=info.image_id,
        name=info.name,
        security_counter=1,
        built_at=info.built_at,
    )
    name = f"images/{folder or kind}/{info.image_id}.img"
    upload = await world.prepare("with", {Slot.A7_APPLICATION: world.package("app@1.0.0")})
    add_target(upload, name, package, content_target(name, package, custom.model_dump(mode="json")))
    with pytest.raises(HardwareMismatchError, match=f"slot on the device, found a {kind}, which has none yet"):
        await world.hand_over(upload)
    async with world.unit_of_work(read_only=True) as work:
        assert await work.releases.count() == 0


@pytest.mark.parametrize(
    ("kind", "payload", "error"),
    [
        (ImageKind.BOARD_CONFIGURATION, b"TFB0" + BOARD[4:], BoardError),
        (ImageKind.TRUST_STORE, b"TFK0" + STORE[4:], TrustStoreError),
    ],
)
async def test_malformed_payload_is_not_taken(
    world: UpdateWorld, kind: ImageKind, payload: bytes, error: type[Exception]
) -> None:
    """Whoever signed it: no bytes are kept, and nothing is written in the audit trail."""
    package = world.package("thing@1.0.0", kind, payload)
    with pytest.raises(error, match="expected"):
        await world.take(package)
    with pytest.raises(UnknownArtifactError, match="expected a known SHA-256"):
        await world.artifacts.length(digest_of(package))
    async with world.unit_of_work(read_only=True) as work:
        assert await work.artifacts.find([digest_of(package)]) == {}
