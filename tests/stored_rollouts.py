"""Rollouts as a database gives them back after a restart, without a database."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

from protocol.plan import Plan
from service.adapters.database.rollouts import _stage_rows, _stored, _values
from service.application.update_repositories import StoredRollout
from service.domain.rollout import Rollout

CREATED_AT = datetime(2030, 1, 1, tzinfo=UTC)


def restored(rollout: Rollout, plan: Plan) -> Rollout:
    """The rollout as the database gives it back: through its rows, and JSON where a column is JSON."""
    stored = StoredRollout(rollout, plan, created_at=CREATED_AT, created_by="test")
    fixed = {"rollout_id": rollout.rollout_id, "release_id": rollout.release_id, "group_id": rollout.group_id}
    kept = {"plan": plan.model_dump_json(), "undoes": None, "number": 1, "version": 1}
    row = SimpleNamespace(**fixed, **kept, created_at=CREATED_AT, created_by="test", **_values(stored))
    stages = [
        SimpleNamespace(**{**found, "causes": json.loads(json.dumps(found["causes"]))}) for found in _stage_rows(stored)
    ]
    return _stored(row, stages, {}).rollout  # type: ignore[arg-type]  # rows by their attributes
