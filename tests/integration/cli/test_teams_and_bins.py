"""Teams that sign images of their own, hash bins, ways back, renewals: through commands, against a running service."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pki.errors import DelegationError
from pki.packages import sign_golden, sign_package
from pki.roles import OfflineKey
from protocol.geometry import Core, ImageKind, Slot
from protocol.image import IMAGE_TYPE, ImageInfo
from protocol.model import (
    GoldenVector,
    GoldenVectors,
    InputContract,
    Measured,
    ModelCard,
    compose_model_payload,
)
from protocol.provenance import verify_provenance
from service.cli.catalog_papers import own_catalog
from service.cli.errors import BadArgumentError, RefusedError
from service.cli.offered import OfferedImage, verify_offered, write_offered
from service.cli.publishing import ReleaseRefusedError
from service.cli.way_back import WayBackError
from tests.integration.cli.people import COMPONENT, Team, live_team

IMAGE_ID = "11a11404-de20-41c1-b66e-32354cb78e49"


@pytest.fixture
async def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Team]:
    async with live_team(tmp_path, monkeypatch) as opened:
        yield opened


def _model(team: Team, core: Core = Core.M4_1) -> Path:
    """A signed model package with golden vectors, in the folder of the one who has the package key."""
    keys, slot = team.service.folders.keys, Slot(f"{core}/model")
    card = ModelCard(
        name="person",
        version="1.0.0",
        component_id=COMPONENT,
        core=core,
        input=InputContract(shape=(1,), dtype="int8"),
        labels=("a", "b"),
        measured=Measured(model_bytes=64, arena_bytes=16, macs=1),
    )
    now = team.service.clock.now().replace(microsecond=0)
    info = ImageInfo(IMAGE_TYPE[ImageKind.MODEL], COMPONENT, IMAGE_ID, "person@1.0.0", 1, now)
    package = sign_package(compose_model_payload(card, bytes(64)), info, kind=ImageKind.MODEL, keys=keys)
    vector = GoldenVector(name="a", input="AAAA", expected=(0.5,), tolerance=0.1)
    golden, path = team.ada.home / "golden.json", team.ada.home / f"{core}.img"
    golden.write_bytes(sign_golden(GoldenVectors(component_id=COMPONENT, vectors=(vector,)), keys))
    image = verify_offered(package, slot, own_catalog(team.ada.folder))
    write_offered(path, OfferedImage(slot, package, image), golden=golden)
    return path


async def _delegate(team: Team, *further: object) -> Path:
    """Ada lets Ben sign models of m4-1; returns the file that Ben has signed."""
    key = await team.ben.key("ben")
    options = ("--core", "m4-1", "--kind", "model", "--component", COMPONENT, "--key", key, *further)
    draft = await team.ada.does("metadata", "delegate", "vision", *options, "--yes")
    file = Path(draft["proposal"])
    await team.ben.does("metadata", "sign", file, "--yes")
    return file


async def test_team_signs_models_of_its_core_and_nothing_else(team: Team) -> None:
    """Ben lists a model that Ada signed, Ada makes a release of it; the same for another core is refused."""
    await team.ada.does("metadata", "publish", await _delegate(team))
    assert (await team.versions())["image vision"] == 1
    outside = _model(team, Core.M4_0)
    answer = await team.ada.fails("release", "add-images", outside, "--role", "vision", "--yes")
    assert isinstance(answer, DelegationError)
    assert "expected targets of its paths (images/m4-1/model/*" in str(answer)
    await team.ben.does("release", "add-images", _model(team), "--role", "vision", "--yes")
    assert (await team.versions())["image vision"] == 2
    release = await team.ada.does("release", "create", "vision-1", "--images", IMAGE_ID, "--yes")
    assert [image["slot"] for image in release["images"]] == ["m4-1/model"]


async def test_team_whose_delegation_ends_leaves_its_images(team: Team) -> None:
    """They stay in force under the catalog's own keys; the name may come back later."""
    await team.ada.does("metadata", "publish", await _delegate(team))
    draft = await team.ada.does("release", "add-images", _model(team), "--role", "vision", "--yes")
    await team.ben.does("release", "sign", draft["proposal"], "--yes")
    await team.ben.does("release", "publish", draft["proposal"])
    await team.ada.does("metadata", "undelegate", "vision", "--yes")
    release = await team.ada.does("release", "create", "vision-1", "--images", IMAGE_ID, "--yes")
    assert [image["slot"] for image in release["images"]] == ["m4-1/model"]
    again = json.loads((await _again(team)).read_text())
    assert again["purpose"] == "delegate to vision"


async def _again(team: Team) -> Path:
    options = ("--core", "m4-1", "--kind", "model", "--key", "ben/keys/ben.pub")
    file = Path((await team.ada.does("metadata", "delegate", "vision", *options, "--yes"))["proposal"])
    await team.ben.does("metadata", "sign", file, "--yes")
    await team.ben.does("metadata", "publish", file)
    assert (await team.versions())["image vision"] == 3
    return file


async def test_teams_keys_change(team: Team) -> None:
    """Eve joins Ben: both must sign, beginning with the role's own file."""
    await team.ada.does("metadata", "publish", await _delegate(team))
    key = await team.eve.key("eve")
    draft = await team.ada.does("metadata", "keys", "add", "vision", "--key", key, "--threshold", 2, "--yes")
    assert [each["role"] for each in draft["missing"]] == ["vision"]
    for person in (team.ben, team.eve):
        await person.does("metadata", "sign", draft["proposal"], "--yes")
    await team.eve.does("metadata", "publish", draft["proposal"])
    renewal = await team.ben.does("metadata", "renew", "vision", "--yes")
    assert (renewal["complete"], renewal["missing"][0]["missing"]) == (False, 1)


async def test_delegations_that_cannot_be_are_refused(team: Team) -> None:
    """A reserved name, a kind that the core does not run, a role that is there."""
    key = await team.ada.key("ada")
    options = ("--core", "m4-1", "--kind", "model", "--key", key, "--yes")
    for name in ("deltas", "targets", "bin-0", "Vision", "director"):
        assert isinstance(await team.ada.fails("metadata", "delegate", name, *options), DelegationError)
    other = ("--core", "a7", "--kind", "model", "--key", key, "--yes")
    assert isinstance(await team.ada.fails("metadata", "delegate", "vision", *other), BadArgumentError)
    await team.ada.does("metadata", "delegate", "vision", *options)
    assert isinstance(await team.ada.fails("metadata", "delegate", "vision", *options), DelegationError)
    assert isinstance(await team.ada.fails("metadata", "undelegate", "deltas", "--yes"), DelegationError)


async def test_releases_go_on_after_bins_are_on(team: Team) -> None:
    """What was listed moves; a release afterwards touches few bins, and another folder fetches no others."""
    first = await team.ada.package("first.img", version="1.1.0")
    await team.ada.does("release", "create", "one", first, "--yes")
    await team.ada.does("metadata", "bins", "--bits", "3", "--yes")
    second = await team.ada.package("second.img", version="1.2.0")
    before = set(team.ada.repository())
    await team.ada.does("release", "create", "two", second, "--way-back", "--yes")
    touched = {name for name in set(team.ada.repository()) - before if ".bin-" in name}
    assert 1 <= len(touched) <= 4  # image, bill of materials, provenance of the release and of its way back
    shown = await team.ben.does("release", "show", "two-way-back")
    assert (shown["way_back_of"], list(shown["goes_back"])) == ("two", ["a7/application"])
    assert not any(".bin-" in name for name in team.ben.repository())
    two = await team.ada.does("release", "show", "two")
    image = two["images"]["a7/application"]["target"].split("/")[-1].removesuffix(".img")
    assert not (await team.ben.does("release", "create", "three", "--images", image, "--yes"))["complete"]
    await team.ada.does("release", "create", "three", "--images", image, "--yes")
    assert isinstance(await team.ada.fails("metadata", "bins", "--bits", "3", "--yes"), BadArgumentError)
    await team.ada.does("metadata", "bins", "--bits", "2", "--yes")
    await team.ada.does("metadata", "renew", "bins", "--yes")


async def test_keys_of_targets_take_their_bins_along(team: Team) -> None:
    """The bins were signed by the keys that go."""
    await team.ada.does("metadata", "bins", "--bits", "1", "--yes")
    key = await team.ada.key("image-targets-2")
    await team.ada.does("metadata", "keys", "rotate", "targets", "--key", key, "--yes")
    package = await team.ada.package()
    assert (await team.ada.does("release", "create", "main", package, "--yes"))["name"] == "main"


async def test_release_goes_back_from_an_image_that_nobody_lists(team: Team) -> None:
    """The operator names its digest; what is no slot of the release, or no digest, is refused."""
    package = await team.ada.package("first.img", version="1.1.0")
    words, unlisted = ("release", "create", "heal", package, "--yes", "--goes-back"), "5" * 64
    answer = await team.ada.fails(*words, f"m4-0/model={unlisted}")
    assert isinstance(answer, ReleaseRefusedError)
    assert "expected to go back in its own slots, found m4-0/model" in str(answer)
    for wrong in ("a7/application", "a7/application=55", f"nowhere={unlisted}", f"a7/application={unlisted.upper()}="):
        assert isinstance(await team.ada.fails(*words, wrong), BadArgumentError)
    twice = f"a7/application={unlisted}"
    answered = await team.ada.does(*words, twice, "--goes-back", twice, "--goes-back", f"a7/application={'6' * 64}")
    assert answered["goes_back"] == {"a7/application": [unlisted, "6" * 64]}
    assert (await team.ada.does("release", "show", "heal"))["goes_back"] == answered["goes_back"]


async def test_way_back_is_signed_together(team: Team) -> None:
    """It brings what was there before, and says what it goes back from."""
    first = await team.ada.package("first.img", version="1.1.0")
    assert isinstance(await team.ada.fails("release", "create", "one", first, "--way-back", "--yes"), WayBackError)
    one = await team.ada.does("release", "create", "one", first, "--yes", "--support-ends", "2031-12-31")
    second = await team.ada.package("second.img", version="1.2.0")
    two = await team.ada.does("release", "create", "two", second, "--way-back", "--yes")
    back = await team.ada.does("release", "show", "two-way-back")
    assert back["images"]["a7/application"]["sha256"] == one["images"][0]["sha256"]
    assert back["goes_back"] == {"a7/application": [two["images"][0]["sha256"]]}
    assert (await team.ada.does("release", "show", "one"))["support_ends"].startswith("2031-12-31T23:59:59")
    third = await team.ada.package("third.img", version="1.3.0")
    three = await team.ada.does("release", "create", "three", third, "--way-back", "--yes")
    again = await team.ada.does("release", "show", "three-way-back")
    assert again["images"]["a7/application"]["sha256"] == two["images"][0]["sha256"]
    assert three["counter"] == 4
    same = await team.ada.fails("release", "create", "same", third, "--way-back", "--yes")
    assert "expected images that were not there before" in str(same)


@pytest.mark.parametrize("bits", [0, 2])
async def test_way_back_has_provenance_of_its_own(team: Team, bits: int) -> None:
    """Of exactly the images that it brings, wherever documents are listed; none where the package key is not here."""
    if bits:
        await team.ada.does("metadata", "bins", "--bits", bits, "--yes")
    one = await team.ada.does("release", "create", "one", await team.ada.package("first.img"), "--yes")
    second = await team.ada.package("second.img", version="1.2.0")
    await team.ada.does("release", "create", "two", second, "--way-back", "--yes")
    assert "provenance" not in await _lacking(team, "two-way-back")
    (provenance,) = (
        found
        for name, content in team.ada.repository().items()
        if name.startswith("documents/provenance/")
        and (found := verify_provenance(content, own_catalog(team.ada.folder).package_keys)).release == "two-way-back"
    )
    assert provenance.image_digests == {one["images"][0]["sha256"]}
    third = await team.ada.package("third.img", version="1.3.0")
    team.service.folders.keys.files.path(OfflineKey.PACKAGE).unlink()
    await team.ada.does("release", "create", "three", third, "--way-back", "--yes")
    assert "provenance" in await _lacking(team, "three-way-back")


async def _lacking(team: Team, release: str) -> list[str]:
    report: dict[str, list[str]] = json.loads((await team.ada.run("release", "check", release, "--json")).stdout)
    return report["lacking"]


async def test_no_way_back_over_a_security_counter(team: Team) -> None:
    """The fuses of a device that ran the new image refuse the old one."""
    await team.ada.does("release", "create", "one", await team.ada.package("first.img"), "--yes")
    second = await team.ada.package("second.img", version="1.2.0", counter=2)
    error = await team.ada.fails("release", "create", "two", second, "--way-back", "--yes")
    assert isinstance(error, WayBackError)
    assert "expected a security counter of at most 1, that of telemetry-app@1.1.0, found 2" in str(error)


async def test_older_image_without_saying_so_is_refused(team: Team) -> None:
    """The service asks for it, whoever signed."""
    older = await team.ada.package("older.img", version="1.0.5")
    newer = await team.ada.package("newer.img", version="1.1.0")
    await team.ada.does("release", "create", "one", newer, "--yes")
    assert isinstance(await team.ada.fails("release", "create", "two", older, "--yes"), RefusedError)


@pytest.mark.parametrize("role", ["root", "director-root", "targets"])
async def test_role_is_renewed(team: Team, role: str) -> None:
    """The next version, a later expiry."""
    name = {"root": "image root", "director-root": "director root"}.get(role, f"image {role}")
    before = await team.versions()
    await team.ada.does("metadata", "renew", role, "--yes")
    assert (await team.versions())[name] == before[name] + 1


@pytest.mark.parametrize(
    ("key", "role", "root"), [("timestamp", "timestamp", "image"), ("snapshot", "snapshot", "image"), ("director",) * 3]
)
async def test_online_key_is_replaced(team: Team, key: str, role: str, root: str) -> None:
    """The service makes the next one, the root names it, and what it signs is signed again."""
    service = team.service.folders.service
    made = json.loads((await team.ada.run_alone("metadata", "key", "request", key, "--service-dir", service)).stdout)
    assert made["key"] == f"{key}-2"
    await team.ada.does("metadata", "keys", "rotate", role, "--key", made["request"], "--yes")
    assert (await team.versions())[f"{root} root"] == 2
    status = {f"{each['repository']} {each['role']}": each for each in await team.ben.does("metadata", "status")}
    assert status[f"{root} {'timestamp' if root == 'director' else role}"]["key_ids"] == [made["key_id"]]
    package = await team.ada.package()
    assert (await team.ada.does("release", "create", "main", package, "--yes"))["name"] == "main"
