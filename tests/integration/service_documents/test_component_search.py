"""Which images have a component, and which devices run it now."""

import pytest

from protocol.geometry import Slot
from service.application.document_repository import ComponentQuery, ComponentQueryError, RunningDevice
from service.application.documents import device_key
from service.domain.errors import CursorError
from tests.integration.service_documents.document_world import DocumentWorld

A7, M4 = Slot.A7_APPLICATION, Slot.M4_0_FIRMWARE


async def test_devices_that_run_a_component_are_found(documented: DocumentWorld) -> None:
    """By name in any case, by version, by package URL; counted by slot."""
    world = documented
    old, new, firmware = world.package("app@1.0.0"), world.package("app@2.0.0"), world.package("rt@1.0.0", M4.kind)
    await world.hand_over(await world.documented("one", {A7: old, M4: firmware}, {"MbedTLS": "3.6.0"}))
    await world.hand_over(await world.documented("two", {A7: new}, {"MbedTLS": "3.6.1"}))
    first, second, third = sorted(await world.add_devices(3))
    await world.run(first, A7, old)
    await world.run(first, M4, firmware)
    await world.run(second, A7, new)
    assert await world.running(name="mbedtls", version="3.6.0") == [(first, A7), (first, M4)]
    assert set(await world.running(name="MBEDTLS")) == {(first, A7), (first, M4), (second, A7)}
    assert await world.running(purl="pkg:generic/MbedTLS@3.6.1") == [(second, A7)]
    assert len(await world.running(purl="pkg:generic/MbedTLS")) == 3
    assert await world.running(name="app", version="2.0.0") == [(second, A7)]
    assert await world.running(name="nothing") == []
    await world.run(first, A7, new)
    assert await world.running(name="mbedtls", version="3.6.0") == [(first, M4)]
    assert third not in {device for device, _slot in await world.running(name="mbedtls")}


async def test_images_with_a_component_say_how_many_devices_run_them(documented: DocumentWorld) -> None:
    """Also those that none runs."""
    world = documented
    old, new = world.package("app@1.0.0"), world.package("app@2.0.0")
    await world.hand_over(await world.documented("one", {A7: old}, {"mbedtls": "3.6.0"}))
    await world.hand_over(await world.documented("two", {A7: new}, {"mbedtls": "3.6.1"}))
    for device in await world.add_devices(2):
        await world.run(device, A7, old)
    query = ComponentQuery.parse(name="mbedtls")
    found = await world.documents.components(query, after_number=0, limit=9)
    assert [(each.component.version, each.image and each.image.custom.name, each.devices) for each in found] == [
        ("3.6.0", "app@1.0.0", {A7: 2}),
        ("3.6.1", "app@2.0.0", {}),
    ]
    rest = await world.documents.components(query, after_number=found[0].component.number, limit=9)
    assert rest == found[1:]


async def test_devices_come_in_pages_without_gap_or_repetition(documented: DocumentWorld) -> None:
    """Across slots and images; a device that starts to run it meanwhile changes nothing behind the cursor."""
    world = documented
    packages = {A7: world.package("app@1.0.0"), M4: world.package("rt@1.0.0", M4.kind)}
    await world.hand_over(await world.documented("one", packages, {"mbedtls": "3.6.0"}))
    devices = await world.add_devices(5)
    for device in devices:
        for slot, package in packages.items():
            await world.run(device, slot, package)
    query, after = ComponentQuery.parse(name="mbedtls"), None
    found: list[RunningDevice] = []
    for _ in range(4):
        page = await world.documents.devices(query, after=after, limit=3)
        found += page.devices
        after = device_key(page.devices[-1])
    assert (await world.documents.devices(query, after=after, limit=3)).devices == []
    assert sorted((each.device_id, each.slot) for each in found) == sorted(
        (device, slot) for device in devices for slot in packages
    )


async def test_query_that_names_nothing_is_refused(documented: DocumentWorld) -> None:
    """And so are package URLs and cursors that are none."""
    with pytest.raises(ComponentQueryError, match="found neither"):
        ComponentQuery.parse(version="1")
    with pytest.raises(ComponentQueryError, match="expected a package URL"):
        ComponentQuery.parse(purl="nothing")
    with pytest.raises(CursorError, match="expected one of this list"):
        await documented.documents.devices(ComponentQuery.parse(name="a"), after="x", limit=1)
