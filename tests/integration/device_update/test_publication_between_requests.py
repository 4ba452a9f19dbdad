"""A publication between two requests of one check: no attack, and the device installs what is in force then."""

from datetime import timedelta
from pathlib import Path

import pytest

from device_sim.network.ports import HttpResponse
from pki.metadata import Delegation, role_delegations, sign_targets
from protocol.geometry import Slot
from protocol.messages import ActionState
from protocol.signing import SoftwareSigner
from tests.unit.device_update.update_builder import NOW, Updated, info_of, ready_device

SLOT = Slot.M4_0_MODEL
TEAM = "vision"
EXPIRES = NOW + timedelta(days=1)
UPTANE = "/device/v1/uptane"


class _Publication:
    """Has the catalog publish while one file of the old metadata is asked for, once."""

    def __init__(self, device: Updated, asked: str, *, grows: bool) -> None:
        self._device = device
        self._asked = f"{UPTANE}/{asked}"
        self._grows = grows
        self.happened = 0

    def __call__(self, path: str, _headers: object) -> HttpResponse | None:
        if path == self._asked and not self.happened:
            self.happened = 1
            if self._grows:
                self._device.catalog.add("documents/of-somebody-else", b"another target")
            self._device.catalog.publish()
        return None


@pytest.fixture
def device(tmp_path: Path) -> Updated:
    """A device that has seen the catalog's first metadata, and one image rolled out to it."""
    device = ready_device(tmp_path)
    device.offer_model(version="2.0.0")
    return device


def _installs_in_peace(device: Updated) -> None:
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED, device.wire.reports[-1].detail
    assert {report.attack for report in device.wire.reports} == {None}
    assert device.machine.installed()[SLOT].name == "colour@2.0.0"


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize(
    "asked", ["director/snapshot.json", "director/targets.json", "image/snapshot.json", "image/targets.json"]
)
def test_publication_between_requests_is_no_attack(device: Updated, asked: str, *, grows: bool) -> None:
    """What was fetched before does not fit what came after; the device looks once more."""
    device.wire.hook = publication = _Publication(device, asked, grows=grows)
    _installs_in_peace(device)
    assert publication.happened
    assert device.wire.requests.count(f"{UPTANE}/director/timestamp.json") == 2


def test_publication_before_a_teams_role_is_asked_for_is_no_attack(tmp_path: Path) -> None:
    """The same one step further down, where a delegated role lists the image."""
    device, team = ready_device(tmp_path), SoftwareSigner.generate()
    catalog = device.catalog
    catalog.delegations = role_delegations(
        [Delegation(TEAM, (team.public_key,), 1, ("images/m4-0/model/*", "golden/*/*"))]
    )
    package = device.model(version="2.0.0")
    golden = catalog.add_golden(info_of(package).component_id)
    image = catalog.add_image(SLOT, package, golden=golden)
    listed = [catalog.targets.pop(name) for name in (image, golden)]
    catalog.roles[TEAM] = sign_targets(listed, team, version=1, expires=EXPIRES)
    catalog.roll_out({SLOT: image})

    def renews(path: str, _headers: object) -> HttpResponse | None:
        if path == f"{UPTANE}/image/{TEAM}.json" and path not in device.wire.requests[:-1]:
            catalog.roles[TEAM] = sign_targets(listed, team, version=2, expires=EXPIRES)
            catalog.publish()
        return None

    device.wire.hook = renews
    _installs_in_peace(device)
    assert device.wire.requests.count(f"{UPTANE}/image/{TEAM}.json") == 2
