"""A stage's way through devices that a test holds in a list, as `service.application.rollout_members.walk` goes it."""

from collections.abc import Collection, Iterable

from service.application.rollout_members import Walk
from service.domain.rollout import Rollout
from service.domain.stage import Stage


def walk_list(rollout: Rollout, stage: Stage, devices: Iterable[str], known: Collection[str], limit: int) -> Walk:
    """Return what the stage comes to next among devices; `known` have their actions."""
    placed = sorted((rollout.order.position(device), device) for device in devices)
    ahead = [each for each in placed if stage.walked < each[0] <= stage.until and each[1] not in known]
    new = ahead[:limit]
    return Walk([device for _, device in new], new[-1][0] if new else stage.walked, is_end=len(new) < limit)
