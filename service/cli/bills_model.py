"""What a model card says, as CycloneDX's model card (ML-BOM): task, tensors, figures, data, what to mind.

Its data become components of their own, as far as the card names them: what it was trained and evaluated on, and the
golden vectors that it answered.
"""

from collections.abc import Iterator

from cyclonedx.spdx import is_expression, is_supported_id

from protocol.cyclonedx import (
    BomModelCard,
    Component,
    ComponentType,
    Considerations,
    DataReference,
    Dataset,
    Hash,
    Licence,
    LicenceChoice,
    ModelParameters,
    PerformanceMetric,
    Property,
    QuantitativeAnalysis,
    TensorFormat,
)
from protocol.model import ModelCard, ModelKind

TASKS = {  # a card has a label for each output value
    ModelKind.TFLITE: "classification",
    ModelKind.ANOMALY_TEMPLATE: "anomaly detection, learned on the device",
}


def described(component: Component, card: ModelCard) -> Component:
    """Return a model's component with what its card says."""
    return component.model_copy(
        update={
            "description": card.description or None,
            "licenses": tuple(licences(card.licence)),
            "model_card": BomModelCard(
                model_parameters=_parameters(card),
                quantitative_analysis=QuantitativeAnalysis(performance_metrics=tuple(_figures(card))),
                considerations=Considerations(technical_limitations=tuple(_limits(card))),
                properties=tuple(_measured(card)),
            ),
        }
    )


def data_components(card: ModelCard) -> Iterator[Component]:
    """Yield the data that a card names."""
    for reference, notes in (("data-trained-on", card.trained_on), ("data-evaluated-on", card.evaluated_on)):
        if notes:
            name = reference.removeprefix("data-").replace("-", " ")
            data = Dataset(type="dataset", name=name, description=notes)
            yield Component(type=ComponentType.DATA, bom_ref=reference, name=f"{card.name}: {name}", data=(data,))
    if card.golden is not None:
        yield Component(
            type=ComponentType.DATA,
            bom_ref="data-golden-vectors",
            name=f"{card.name}: golden vectors",
            hashes=(Hash(alg="SHA-256", content=card.golden.sha256),),
            data=(Dataset(type="dataset", name="golden vectors"),),
        )


def licences(text: str) -> Iterator[LicenceChoice]:
    """Yield a licence that somebody wrote: an SPDX id or expression where it is one, else its name."""
    if is_supported_id(text):
        yield LicenceChoice(license=Licence(id=text))
    elif text and is_expression(text):
        yield LicenceChoice(expression=text)
    elif text:
        yield LicenceChoice(license=Licence(name=text))


def _parameters(card: ModelCard) -> ModelParameters:
    tensor = None if card.output is None else _tensor(card.output.dtype, card.output.shape)
    labels = f"one value for each of {', '.join(card.labels)}"
    return ModelParameters(
        task=TASKS[card.kind],
        datasets=tuple(DataReference(ref=each.bom_ref or "") for each in data_components(card)),
        inputs=(TensorFormat(format=_tensor(card.input.dtype, card.input.shape)),),
        outputs=(TensorFormat(format=labels if tensor is None else f"{tensor}: {labels}"),),
    )


def _tensor(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def _figures(card: ModelCard) -> Iterator[PerformanceMetric]:
    for figure in card.evaluation:
        on = f"{figure.dataset}, {figure.samples} samples"
        yield PerformanceMetric(type=figure.metric, value=f"{figure.value:g}", slice=on)
    for latency in card.latency:
        yield PerformanceMetric(type="predicted latency, ms", value=f"{latency.milliseconds:g}", slice=latency.profile)


def _limits(card: ModelCard) -> Iterator[str]:
    if card.licence_notes:
        yield f"Licence: {card.licence_notes}"
    for name, versions in card.requires.items():
        yield f"Requires {name} {versions} beside it."


def _measured(card: ModelCard) -> Iterator[Property]:
    yield Property(name="tinyfleet:core", value=card.core.value)
    for name, value in card.measured.model_dump().items():
        yield Property(name=f"tinyfleet:{name.replace('_', '-')}", value=str(value))
