"""One demo, interrupted when its release is signed; tests go on from copies of it."""

import signal

import pytest

from tests.e2e.demo_process import Interrupted, start_demo


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """A demo that got Ctrl-C while its devices ran; nothing of it runs any more."""
    demo = start_demo(tmp_path_factory.mktemp("interrupted") / "data")
    demo.wait_until(lambda: demo.has_done("release"))
    demo.process.send_signal(signal.SIGINT)
    _, errors = demo.process.communicate()
    demo.wait_until_gone()
    return Interrupted(demo.process.returncode, errors, demo.data_dir)
