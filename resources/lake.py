"""The lake: immutable files under slash-separated paths, in a local folder or an S3 bucket.

A `put` that returned is durable, a reader sees a whole file or none, and `put_if_absent` is the one conditional
write that manifests build on. Paths are relative to the lake's root, never absolute.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import dagster as dg
import pyarrow as pa

from stripe_platform.settings import Settings, load_settings

FSYNC_THREADS = 4  # parallel fsyncs share journal commits: ten files cost about as much as three


class LakeError(RuntimeError):
    """The lake cannot be reached or a file in it is missing; the message names the file and the remedy."""


class Lake(Protocol):
    """Where change batches, daily files and snapshots live."""

    url: str

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write or replace one file. `durable=False` for what can be derived again: no wait for the disk."""

    def put_files(self, files: Mapping[str, Path], *, durable: bool = True) -> None:
        """Move local files (in `scratch()`) to their paths; all are durable on return."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a file only if none is there, durably; False when one was."""

    def read(self, path: str) -> bytes:
        """Content of a file; `LakeError` when it is missing."""

    def open(self, path: str) -> pa.NativeFile:
        """Random access for Arrow readers; `LakeError` when it is missing."""

    def size(self, path: str) -> int | None:
        """Bytes of a file, None when it is missing."""

    def list(self, prefix: str) -> list[str]:
        """Paths of all files below the folder `prefix`, sorted."""

    def delete(self, path: str) -> None:
        """Remove a file; a missing one is fine."""

    def prune(self, prefix: str) -> None:
        """Remove folders below `prefix` that deletes left empty; only where nobody writes there meanwhile."""

    def local_path(self, path: str) -> Path:
        """A local file with the content, for readers that know only files (DuckDB); S3 content is fetched once."""

    def scratch(self) -> Path:
        """Folder for files in the making, on the file system `put_files` moves from."""

    def below(self, prefix: str) -> Lake:
        """The part of this lake below a folder, as a lake of its own."""


def _checked(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise LakeError(f"lake path {path!r} must be relative and stay inside the lake")
    return str(pure)


class LocalLake:
    """A folder: temporary file, fsync, rename, fsync of the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.url = str(self.root)

    def below(self, prefix: str) -> LocalLake:
        return LocalLake(self.root / _checked(prefix))

    def _target(self, path: str) -> Path:
        target = self.root / _checked(path)
        if not target.parent.is_dir():
            missing = [p for p in (target.parent, *target.parent.parents) if not p.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            for folder in missing:  # a new folder is durable only when its parent is
                _fsync(folder.parent)
        return target

    def scratch(self) -> Path:
        folder = self.root / ".scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _write_scratch(self, data: bytes, *, durable: bool) -> Path:
        temporary = self.scratch() / uuid.uuid4().hex
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        return temporary

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        target = self._target(path)
        self._write_scratch(data, durable=durable).replace(target)
        if durable:
            _fsync(target.parent)

    def put_files(self, files: Mapping[str, Path], *, durable: bool = True) -> None:
        if durable and len(files) > 1:
            with ThreadPoolExecutor(min(FSYNC_THREADS, len(files))) as pool:
                list(pool.map(_fsync, files.values()))
        elif durable:
            for local in files.values():
                _fsync(local)
        folders = set()
        for path, local in files.items():
            target = self._target(path)
            local.replace(target)
            folders.add(target.parent)
        for folder in sorted(folders) if durable else ():
            _fsync(folder)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        target = self._target(path)
        temporary = self._write_scratch(data, durable=True)
        try:
            os.link(temporary, target)  # link, unlike rename, refuses an existing name
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _fsync(target.parent)
        return True

    def read(self, path: str) -> bytes:
        try:
            return (self.root / _checked(path)).read_bytes()
        except FileNotFoundError:
            raise _missing(self.url, path) from None

    def open(self, path: str) -> pa.NativeFile:
        try:
            return pa.memory_map(str(self.root / _checked(path)))
        except FileNotFoundError:
            raise _missing(self.url, path) from None

    def size(self, path: str) -> int | None:
        try:
            return (self.root / _checked(path)).stat().st_size
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> list[str]:
        base = self.root / _checked(prefix)
        return sorted(str(p.relative_to(self.root)) for p in base.rglob("*") if p.is_file())

    def delete(self, path: str) -> None:
        (self.root / _checked(path)).unlink(missing_ok=True)

    def prune(self, prefix: str) -> None:
        for folder, _folders, _files in os.walk(self.root / _checked(prefix), topdown=False):
            with suppress(OSError):  # not empty
                Path(folder).rmdir()

    def local_path(self, path: str) -> Path:
        target = self.root / _checked(path)
        if not target.exists():
            raise _missing(self.url, path)
        return target


class S3Lake:
    """A bucket and prefix; a finished PUT is durable, `If-None-Match: *` makes it conditional."""

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix.strip("/")
        self.url = f"s3://{bucket}/{self._prefix}".rstrip("/")
        self._scratch: Path | None = None

    def below(self, prefix: str) -> S3Lake:
        return S3Lake(self._client, self._bucket, f"{self._prefix}/{_checked(prefix)}")

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{_checked(path)}" if self._prefix else _checked(path)

    def scratch(self) -> Path:
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="stripe-platform-lake-"))
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        return self._scratch

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:  # noqa: ARG002 (S3 always is)
        self._client.put_object(Bucket=self._bucket, Key=self._key(path), Body=data)

    def put_files(self, files: Mapping[str, Path], *, durable: bool = True) -> None:  # noqa: ARG002
        for path, local in files.items():
            self._client.upload_file(str(local), self._bucket, self._key(path))
            local.unlink()

    def put_if_absent(self, path: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._client.put_object(Bucket=self._bucket, Key=self._key(path), Body=data, IfNoneMatch="*")
        except ClientError as error:
            # 409 is a concurrent conditional PUT of the same name that is still deciding: not ours either.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                return False
            raise
        return True

    def read(self, path: str) -> bytes:
        try:
            return self._client.get_object(Bucket=self._bucket, Key=self._key(path))["Body"].read()
        except self._client.exceptions.NoSuchKey:
            raise _missing(self.url, path) from None

    def open(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(self.read(path))

    def size(self, path: str) -> int | None:
        from botocore.exceptions import ClientError

        try:
            return self._client.head_object(Bucket=self._bucket, Key=self._key(path))["ContentLength"]
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise

    def list(self, prefix: str) -> list[str]:
        start = len(self._prefix) + 1 if self._prefix else 0
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._key(prefix) + "/")
        return sorted(item["Key"][start:] for page in pages for item in page.get("Contents", ()))

    def delete(self, path: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=self._key(path))

    def prune(self, prefix: str) -> None:
        """Nothing: a bucket has no folders."""

    def local_path(self, path: str) -> Path:
        local = self.scratch() / "fetched" / _checked(path)
        if not local.exists():
            local.parent.mkdir(parents=True, exist_ok=True)
            temporary = local.with_name(f"{local.name}.{uuid.uuid4().hex}")
            temporary.write_bytes(self.read(path))
            temporary.replace(local)
        return local


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _missing(url: str, path: str) -> LakeError:
    return LakeError(f"{path} is missing in the lake {url}: restore it from a backup, or materialize its asset again")


def open_lake(settings: Settings, *, s3_client: Any = None) -> Lake:
    """The lake of these settings: `s3://bucket/prefix` through dagster-aws, anything else a local folder."""
    if not settings.lake.startswith("s3://"):
        return LocalLake(Path(settings.lake))
    if s3_client is None:
        from dagster_aws.s3 import S3Resource

        s3_client = S3Resource(endpoint_url=settings.s3_endpoint_url).get_client()
    bucket, _, prefix = settings.lake.removeprefix("s3://").partition("/")
    return S3Lake(s3_client, bucket, prefix)


class LakeResource(dg.ConfigurableResource):
    """The lake as a Dagster resource; without config it follows the settings, read when it is used."""

    url: str | None = None
    s3_endpoint_url: str | None = None

    def open(self) -> Lake:
        own = {"lake_url": self.url, "s3_endpoint_url": self.s3_endpoint_url}
        return open_lake(load_settings().model_copy(update={name: value for name, value in own.items() if value}))
