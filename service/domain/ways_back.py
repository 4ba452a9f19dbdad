"""Ways back: a release that puts an older image in a newer one's place says so, and may be signed in advance.

Checked of a release, in this order:
    1. it names images that it may replace in its own slots alone;
    2. an image that is older than the newest one released before for its slot and component goes back from that one;
    3. a release alone undoes no other; the way back of a release comes in the same publication, names it, has the
       counter after it, and brings only images that were in force before, each to a slot of that release;
    4. it goes back from the images of that release alone, and no security counter is below that release's, whose
       fuses a device may have burnt by then.

And of the way forward: a release says in `after`, for each of its slots, the newest earlier one of the same component
that devices must pass through, so that each device can tell by the release's own signature.
"""

from collections.abc import Mapping, Sequence

from protocol.geometry import Slot
from protocol.updates import MustPass, ReleaseDocument, image_custom
from protocol.versions import Build, is_older
from service.domain.release import MustPassError, WayBackError
from service.domain.release_checks import Proposal


def check_goes_back(
    document: ReleaseDocument, builds: Mapping[Slot, Build], released: Mapping[Slot, Sequence[Build]]
) -> None:
    """Check that a release says what it goes back from.

    Args:
        document: the release.
        builds: its images.
        released: builds of the same component that releases before it brought, by slot.

    Raises:
        WayBackError: steps 1 or 2.
    """
    # Step 1: slots.
    foreign = sorted(document.goes_back.keys() - document.images.keys())
    if foreign:
        raise WayBackError(f"release {document.name}: expected to go back in its own slots, found {foreign[0]}")
    # Step 2: older images.
    for slot, build in builds.items():
        newest = newest_above(build, released.get(slot, ()))
        if newest is not None and newest.sha256 not in document.goes_back.get(slot, ()):
            raise WayBackError(
                f"release {document.name}, {slot}: expected nothing older than {newest.name} "
                f"({newest.sha256[:12]}…), or a release that goes back from it, found {build.name}"
            )


def check_after(document: ReleaseDocument, builds: Mapping[Slot, Build], must: Mapping[Slot, MustPass]) -> None:
    """Check that a release says which ones devices must pass through before it.

    Args:
        document: the release.
        builds: its images.
        must: by slot, the newest earlier release of the component that devices must pass through.

    Raises:
        MustPassError: it names another one, or none.
    """
    expected = {slot: each for slot, each in must.items() if each.precedes(builds[slot])}
    for slot in sorted(expected.keys() | document.after.keys()):
        wanted, found = expected.get(slot), document.after.get(slot)
        if wanted != found:
            names = [each.release if each else "none" for each in (wanted, found)]
            raise MustPassError(
                f"release {document.name}, {slot}: expected to come after {names[0]}, which devices must pass through, "
                f"found {names[1]}"
            )


def newest_above(build: Build, released: Sequence[Build]) -> Build | None:
    """Return the newest of several builds, if the given one is older than it; None if it is older than none."""
    newest: Build | None = None
    for other in released:
        if is_older(build, other) and (newest is None or is_older(newest, other)):
            newest = other
    return newest


def check_no_way_back(document: ReleaseDocument) -> None:
    """Check that a release which comes alone undoes no other.

    Raises:
        WayBackError: step 3.
    """
    # Step 3: a release alone.
    if document.way_back_of is not None:
        raise WayBackError(
            f"release {document.name}: expected it in the same publication as {document.way_back_of}, found it alone"
        )


def check_way_back(back: ReleaseDocument, forward: ReleaseDocument, proposal: Proposal) -> None:
    """Check the way back of a release.

    Args:
        back: the release that undoes it.
        forward: the release.
        proposal: both are among its targets.

    Raises:
        WayBackError: steps 3 or 4.
    """
    # Step 3: the way back.
    found = (back.way_back_of, back.counter, back.factory)
    expected = (forward.name, forward.counter + 1, False)
    if found != expected:
        raise WayBackError(
            f"way back {back.name}: expected the name of its release, the counter after it, and no factory release, "
            f"{expected}, found {found}"
        )
    for slot, image in back.images.items():
        if slot not in forward.images or image.target in proposal.added:
            raise WayBackError(
                f"way back {back.name}, {slot}: expected an image in force for a slot of {forward.name}, "
                f"found {image.target}"
            )
        _check_undone(back, forward, slot, proposal)


def _check_undone(back: ReleaseDocument, forward: ReleaseDocument, slot: Slot, proposal: Proposal) -> None:
    # Step 4: from the release alone.
    undone = forward.images[slot].sha256
    if not set(back.goes_back.get(slot, ())) <= {undone}:
        raise WayBackError(f"way back {back.name}, {slot}: expected to go back from {undone[:12]}… alone, found others")
    before, after = _security_counter(back, slot, proposal), _security_counter(forward, slot, proposal)
    if before < after:
        raise WayBackError(
            f"way back {back.name}, {slot}: expected a security counter of at least {after}, found {before}"
        )


def _security_counter(document: ReleaseDocument, slot: Slot, proposal: Proposal) -> int:
    target = proposal.listed(document.images[slot].target)
    return 0 if target is None else image_custom(target).security_counter
