"""Conditions on devices in SQL. Each test reads one range of an index: of devices with a value, or with an image."""

from typing import Any

from sqlalchemy import ColumnElement, and_, false, not_, or_, select, true

from service.adapters.database.device_tables import device_attributes
from service.adapters.database.prefixes import begins_with
from service.adapters.database.update_tables import installed_images
from service.domain.targets import Condition, Every, HasAttribute, Not, RunsImage, Some


def meets(condition: Condition, device_id: ColumnElement[Any], *, begins: str) -> ColumnElement[bool]:
    """Return the condition on a column of device ids.

    Args:
        condition: any.
        device_id: the column.
        begins: digits that the ids of all devices that are asked for begin with.
    """
    match condition:
        case HasAttribute(name, values):
            having = device_attributes.c
            found = select(having.device_id).where(having.name == name, having.value.in_(values))
            return device_id.in_(found.where(begins_with(having.device_id, begins)))
        case RunsImage(slot, digests):
            running = installed_images.c
            found = select(running.device_id).where(running.slot == slot, running.sha256.in_(digests))
            return device_id.in_(found.where(begins_with(running.device_id, begins)))
        case Every(parts):
            return and_(true(), *(meets(part, device_id, begins=begins) for part in parts))
        case Some(parts):
            return or_(false(), *(meets(part, device_id, begins=begins) for part in parts))
        case Not(part):
            return not_(meets(part, device_id, begins=begins))
