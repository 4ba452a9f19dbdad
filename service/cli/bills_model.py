"""What a model card says, as CycloneDX's model card (ML-BOM): task, tensors, figures, data, what to mind."""

from collections.abc import Iterator

from cyclonedx.spdx import is_expression, is_supported_id

from protocol.cyclonedx import (
    BomModelCard,
    Component,
    Licence,
    LicenceChoice,
    ModelParameters,
    Property,
    TensorFormat,
)
from protocol.model import ModelCard

TASK = "classification"  # a card has a label for each output value


def described(component: Component, card: ModelCard) -> Component:
    """Return a model's component with what its card says."""
    return component.model_copy(
        update={
            "description": card.description or None,
            "licenses": tuple(licences(card.licence)),
            "model_card": BomModelCard(
                model_parameters=_parameters(card),
                properties=tuple(_measured(card)),
            ),
        }
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
    return ModelParameters(
        task=TASK,
        inputs=(TensorFormat(format=_tensor(card.input.dtype, card.input.shape)),),
        outputs=(TensorFormat(format=f"one value for each of {', '.join(card.labels)}"),),
    )


def _tensor(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def _measured(card: ModelCard) -> Iterator[Property]:
    yield Property(name="tinyfleet:core", value=card.core.value)
    for name, value in card.measured.model_dump().items():
        yield Property(name=f"tinyfleet:{name.replace('_', '-')}", value=str(value))
