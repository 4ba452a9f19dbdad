"""Questions about more digests than one statement of a database takes."""

from protocol.geometry import Slot
from protocol.image import digest_of
from tests.integration.service_updates.update_world import UpdateWorld

MANY = [f"{number:064x}" for number in range(33_000)]  # PostgreSQL takes 32,767 parameters


async def test_long_lists_of_digests_are_answered(world: UpdateWorld) -> None:
    """A whole catalog at once: what is there is found, once."""
    image = (await world.release("first")).images[Slot.A7_APPLICATION]
    document = digest_of(b"none")
    async with world.unit_of_work(read_only=True) as work:
        asked = [*MANY, image.sha256, image.sha256, document]
        assert set(await work.artifacts.find(asked)) == {image.sha256}
        assert set(await work.metadata.images_of(asked)) == {image.sha256}
        assert set(await work.metadata.listed([*MANY, image.target])) == {image.target}
