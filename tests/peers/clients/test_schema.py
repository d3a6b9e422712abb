"""Requests made up from our own OpenAPI: none fails the server, and answers are as it says."""

import subprocess
import sys
from pathlib import Path

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "response_headers_conformance", "allow_header_conformance"),
)
SECONDS = 60


def test_schemathesis(address: str, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"),
        *("--header", "Authorization: Bearer secret", "--checks", ",".join(CHECKS)),
        *("--phases", "coverage,fuzzing", "--max-examples", "20", "--seed", "1"),
        *("--max-time", str(SECONDS), "--continue-on-failure", "--warnings", "off"),
    ]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=4 * SECONDS, cwd=tmp_path
    )
    assert found.returncode == 0, found.stdout + found.stderr
