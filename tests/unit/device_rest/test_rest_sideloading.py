"""Images over the cable: who may bring which, where they go, and that a refusal changes nothing."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import pytest

from device_sim.rest.errors import Code
from protocol.geometry import Core, Slot
from protocol.image import compose, read_info
from protocol.model import MAGIC
from protocol.signing import SoftwareSigner
from tests.unit.device_hardware.device_builder import DeviceBuilder, install_trial
from tests.unit.device_rest.local_device import Local, by_anybody, local_device
from tests.unit.device_update.update_builder import Updated, ready_device

MODEL = Slot.M4_0_MODEL
INSTALL: dict[str, object] = {"appControlMode": "Auto"}


def other_component(builder: DeviceBuilder) -> bytes:
    package = builder.packages.image(Slot.A7_APPLICATION)
    info = replace(read_info(package), component_id=str(uuid.uuid4()))
    return compose(b"an application", info, builder.packages.keys.package)


def broken_model(builder: DeviceBuilder) -> bytes:
    info = read_info(builder.packages.model(MODEL))
    return compose(b"no model at all", info, builder.packages.keys.package)


def application_core_model(builder: DeviceBuilder) -> bytes:
    return builder.packages.model(MODEL, core=Core.A7)


WRONG: dict[str, tuple[Callable[[DeviceBuilder], bytes], int, Code]] = {
    "nothing": (lambda _: b"", HTTPStatus.BAD_REQUEST, Code.NOT_STAGEABLE),
    "no package": (lambda _: b"x" * 5000, HTTPStatus.FORBIDDEN, Code.NOT_TRUSTED),
    "truncated": (lambda b: b.packages.model(MODEL)[:-40], HTTPStatus.FORBIDDEN, Code.NOT_TRUSTED),
    "tampered": (lambda b: b"\1" + b.packages.model(MODEL)[1:], HTTPStatus.FORBIDDEN, Code.NOT_TRUSTED),
    "of a stranger": (
        lambda b: b.packages.image(Slot.A7_APPLICATION, key=SoftwareSigner.generate()),
        HTTPStatus.FORBIDDEN,
        Code.NOT_TRUSTED,
    ),
    "of the system": (
        lambda b: b.packages.image(Slot.OS, key=b.packages.keys.package),
        HTTPStatus.BAD_REQUEST,
        Code.NOT_STAGEABLE,
    ),
    "another component": (other_component, HTTPStatus.BAD_REQUEST, Code.BAD_COMPONENT),
    "no model inside": (broken_model, HTTPStatus.BAD_REQUEST, Code.NOT_STAGEABLE),
    "a model for the A7": (application_core_model, HTTPStatus.BAD_REQUEST, Code.BAD_COMPONENT),
    "too large": (
        lambda b: b.packages.image(Slot.M4_0_FIRMWARE, size=80_000),
        HTTPStatus.BAD_REQUEST,
        Code.NO_SPACE,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_package_is_not_staged(case: str, local: Local, builder: DeviceBuilder) -> None:
    """Each with its own code; the device runs what it ran."""
    make, status, code = WRONG[case]
    before = local.machine.components()
    assert local.refusal("PUT", "update/stage", make(builder)) == (status, code)
    assert local.refusal("POST", "update/install", INSTALL) == (HTTPStatus.CONFLICT, Code.INSTALL_FAILED)
    local.machine.boot()
    assert local.machine.components() == before


@pytest.mark.parametrize("slot", [Slot.A7_APPLICATION, Slot.M4_1_FIRMWARE, Slot.M4_1_MODEL])
def test_a_development_image_runs_on_a_developers_device(slot: Slot, local: Local, builder: DeviceBuilder) -> None:
    """It lies in its home slot, is what evidence measures, and burns no fuse."""
    packages = builder.packages
    package = by_anybody(
        packages.model(slot, version="9.0.0", security=9)
        if slot is Slot.M4_1_MODEL
        else packages.image(slot, version="9.0.0", security=9)
    )
    local.ask("PUT", "update/stage", package)
    local.ask("POST", "update/install", INSTALL)
    assert local.names()[slot].endswith("@9.0.0")
    measured = local.machine.components()
    assert local.machine.rot.fuse(slot) == 1
    local.ask("POST", "restart")
    assert local.machine.components() == measured


def test_an_image_of_the_catalog_burns_its_fuse(local: Local, builder: DeviceBuilder) -> None:
    """An older one is then refused when it is installed, and the slot keeps what it has."""
    local.ask("PUT", "update/stage", builder.packages.model(MODEL, version="2.0.0", security=3))
    local.ask("POST", "update/install", INSTALL)
    assert local.machine.rot.fuse(MODEL) == 3
    local.ask("PUT", "update/stage", builder.packages.model(MODEL, version="2.1.0", security=2))
    assert local.refusal("POST", "update/install", INSTALL) == (HTTPStatus.CONFLICT, Code.INSTALL_FAILED)
    assert local.names()[MODEL] == "colour@2.0.0"
    assert local.machine.cores[Core.M4_0].is_running


def test_only_the_core_of_the_image_restarts(local: Local, builder: DeviceBuilder) -> None:
    """The sibling keeps the state that a restart would lose."""
    local.device.stop(Core.M4_1)
    local.ask("PUT", "update/stage", builder.packages.model(MODEL, version="2.0.0"))
    local.ask("POST", "update/install", INSTALL)
    assert local.machine.cores[Core.M4_0].is_running
    assert local.machine.cores[Core.M4_1].firmware is None


def test_a_model_that_its_core_cannot_run_leaves_the_core_stopped(local: Local, builder: DeviceBuilder) -> None:
    """It is in its slot, as asked; the next one mends it."""
    local.ask("PUT", "update/stage", builder.packages.model(MODEL, version="2.0.0", arena=500_000))
    assert local.refusal("POST", "update/install", INSTALL) == (HTTPStatus.CONFLICT, Code.INSTALL_FAILED)
    assert not local.machine.cores[Core.M4_0].is_running
    component = local.device.images()[MODEL].component_id
    assert local.refusal("PATCH", f"app/status/{component}", {"trigger": "start"})[1] is Code.INVALID_IMAGE
    local.ask("PUT", "update/stage", builder.packages.model(MODEL, version="2.0.1"))
    local.ask("POST", "update/install", INSTALL)
    assert local.machine.cores[Core.M4_0].is_running


def test_a_restart_forgets_what_was_staged(local: Local, builder: DeviceBuilder) -> None:
    """Nothing is installed that was staged before it."""
    local.ask("PUT", "update/stage", builder.packages.model(MODEL, version="2.0.0"))
    assert local.ask("GET", "images")["has_staged_updates"]
    local.ask("POST", "restart")
    assert local.refusal("POST", "update/install", INSTALL)[1] is Code.INSTALL_FAILED


def test_nothing_comes_over_the_cable_while_an_update_is_on_trial(local: Local, builder: DeviceBuilder) -> None:
    """Staging, installing and removing wait for its end."""
    local.ask("PUT", "update/stage", builder.packages.model(MODEL, version="3.0.0"))
    install_trial(local.machine, MODEL, builder.packages.model(MODEL, version="2.0.0"))
    running = (HTTPStatus.CONFLICT, Code.UPDATE_RUNS)
    component = local.device.images()[MODEL].component_id
    assert local.refusal("PUT", "update/stage", builder.packages.model(MODEL)) == running
    assert local.refusal("POST", "update/install", INSTALL) == running
    assert local.refusal("DELETE", f"app/image/{component}") == running
    assert local.ask("GET", "images")["is_ota_update_in_progress"]
    local.machine.confirm(MODEL)
    local.ask("POST", "update/install", INSTALL)
    assert local.names()[MODEL] == "colour@3.0.0"


def test_nothing_comes_over_the_cable_while_an_action_is_open(tmp_path: Path) -> None:
    """An update whose image is still being fetched is running, too."""
    updated = ready_device(tmp_path)
    updated.machine.rot.set_app_development(allowed=True)
    updated.progress.begin("11111111-1111-4111-8111-111111111111")
    local = Local(updated.machine, updated.builder.clock)
    assert local.refusal("PUT", "update/stage", updated.model()) == (HTTPStatus.CONFLICT, Code.UPDATE_RUNS)


def test_unclaimed_device_takes_nothing(tmp_path: Path) -> None:
    """It follows no catalog, and not even its developer's images run on it."""
    builder = DeviceBuilder(tmp_path)
    machine = builder.open(builder.manufacture())
    machine.flash_factory(builder.packages.factory_set())
    machine.rot.set_app_development(allowed=True)
    local = Local(machine, builder.clock)
    package = by_anybody(builder.packages.model(MODEL))
    assert local.refusal("PUT", "update/stage", package) == (HTTPStatus.FORBIDDEN, Code.NOT_TRUSTED)


def listed_package(updated: Updated, version: str) -> bytes:
    """The very package of a version that the catalog lists."""
    return next(
        content
        for content in updated.catalog.artifacts.values()
        if content[:4] == MAGIC and read_info(content).version == version
    )


class TestWithoutCapability:
    """What a device that is not its developer's takes over the cable: what its catalog lists, and nothing older."""

    @pytest.fixture
    def updated(self, tmp_path: Path) -> Updated:
        """It runs colour@2.0.0; colour@3.0.0 and the factory's colour@1.0.0 are listed, too."""
        device = ready_device(tmp_path)
        for version in ("1.0.0", "3.0.0"):
            device.catalog.add_image(MODEL, device.model(version=version))
        device.offer_model(MODEL)
        device.run()
        return device

    @pytest.fixture
    def local(self, updated: Updated) -> Local:
        return Local(updated.machine, updated.builder.clock)

    def test_a_listed_newer_image_is_installed(self, updated: Updated, local: Local) -> None:
        """Who has the cable saves the download, and decides nothing."""
        local.ask("PUT", "update/stage", listed_package(updated, "3.0.0"))
        local.ask("POST", "update/install", INSTALL)
        assert local.names()[MODEL] == "colour@3.0.0"

    def test_a_listed_older_image_is_refused(self, updated: Updated, local: Local) -> None:
        """Going back takes a release."""
        package = listed_package(updated, "1.0.0")
        assert local.refusal("PUT", "update/stage", package) == (HTTPStatus.FORBIDDEN, Code.NOT_TRUSTED)
        assert "older" in str(local.events[-1]["reason"])

    def test_an_unlisted_image_is_refused(self, updated: Updated, local: Local) -> None:
        """Although the catalog's key signed it."""
        package = updated.model(version="3.0.0")
        assert local.refusal("PUT", "update/stage", package) == (HTTPStatus.FORBIDDEN, Code.NOT_TRUSTED)
        assert "lists" in str(local.events[-1]["reason"])

    def test_a_development_image_is_refused(self, updated: Updated, local: Local) -> None:
        """Its key is in everybody's hands."""
        package = by_anybody(updated.model(version="3.0.0"))
        assert local.refusal("PUT", "update/stage", package) == (HTTPStatus.FORBIDDEN, Code.NOT_TRUSTED)

    def test_a_listing_that_has_expired_counts_no_more(self, updated: Updated, local: Local) -> None:
        """By the device's own clock."""
        updated.builder.clock.seconds += 48 * 3600
        package = listed_package(updated, "3.0.0")
        assert local.refusal("PUT", "update/stage", package) == (HTTPStatus.FORBIDDEN, Code.NOT_TRUSTED)

    def test_nothing_is_removed_started_or_stopped(self, local: Local) -> None:
        """That is its developer's."""
        component = local.device.images()[MODEL].component_id
        assert local.refusal("DELETE", f"app/image/{component}")[1] is Code.SIDELOAD_DENIED
        assert local.refusal("PATCH", f"app/status/{component}", {"trigger": "stop"})[1] is Code.NOT_PERMITTED


def test_a_device_that_never_asked_its_catalog_takes_nothing_without_the_capability(tmp_path: Path) -> None:
    """It knows of nothing that is listed."""
    local, builder = local_device(tmp_path, develops=False)
    package = builder.packages.model(MODEL, version="2.0.0")
    assert local.refusal("PUT", "update/stage", package) == (HTTPStatus.FORBIDDEN, Code.NOT_TRUSTED)


def test_a_boot_that_stops_ends_the_interface(local: Local) -> None:
    """The restart is answered, then nothing of the device answers any more."""
    local.machine.tamper(Slot.A7_APPLICATION)
    assert local.ask("POST", "restart") == {"restartingSystem": True}
    assert local.stops == 1
    assert local.device.failure is not None
    assert local.events[-1]["event"] == "boot-stopped"
