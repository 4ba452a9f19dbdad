"""Plans to begin with. A file names one as `preset:` and says only what differs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

CAREFUL: Mapping[str, Any] = MappingProxyType(
    {
        "name": "careful",
        "description": "A canary by hand, then ever larger shares, each watched for a day or more.",
        "stages": [
            {"count": 10, "soak": "4h", "resolved": 1.0},
            {"percent": 1, "soak": "26h", "resolved": 0.8},
            {"percent": 10, "soak": "26h", "resolved": 0.8},
            {"percent": 50, "soak": "26h", "resolved": 0.8},
            {"percent": 100},
        ],
        "pace": {"per_minute": 5, "growth": 1.5, "every": 100, "most_per_minute": 1000},
        "gates": {
            "kind": "evidence",
            "alpha": 0.01,
            "beta": 0.01,
            "failures": [
                {"name": "failures", "acceptable": 0.02, "worst": 0.05, "weight": 1},
                {
                    "name": "broken",
                    "causes": ["boot", "golden-vectors", "hang", "crash"],
                    "acceptable": 0.005,
                    "worst": 0.03,
                    "weight": 2,
                },
            ],
            "control": [{"name": "health", "events": ["drift", "crash"], "tolerated": 1.5, "weight": 1}],
        },
        "device_timeout": "1d",
        "retries": {"most": 2, "pause": "1h", "causes": ["download", "flash"]},
        "roll_back": True,
    }
)
STANDARD: Mapping[str, Any] = MappingProxyType(
    {
        "name": "standard",
        "description": "A percent, a tenth, everybody, each watched for hours.",
        "stages": [
            {"percent": 1, "soak": "2h", "resolved": 0.8},
            {"percent": 10, "soak": "4h", "resolved": 0.8},
            {"percent": 100},
        ],
        "pace": {"per_minute": 100, "growth": 2, "every": 500, "most_per_minute": 5000},
        "gates": {"kind": "evidence", "alpha": 0.01, "beta": 0.05},
        "device_timeout": "1d",
    }
)
EMERGENCY: Mapping[str, Any] = MappingProxyType(
    {
        "name": "emergency",
        "description": "For a hole that is being used: one short look, then everybody.",
        "stages": [{"percent": 2, "soak": "10m", "resolved": 0.5}, {"percent": 100}],
        "gates": {
            "kind": "evidence",
            "alpha": 0.01,
            "beta": 0.1,
            "failures": [{"acceptable": 0.05, "worst": 0.15}],
        },
        "device_timeout": "6h",
    }
)
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"careful": CAREFUL, "standard": STANDARD, "emergency": EMERGENCY}
)


def merge_preset(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan's content with what its `preset` says and it does not; whole keys, nothing is merged within one.

    Raises:
        ValueError: there is no such preset.
    """
    name = content.get("preset")
    if name is None:
        return dict(content)
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, found {str(name)[:40]!r}")
    own = {key: value for key, value in content.items() if key != "preset"}
    return {**PRESETS[name], **own}
