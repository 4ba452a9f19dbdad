"""Learning templates and learned states: bytes, states under a digest that is right, documents, payloads."""

import hashlib

from device_sim.learning.states import check_taken
from protocol.document import canonical_json, parse_document
from protocol.errors import ProtocolError
from protocol.geometry import Core
from protocol.learned_backup import LearnedOrder, LearnedOrders, LearnedUpload, OrderKind
from protocol.learned_state import LearnedPrototype, LearnedState, encode_state
from protocol.learning import encode_template, template_of
from protocol.model import ModelPackage
from protocol.payloads import parse_model
from tests.fuzz.target import Target
from tests.learning_template import COMPONENT, LAYOUT, learning_template, template_card, template_payload

_TEMPLATE = learning_template()
_CARD = template_card(_TEMPLATE)
_STATE = encode_state(
    LearnedState(
        component_id=COMPONENT,
        layout_sha256=LAYOUT.sha256,
        template_sha256=_TEMPLATE.sha256,
        features=18,
        windows=20,
        sensitivity=1.0,
        prototypes=(LearnedPrototype(20, (0.5,) * 18, (0.25,) * 18),) * 2,
    )
)
_ORDER = LearnedOrder(order_id=COMPONENT, core=Core.M4_1, kind=OrderKind.RESTORE, state=_STATE)


def _state(unverified: bytes) -> None:
    check_taken(unverified, _TEMPLATE, component_id=COMPONENT)


def _sealed_state(unverified: bytes) -> None:
    _state(unverified + hashlib.sha256(unverified).digest())


def _upload(unverified: bytes) -> None:
    _state(parse_document(unverified, LearnedUpload).state)


def _orders(unverified: bytes) -> None:
    parse_document(unverified, LearnedOrders)


def _template(unverified: bytes) -> None:
    template_of(ModelPackage(_CARD, unverified))


_ERRORS = (ProtocolError,)
TARGETS = (
    Target("learned-state", _state, _ERRORS, (_STATE,)),
    Target("learned-state-sealed", _sealed_state, _ERRORS, (_STATE[:-32],)),
    Target("learned-upload", _upload, _ERRORS, (canonical_json(LearnedUpload(core=Core.M4_1, state=_STATE)),)),
    Target("learned-orders", _orders, _ERRORS, (canonical_json(LearnedOrders(orders=(_ORDER,))),)),
    Target("learning-template", _template, _ERRORS, (encode_template(_TEMPLATE),)),
    Target("learning-payload", parse_model, _ERRORS, (template_payload(_TEMPLATE),)),
)
