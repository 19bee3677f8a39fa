"""Files of a Hugging Face Hub repository, through huggingface_hub, which is imported only here and only when needed.

Its cache, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and stored logins all count. Its errors become one plain sentence each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from planner.errors import InputError
from planner.text import printable

_REPO_ID = re.compile(r"(?:[\w][\w.-]{0,95}/)?[\w][\w.-]{0,95}", re.ASCII)
_TIMEOUT_SECONDS = 10


def is_repo_id(name: str) -> bool:
    """Whether the Hub could have a repository of this name: `org/name`, or a bare `name` from its early days."""
    return bool(_REPO_ID.fullmatch(name)) and "--" not in name and ".." not in name and not name.endswith(".git")


def hub_file(
    repo: str,
    filename: str,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    token: str | None = None,
    max_bytes: int,
    optional: bool = False,
) -> Path | None:
    """A file of a model repository, from the cache when its newest version is there.

    None where the repository has no such file, and for an `optional` one that is not cached while the Hub may not or
    cannot be asked. InputError for everything else that goes wrong.
    """
    with plain_errors(repo, revision):
        import huggingface_hub as hub
        from huggingface_hub import errors

        def from_cache() -> Path:
            return Path(hub.hf_hub_download(repo, filename, revision=revision, local_files_only=True))

        if is_offline(offline):
            try:
                return from_cache()
            except errors.LocalEntryNotFoundError:
                if optional:
                    return None
                raise
        try:
            # Asked first: it gives the size before the download, and does not retry for half a minute without network.
            found = hub.get_hf_file_metadata(
                hub.hf_hub_url(repo, filename, revision=revision), token=token, timeout=_TIMEOUT_SECONDS
            )
            if found.commit_hash is None or found.etag is None:
                raise errors.FileMetadataError(f"{filename} came without the Hub's headers")
        except errors.RemoteEntryNotFoundError:
            return None
        except Exception as error:
            if not is_unreachable(error):
                raise
            try:
                return from_cache()
            except errors.LocalEntryNotFoundError:
                if optional:
                    return None
                raise error from None
        if found.size is not None and found.size > max_bytes:
            raise InputError(
                f"{repo}: its {filename} has {found.size >> 20} MiB, more than the {max_bytes >> 20} MiB that are read"
            )
        # The download writes down which commit a branch is at, so a cached file counts only if that is up to date too.
        path = hub.try_to_load_from_cache(repo, filename, revision=revision)
        newest = hub.try_to_load_from_cache(repo, filename, revision=found.commit_hash)
        cached = Path(path) if isinstance(path, str) and path == newest else None
        if cached is not None and found.size in (None, cached.stat().st_size):
            return cached
        with quiet():
            return Path(
                hub.hf_hub_download(
                    repo,
                    filename,
                    revision=revision,
                    token=token,
                    etag_timeout=_TIMEOUT_SECONDS,
                    force_download=cached is not None,  # it was cut short
                )
            )


def is_offline(offline: bool | None) -> bool:
    """What was asked for, else what HF_HUB_OFFLINE says."""
    if offline is not None:
        return offline
    from huggingface_hub.constants import is_offline_mode

    return is_offline_mode()


def is_unreachable(error: BaseException) -> bool:
    """Whether the Hub could not be asked, as opposed to having answered no."""
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    if isinstance(error, FileMetadataError):
        return True
    return type(error).__module__.startswith("http") or isinstance(error, (ConnectionError, TimeoutError))


@contextmanager
def plain_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except ImportError:
        raise InputError(
            f"{repo}: reading from the Hugging Face Hub needs the package huggingface_hub; "
            "install it, or pass a folder or a config.json"
        ) from None
    except Exception as error:  # noqa: BLE001 - httpx, OS and client errors alike
        raise InputError(f"{printable(repo)}: {_sentence(error, repo, revision)}") from None


def _sentence(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    endpoint = printable(constants.ENDPOINT)
    page = f"{endpoint}/{repo}"
    local = "or pass a folder or a config.json"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"the repository is gated; accept its terms on {page}, then pass a token of that account in HF_TOKEN "
            f"(or run `hf auth login`), {local}"
        )
    if isinstance(error, errors.DisabledRepoError):
        return f"the Hub has disabled this repository ({page})"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository has no revision {printable(revision or 'main')}; see {page}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"no such model on {endpoint}, or it is private; check the spelling, pass a token in HF_TOKEN if it is "
            f"private, {local}"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            "neither in the catalogue nor in the local Hub cache, and HF_HUB_OFFLINE (or offline) forbids asking "
            f"the Hub; download it first, {local}"
        )
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return f"{endpoint} does not accept the token (401); correct HF_TOKEN or run `hf auth login` again"
        if status == 403:
            return f"{endpoint} forbids access (403); the token may lack the right to read this repository"
        if status == 429:
            return f"{endpoint} answers too many requests (429); try again later, {local}"
        return f"{endpoint} answers with HTTP status {status}; try again later, {local}"
    if isinstance(error, errors.HFValidationError):
        return f"not a name that the Hub can have (org/name); check the spelling, {local}"
    if isinstance(error, errors.FileMetadataError):
        return f"{endpoint} does not answer like a Hugging Face Hub; check HF_ENDPOINT, {local}"
    if is_unreachable(error):
        return (
            f"neither in the catalogue nor in the local Hub cache, and {endpoint} cannot be reached "
            f"({_short(error)}); check the network and HF_ENDPOINT, {local}"
        )
    if isinstance(error, OSError):
        return f"the Hub cache cannot be used ({_short(error)}); point HF_HOME to a folder that can be written"
    return f"reading from the Hub failed ({type(error).__name__}: {_short(error)}); {local}"


def _short(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return printable(f"{error.strerror}{where}")
    lines = str(error).strip().splitlines()
    return printable(lines[0], 120) if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar for a file of a few kilobytes."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled() or os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
