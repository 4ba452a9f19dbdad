"""What OpenSSL makes of a proof of possession: it leads to the catalog's root and is good for nothing else."""

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.adapters.certificates import load_authorities
from service.adapters.possession import PkiPossessionProver
from tests.service_folder import make_folders

NONCE = "3F5A-nonce.of+an/IoT=Hub_verification:code"


class MachineClock:
    """openssl goes by the machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - see above


@dataclass(frozen=True, slots=True)
class Files:
    """The proof, and the chain of `tinyfleet catalog certificate`."""

    proof: Path
    chain: Path

    def verify(self, *options: str) -> subprocess.CompletedProcess[str]:
        return _openssl("verify", "-CAfile", str(self.chain), *options, str(self.proof))


def _openssl(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["openssl", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    prover = PkiPossessionProver(load_authorities(make_folders(tmp_path).service), MachineClock())
    proof = prover.prove(NONCE)
    files = Files(tmp_path / "proof.pem", tmp_path / "chain.pem")
    files.proof.write_text(proof.certificate_pem)
    files.chain.write_text(proof.chain_pem)
    return files


def test_proof_chains_to_the_catalogs_root(files: Files) -> None:
    """With the chain that the operator downloaded."""
    assert files.verify("-x509_strict").stdout.strip().endswith("OK")


def test_common_name_is_the_nonce(files: Files) -> None:
    """As the system that asked for it reads it."""
    subject = _openssl("x509", "-in", str(files.proof), "-noout", "-subject", "-nameopt", "multiline").stdout
    assert NONCE in subject


@pytest.mark.parametrize("purpose", ["sslclient", "sslserver", "smimesign", "smimeencrypt", "timestampsign"])
def test_proof_authenticates_nothing(purpose: str, files: Files) -> None:
    """No purpose of an end entity that OpenSSL checks."""
    refused = files.verify("-purpose", purpose)
    assert refused.returncode != 0
    assert "unsuitable certificate purpose" in refused.stderr


def test_proof_is_no_authority(files: Files) -> None:
    """It certifies nobody, and ends within the hour."""
    text = _openssl("x509", "-in", str(files.proof), "-noout", "-text").stdout
    assert "CA:FALSE" in text
    assert _openssl("x509", "-in", str(files.proof), "-noout", "-checkend", "3700").returncode == 1
