"""How updates end where failed devices are given the release again.

What fails any update fails each attempt anew, with the same chance: a download that broke off. What is wrong with the
release fails every attempt.
"""

from collections.abc import Iterator
from dataclasses import replace

from protocol.messages import ActionState
from protocol.plan import Retries
from simulation.what_if.fleet import BASE_FAILURE, CONFIRMED, Ending, FleetModel, Kind


def tried_again(model: FleetModel, retries: Retries | None) -> FleetModel:
    """Return a fleet whose devices end as they do after all attempts that a plan gives them; silent ones get one."""
    if retries is None:
        return model
    kinds = tuple(replace(kind, endings=tuple(_endings(kind, retries))) for kind in model.kinds)
    return replace(model, kinds=kinds)


def _endings(kind: Kind, retries: Retries) -> Iterator[tuple[Ending, float]]:
    shares = dict(kind.endings)
    again = _chance(shares.get(BASE_FAILURE, 0.0), shares.get(CONFIRMED, 0.0))
    for ending, share in kind.endings:
        if ending.state is not ActionState.FAILED or ending.cause not in retries.causes:
            yield ending, share
            continue
        last = again if ending == BASE_FAILURE else 1.0  # chance that a further attempt fails
        for earlier in range(1, retries.most + 1):
            mended = share * last ** (earlier - 1) * (1 - last)
            if mended > 0:
                yield replace(CONFIRMED, earlier=earlier, blamed=ending.cause), mended
        yield replace(ending, earlier=retries.most, blamed=ending.cause), share * last**retries.most


def _chance(failed: float, confirmed: float) -> float:
    return failed / (failed + confirmed) if failed else 0.0
