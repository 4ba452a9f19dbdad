"""Somebody who stole the Image repository's online keys, and stands between the service and the device."""

from datetime import timedelta

from tuf.api.metadata import Metadata, MetaFile, Snapshot

from pki.metadata import sign_snapshot, sign_timestamp
from pki.roles import OnlineKey
from tests.attack.drill import IMAGE, Drill


class Thief:
    """Signs with the stolen keys and answers in the service's place."""

    def __init__(self, drill: Drill) -> None:
        self.drill = drill
        self.seen = {role: drill.connection.attacker.seen[f"{IMAGE}{role}.json"] for role in ("snapshot", "timestamp")}
        self.version = int(drill.world.clock.now().timestamp()) + 1000
        self.expires = drill.world.clock.now() + timedelta(days=1)

    async def content(self, role: str) -> bytes:
        return (await self.drill.connection.http.get(f"{IMAGE}{role}.json")).content

    def put(self, role: str, content: bytes) -> None:
        self.drill.connection.attacker.instead[f"{IMAGE}{role}.json"] = content

    def timestamp(self, snapshot: bytes, *, version: int) -> None:
        """Sign a timestamp over a snapshot."""
        signer = self.drill.stolen(OnlineKey.TIMESTAMP)
        signed = sign_timestamp(snapshot, signer, snapshot_version=version, version=self.version, expires=self.expires)
        self.put("timestamp", signed)

    def snapshot(self, listed: dict[str, MetaFile]) -> None:
        """Sign a snapshot, and a timestamp over it."""
        signer = self.drill.stolen(OnlineKey.SNAPSHOT)
        signed = sign_snapshot(listed, signer, version=self.version, expires=self.expires)
        self.put("snapshot", signed)
        self.timestamp(signed, version=self.version)

    async def roles(self) -> dict[str, MetaFile]:
        """What the snapshot in force lists."""
        listed = Metadata[Snapshot].from_bytes(await self.content("snapshot")).signed.meta
        return {name.removesuffix(".json"): file for name, file in listed.items()}
