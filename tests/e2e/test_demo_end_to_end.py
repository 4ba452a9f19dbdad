"""The whole demo through its own command: interrupted by Ctrl-C in its rollout, then continued to its end."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.demo_process import DEVICES, Interrupted, start_demo

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def data_dir(interrupted: Interrupted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the interrupted demo left behind."""
    return interrupted.copy_to(tmp_path_factory.mktemp("continued") / "data")


@pytest.fixture(scope="module")
def summary(data_dir: Path) -> dict[str, Any]:
    """Summary of the demo that went on where another was interrupted."""
    demo = start_demo(data_dir)
    result = demo.finish()
    assert demo.session() == set()
    return result


def test_ctrl_c_ends_the_demo_and_every_process(interrupted: Interrupted) -> None:
    """Ctrl-C ends with 130 and one line that says how to go on; nothing is left running."""
    assert interrupted.exit_code == 130
    assert interrupted.errors == "error: stopped before the demo was done; the same command goes on from here\n"


def test_every_device_gets_where_it_must(summary: dict[str, Any]) -> None:
    """One tampered device stops in its boot, one unlisted image is refused, the others are attested."""
    assert summary["devices"] == DEVICES
    assert (summary["attested"], summary["refused"], summary["stopped_in_boot"]) == (DEVICES - 2, 1, 1)


def test_good_release_reaches_every_attested_device(summary: dict[str, Any]) -> None:
    """The staged rollout finishes."""
    assert summary["rollout"] == {"state": "finished", "groups": 3, "succeeded": DEVICES - 2, "failed": 0}


def test_bad_release_stops_itself_at_the_canary(summary: dict[str, Any]) -> None:
    """One device was exposed and reverted by itself; the rollout halted by itself."""
    assert summary["bad_rollout"] == {"state": "halted", "exposed": 1, "reverted": 1}


def test_acknowledged_telemetry_is_stored(summary: dict[str, Any]) -> None:
    """Nothing that was acknowledged is missing, and everything sent was acknowledged at the end."""
    telemetry = summary["telemetry"]
    assert 0 < telemetry["acknowledged"] <= telemetry["stored"]
    assert telemetry["acknowledged"] <= telemetry["sent"]


def test_both_cores_infer_the_released_models(summary: dict[str, Any]) -> None:
    """Results of both models came home, with their modelled latency."""
    models = {core: facts["model"] for core, facts in summary["inference"].items()}
    assert models == {"m4-0": "person-detection@1.0.0", "m4-1": "image-classification@1.0.0"}
    assert all(facts["events"] > 0 and facts["p50_ms_m4"] > 0 for facts in summary["inference"].values())


def test_killed_demo_leaves_no_process(data_dir: Path, summary: dict[str, Any]) -> None:
    """After kill -9 of the demo itself its service and devices end too."""
    assert summary
    demo = start_demo(data_dir)
    demo.wait_until(lambda: len(demo.session()) > 2)
    demo.process.kill()
    demo.process.communicate()
    demo.wait_until_gone()
