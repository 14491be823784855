"""The ModelScope hub."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.config.schema import Model
from launcher.errors import ModelError
from launcher.models.files import read_object
from launcher.models.hub import CachedModel, not_a_hub, prepare_library, unreachable
from launcher.models.weights import weights_problem

if TYPE_CHECKING:
    from modelscope_hub import FileInfo, HubError


class ModelScopeHub:
    """``MODELSCOPE_ENDPOINT``, ``MODELSCOPE_API_TOKEN``, ``MODELSCOPE_CACHE`` and the proxy variables are honoured by the
    library itself.

    The library does not record which files belong to a revision, so that is noted next to its cache after a download.
    """

    def __init__(self, model: Model) -> None:
        # The library's own figures keep a start waiting for minutes: 4 listings with growing pauses, and 60 s of silence for
        # each of 6 tries at a file.
        prepare_library(MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS="1", MODELSCOPE_DOWNLOAD_TIMEOUT="10")
        from modelscope_hub import HubApi, HubConfig

        if model.id.count("/") != 1:
            raise ModelError(f"model.id {model.id!r} is neither a folder nor a hub id like BAAI/bge-large-zh-v1.5")
        config = HubConfig(endpoint=model.hub.endpoint)
        if model.hub.cache_dir is not None:
            config.cache_dir = Path(model.hub.cache_dir).expanduser()
        self._id = model.id
        self._revision = model.revision or "master"
        self._allow_pickle = model.allow_pickle
        self._api = HubApi(config)
        self._listing: list[FileInfo] = []
        self._record = config.cache_dir / "sgl-embed" / "modelscope" / f"{model.id.replace('/', '--')}@{self._revision}.json"
        self.endpoint: str = config.endpoint

    def cached(self) -> CachedModel | None:
        from modelscope_hub import CacheNotFound

        try:
            folder = self._api.download_repo(self._id, "model", revision=self._revision, local_files_only=True)
        except CacheNotFound:
            return None
        recorded = self._recorded_sizes()
        # The library also finds the folders of its older versions, which hold whatever revision came last.
        if recorded is not None and folder.name == self._revision:
            whole = all(_size(folder / name) == size for name, size in recorded.items())
            return CachedModel(folder, is_whole=True) if whole else None
        present = {file.name for file in folder.iterdir()}
        return None if weights_problem(present, self._allow_pickle) else CachedModel(folder, is_whole=False)

    def list_files(self) -> Collection[str]:
        from modelscope_hub import APIError, HubError

        try:
            listing = self._api.list_repo_files(self._id, "model", revision=self._revision)
        except APIError as error:
            if not isinstance(error.response_body, dict):
                raise not_a_hub(self.endpoint, error.status_code) from error
            raise self._refusal(error) from error
        except HubError as error:
            raise self._refusal(error) from error
        except ValueError as error:
            raise not_a_hub(self.endpoint, 200) from error
        self._listing = [file for file in listing if file.type != "tree"]
        return [file.path for file in self._listing]

    def download(self, names: Collection[str]) -> Path:
        from modelscope_hub import FileDownloadError, HubError

        wanted = [file for file in self._listing if file.path in names]
        try:
            folder: Path = self._api.download_repo(
                self._id,
                "model",
                revision=self._revision,
                file_list=[{"Path": file.path, "Size": file.size or None, "Sha256": file.sha256} for file in wanted],
            )
        except (HubError, OSError) as error:
            failed = error.failed_files.values() if isinstance(error, FileDownloadError) else ()
            raise self._stopped(next(iter(failed), error)) from error
        self._write_record({name: (folder / name).stat().st_size for name in names})
        return folder

    def _recorded_sizes(self) -> dict[str, int] | None:
        return dict(read_object(self._record)) if self._record.exists() else None

    def _write_record(self, sizes: dict[str, int]) -> None:
        self._record.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._record.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(sizes), encoding="utf-8")
        unfinished.replace(self._record)

    def _refusal(self, error: HubError) -> ModelError:
        from modelscope_hub import APIError, AuthenticationError, NotExistError, PermissionDeniedError

        what = f"{self._id} (revision {self._revision}) on {self.endpoint}"
        if isinstance(error, AuthenticationError | PermissionDeniedError):
            return ModelError(
                f"{what}: refused with status {error.status_code}: it is private, or does not exist; "
                "correct model.id, or set MODELSCOPE_API_TOKEN to the token of an account that may read it"
            )
        if isinstance(error, NotExistError):
            return ModelError(f"{what}: no such model or revision; correct model.id or model.revision")
        if isinstance(error, APIError) and not error.retryable:
            return ModelError(f"{what}: the hub answered with status {error.status_code}: {error.message}")
        return unreachable(self.endpoint, str(error).splitlines()[0])

    def _stopped(self, error: BaseException) -> ModelError:
        from modelscope_hub import AuthenticationError, PermissionDeniedError

        if isinstance(error, AuthenticationError | PermissionDeniedError):
            return self._refusal(error)
        return ModelError(
            f"the download of {self._id} from {self.endpoint} stopped: {str(error).splitlines()[0]}; "
            "start again to go on from there"
        )


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.exists() else None
