"""The Hugging Face hub, and the mirrors that speak its protocol."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.config.schema import Model
from launcher.errors import ModelError
from launcher.models.hub import CachedModel, needed_files, not_a_hub, prepare_library, unreachable
from launcher.models.weights import weights_problem

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

# Statuses that speak of the hub's own trouble, not of the request.
HUB_TROUBLE = {408, 429, 500, 502, 503, 504}


class HuggingFaceHub:
    """``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and the proxy variables are honoured by the library itself."""

    def __init__(self, model: Model) -> None:
        # The library's Xet transfer ignores mirrors and is known to hang (huggingface/xet-core issues 470 and 883); plain
        # HTTP goes on where it broke off and has read timeouts.
        prepare_library(HF_HUB_DISABLE_XET="1")
        from huggingface_hub import HfApi

        self._id = model.id
        self._revision = model.revision
        self._cache_dir = model.hub.cache_dir
        self._allow_pickle = model.allow_pickle
        self._timeout_s = model.hub.timeout_s
        self._api = HfApi(endpoint=model.hub.endpoint and model.hub.endpoint.rstrip("/"))
        self.endpoint = self._api.endpoint

    def cached(self) -> CachedModel | None:
        from huggingface_hub import get_cached_repo_tree, snapshot_download
        from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(
                snapshot_download(
                    self._id,
                    revision=self._revision,
                    cache_dir=self._cache_dir,
                    local_files_only=True,
                    allow_patterns=["config.json"],
                )
            )
            tree = get_cached_repo_tree(self._id, revision=folder.name, cache_dir=self._cache_dir)
        except LocalEntryNotFoundError:
            return None
        except HFValidationError as error:
            raise ModelError(f"model.id {self._id!r} is neither a folder nor a hub id like BAAI/bge-large-zh-v1.5") from error
        except CachedRepoTreeNotFoundError:
            # Other programs fetch single files, so that a copy may lack some.
            present = {file.name for file in folder.iterdir()}
            return None if weights_problem(present, self._allow_pickle) else CachedModel(folder, is_whole=False)
        needed = needed_files([file.path for file in tree])
        return CachedModel(folder, is_whole=True) if all((folder / name).exists() for name in needed) else None

    def list_files(self) -> Collection[str]:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            info = self._api.model_info(self._id, revision=self._revision, timeout=self._timeout_s)
        except HfHubHTTPError as error:
            if "json" not in error.response.headers.get("Content-Type", ""):
                raise not_a_hub(self.endpoint, error.response.status_code) from error
            raise self._refusal(error) from error
        except transport_error() as error:
            raise unreachable(self.endpoint, str(error) or type(error).__name__) from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise not_a_hub(self.endpoint, 200) from error
        return [file.rfilename for file in info.siblings or []]

    def download(self, names: Collection[str]) -> Path:
        from huggingface_hub.errors import HfHubHTTPError

        limit_silence()
        try:
            folder = self._api.snapshot_download(
                self._id,
                revision=self._revision,
                cache_dir=self._cache_dir,
                allow_patterns=list(names),
            )
        except HfHubHTTPError as error:
            raise self._refusal(error) from error
        except (transport_error(), OSError) as error:
            raise ModelError(
                f"the download of {self._id} from {self.endpoint} stopped: {error or type(error).__name__}; "
                "start again to go on from there"
            ) from error
        return Path(folder)

    def _refusal(self, error: HfHubHTTPError) -> ModelError:
        from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

        status = error.response.status_code
        what = f"{self._id} (revision {self._revision or 'main'}) on {self.endpoint}"
        if status in HUB_TROUBLE:
            return unreachable(self.endpoint, f"it answered with status {status}")
        if isinstance(error, RevisionNotFoundError):
            return ModelError(f"{what}: no such revision; correct model.revision")
        if status in (401, 403) or isinstance(error, GatedRepoError):
            return ModelError(
                f"{what}: refused with status {status} by {error.response.url.host}: it is private or gated, or does not "
                "exist; correct model.id, or set HF_TOKEN to the token of an account that may read it"
            )
        if status == 404:
            return ModelError(f"{what}: no such model; correct model.id (private ones need HF_TOKEN)")
        return ModelError(f"{what}: the hub answered with status {status}: {error}")


def limit_silence() -> None:
    """Let no request of the library wait longer than ``HF_HUB_DOWNLOAD_TIMEOUT`` (10 s unless set).

    Of itself it does so only within a file; it lists a repository without any timeout, and asks for each file's size six
    times with 60 s.
    """
    from huggingface_hub import close_session, constants, get_session

    def limit(request: Any) -> None:
        longest = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        waits: dict[str, float | None] = request.extensions["timeout"]
        request.extensions["timeout"] = {what: min(seconds or longest, longest) for what, seconds in waits.items()}

    close_session()
    get_session().event_hooks["request"].append(limit)


def transport_error() -> type[Exception]:
    """What the library's HTTP client raises without an answer: httpx's base class in versions 1.x, httpx2's in 2.x."""
    from huggingface_hub.errors import HfHubHTTPError

    base = HfHubHTTPError.__bases__[0]
    assert issubclass(base, Exception)
    return base
