"""Documents that people write as YAML: the part of YAML that JSON has, and no more of it.

Aliases are refused (a few of them make a document of any size), and so are keys twice (the last would win in silence),
keys that are no text, tags, and numbers that JSON lacks. Dates stay text, as they are in JSON.
"""

import math
from typing import Any, NoReturn

import yaml
from typing_extensions import override

from protocol.document import MAX_DOCUMENT_BYTES, DocumentError

_TAG = "tag:yaml.org,2002:"
_TEXT, _TIMESTAMP, _FLOAT = _TAG + "str", _TAG + "timestamp", _TAG + "float"
_PLAIN = frozenset(_TAG + name for name in ("null", "bool", "int", "str", "seq", "map"))


class _JsonLoader(yaml.SafeLoader):
    """Reads what JSON could say as well."""

    @override
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            _refuse("expected no alias, found one", self.peek_event().start_mark)  # type: ignore[no-untyped-call] # PyYAML's
        return super().compose_node(parent, index)

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _value in node.value:
            if key.tag != _TEXT:
                _refuse("expected text as key, in quotes where it looks like a number", key.start_mark)
            if key.value in names:
                _refuse(f"expected each key once, found {key.value[:40]!r} twice", key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_finite(self, node: yaml.ScalarNode) -> float:
        number = self.construct_yaml_float(node)
        if not math.isfinite(number):
            _refuse("expected a finite number, found another", node.start_mark)
        return number


_JsonLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_JsonLoader.yaml_constructors = {
    tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in _PLAIN
}
_JsonLoader.add_constructor(_FLOAT, _JsonLoader.construct_finite)


def parse_yaml_keys(unverified: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> dict[str, object]:
    """Return the keys of a YAML or JSON document; none of an empty one.

    Args:
        unverified: the document, UTF-8 or UTF-16.
        max_bytes: of it; tested before anything is read.

    Raises:
        DocumentError: too long, not YAML, or something else than keys; says where.
    """
    if len(unverified) > max_bytes:
        raise DocumentError(f"expected at most {max_bytes} bytes, found {len(unverified)}")
    try:
        loader = _JsonLoader(unverified)
        node = loader.get_single_node()
        content = {} if node is None else loader.construct_document(node)
    except RecursionError:
        raise DocumentError("expected YAML of a few levels, found a deep one") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a number of thousands of digits
        raise DocumentError(f"expected YAML, found {error}") from error
    if not isinstance(content, dict):
        raise DocumentError(f"expected keys, found {type(content).__name__}")
    return content


def _refuse(text: str, mark: yaml.Mark) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=text, problem_mark=mark)
