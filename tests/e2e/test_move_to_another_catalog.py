"""A device goes from one company to another: two services with roots of their own, and a manufacturer between them."""

from pathlib import Path

import pytest

from tests.e2e.party import Party, SimulatedDevice, has

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def maker(tmp_path: Path) -> Party:
    """The manufacturer, who runs a catalog, too."""
    party = Party(tmp_path / "maker", "Maker", "Camera")
    party.init()
    return party


@pytest.fixture
def buyer(tmp_path: Path) -> Party:
    """A company that buys devices and makes none."""
    party = Party(tmp_path / "buyer", "Buyer", "Doorbell")
    party.init()
    return party


def test_device_moves_with_its_release_and_not_without(maker: Party, buyer: Party, tmp_path: Path) -> None:
    """From the maker's catalog to the buyer's, every step by its own party; then the old voucher is worth nothing."""
    with maker.serving():
        device = _claimed_by_its_maker(maker, tmp_path / "devices")
        old_voucher = (device.folder / "voucher.json").read_bytes()
        handover, bundle = tmp_path / "handover.json", tmp_path / "manufacturer.json"
        buyer.run("catalog", "export", "--out", handover)
        fingerprint = buyer.fingerprint
        maker.run("factory", "bundle", "--name", "Maker", "--images", tmp_path / "os", "--out", bundle)
        vouch = ("factory", "voucher", device.folder, "--handover", handover, "--fingerprint", fingerprint)
        # A thief has the device in hand and a catalog of his own, but no release.
        assert "expected a release by catalog Maker" in maker.refused(*vouch)
        # A blocked device is not let go by the way.
        release = tmp_path / "release.json"
        which = ("device", "release", device.device_id, "--to", handover, "--fingerprint", fingerprint)
        let_go = (*which, "--reason", "sold", "--out", release)
        maker.run("device", "block", device.device_id, "--reason", "stolen?")
        assert "found it blocked" in maker.refused(*let_go)
        assert not release.exists()
        maker.run("device", "unblock", device.device_id)
        maker.run(*let_go)
        assert "moved" in str(device.live(maker, has("refused")))
        maker.run(*vouch, "--release", release)
    _trust(buyer, maker, bundle)
    with buyer.serving():
        _prepare(buyer, tmp_path / "os")
        new_voucher = (device.folder / "voucher.json").read_bytes()
        buyer.run("device", "claim", device.folder.parent, "--product", buyer.product)
        # The buyer's operator gave no voucher: the device came with the maker's.
        assert (device.folder / "voucher.json").read_bytes() == new_voucher
        device.live(buyer, has("quarantined"))
        shown = buyer.run("device", "show", device.device_id, "--json")
        assert (shown["state"], shown["has_voucher"]) == ("quarantined", True)
        _heal(buyer, device)
        assert buyer.run("device", "show", device.device_id, "--json")["state"] == "active"
        # Whoever keeps the maker's old voucher gets nothing by it.
        (device.folder / "voucher.json").write_bytes(old_voucher)
        assert has("voucher-refused")(device.live(buyer, has("connected")))
        back = _released_to(maker, buyer, device)
    with maker.serving():
        assert maker.run("device", "show", device.device_id, "--json")["state"] == "moved"
        # Back again: the maker's own voucher authority asks for the buyer's release as for anybody's.
        claim = ("device", "claim", device.folder.parent, "--product", maker.product)
        assert "expected a release by catalog Buyer" in maker.refused(*claim)
        maker.run(*claim, "--release", back)
        device.flash()
        device.live(maker, has("connected"))
        assert maker.run("device", "show", device.device_id, "--json")["state"] == "active"


def _claimed_by_its_maker(maker: Party, devices: Path) -> SimulatedDevice:
    maker.run("factory", "images")
    maker.run("product", "create", maker.product)
    device = SimulatedDevice.manufacture(devices)
    maker.run("factory", "sign", devices)
    device.flash()
    maker.run("device", "claim", devices, "--product", maker.product)
    device.live(maker, has("connected"))
    return device


def _trust(buyer: Party, maker: Party, bundle: Path) -> None:
    """The buyer's operator hears the fingerprint from the maker's, and signs the list with the offline root."""
    words = ("catalog", "trust-manufacturer", bundle, "--service-dir", buyer.service)
    assert "expected the manufacturer of" in buyer.refused(*words, "--fingerprint", buyer.fingerprint)
    buyer.run(*words, "--fingerprint", maker.fingerprint)


def _prepare(buyer: Party, system_images: Path) -> None:
    """Know the maker's system images, and let a device that has none of the buyer's reach the update path."""
    packages = sorted(system_images.glob("*.img"))
    assert len(packages) == 3
    buyer.run("release", "create", "makers-system", *packages, "--reference", "--yes")
    buyer.run("product", "create", buyer.product)
    buyer.run("group", "set", "Production", "--product", buyer.product, "--unknown", "update-only")


def _released_to(maker: Party, buyer: Party, device: SimulatedDevice) -> Path:
    """The buyer lets the device go back."""
    handover, release = buyer.root / "back.json", buyer.root / "release.json"
    maker.run("catalog", "export", "--out", handover)
    words = ("device", "release", device.device_id, "--to", handover, "--fingerprint", maker.fingerprint)
    buyer.run(*words, "--reason", "returned", "--out", release)
    return release


def _heal(buyer: Party, device: SimulatedDevice) -> None:
    """Bring the buyer's application and firmware over the air."""
    payload = buyer.root / "payload.bin"
    payload.write_bytes(b"the buyer's code " * 64)
    packages = list[Path]()
    for core, name in (("a7", "doorbell"), ("m4-0", "chime-0"), ("m4-1", "chime-1")):
        component = f"00000000-0000-4000-8000-00000000000{len(packages)}"
        packages.append(buyer.root / f"{name}.img")
        words = ("image", "create", payload, "--name", name, "--version", "1.0.0", "--core", core)
        buyer.run(*words, "--component-id", component, "--out", packages[-1])
    buyer.run("release", "create", "first", *packages, "--yes")
    buyer.run("rollout", "start", "first", "--group", "Production", "--product", buyer.product, "--stages", "100%")
    device.live(buyer, has("connected"))
