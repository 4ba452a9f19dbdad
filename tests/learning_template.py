"""Learning templates of tests, and model packages' payloads of them."""

from protocol.feature_layout import FeatureLayout
from protocol.geometry import Core
from protocol.learning import LABELS, LearningTemplate, Prototype, StatePolicy, encode_template, ram_bytes
from protocol.model import InputContract, Measured, ModelCard, ModelKind, compose_model_payload
from protocol.sensing import SensorKind, SignalContract

COMPONENT = "6f1e2d3c-0000-4000-8000-000000000001"
LAYOUT = FeatureLayout(window_samples=256, rate_hz=3200, bands=16, low_hz=12.5, high_hz=1600)


def learning_template(
    *,
    layout: FeatureLayout = LAYOUT,
    warm_up: int = 20,
    policy: StatePolicy = StatePolicy.KEEP,
    sensitivity: float = 1.0,
    prior: tuple[Prototype, ...] = (),
    max_prototypes: int = 8,
) -> LearningTemplate:
    return LearningTemplate(
        layout=layout,
        max_prototypes=max_prototypes,
        warm_up_windows=warm_up,
        policy=policy,
        sensitivity=sensitivity,
        prior=prior,
    )


def template_card(
    template: LearningTemplate, *, version: str = "1.0.0", core: Core = Core.M4_1, component: str = COMPONENT
) -> ModelCard:
    layout = template.layout
    signal = SignalContract(sample_rate_hz=layout.rate_hz, window_samples=layout.window_samples)
    arena = ram_bytes(layout, max_prototypes=template.max_prototypes)
    return ModelCard(
        name="vibration",
        version=version,
        component_id=component,
        core=core,
        kind=ModelKind.ANOMALY_TEMPLATE,
        input=InputContract(
            shape=(layout.window_samples,), dtype="float32", sensor=SensorKind.ACCELEROMETER, signal=signal
        ),
        labels=LABELS,
        measured=Measured(model_bytes=len(encode_template(template)), arena_bytes=arena, macs=0),
    )


def template_payload(template: LearningTemplate, card: ModelCard | None = None) -> bytes:
    return compose_model_payload(card or template_card(template), encode_template(template))
