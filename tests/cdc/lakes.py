"""The lake as a local folder and as S3, for what must hold in both."""

from __future__ import annotations

import boto3
import pytest
from moto.server import ThreadedMotoServer

from resources.lake import Lake, LakeResource, open_lake
from stripe_platform.settings import load_settings


@pytest.fixture(scope="module")
def s3_endpoint():
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["local", "s3"])
def either_lake(request, tmp_path, monkeypatch) -> Lake:
    """The lake as the settings open it."""
    if request.param == "local":
        monkeypatch.setenv("STRIPE_PLATFORM_LAKE_URL", str(tmp_path / "lake"))
        return open_lake(load_settings())
    endpoint = request.getfixturevalue("s3_endpoint")
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"),
                        ("AWS_DEFAULT_REGION", "us-east-1"), ("STRIPE_PLATFORM_S3_ENDPOINT_URL", endpoint),
                        ("STRIPE_PLATFORM_LAKE_URL", f"s3://lake-{tmp_path.name.replace('_', '-')[:40]}/prefix")):
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=load_settings().lake.split("/")[2])
    return LakeResource().open()
