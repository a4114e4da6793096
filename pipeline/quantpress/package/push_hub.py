"""A package as a repository of the Hugging Face hub (huggingface_hub; HF_ENDPOINT, HF_TOKEN), in one commit."""

from __future__ import annotations

import glob
import tempfile
from pathlib import Path
from typing import Any

from quantpress.errors import CapabilityError, InputError, StageError, first_line, listed
from quantpress.package import build, push, signing
from quantpress.package.push import Committed, Upload
from quantpress.runtime import console, ownership


def send(upload: Upload, place: str, public: bool) -> Committed:
    """Makes the repository (private unless `public`) and one commit that turns its contents into the package.

    The client sends large files ahead of the commit and skips those that the hub has; files of an earlier package
    are removed in the same commit, and no others. Raises InputError if a file would replace one that is no package's.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars

    if place.count("/") != 1:
        raise InputError(f"hf://{place} is not a repository", hint="hf://org/name")
    disable_progress_bars()  # the console's line is enough
    api = HfApi()
    try:
        api.create_repo(place, private=not public, exist_ok=True)
        earlier = _earlier(api, place, upload)
        with console.step(f"sending {upload.about.name} ({upload.about.bytes / 1e6:.0f} MB) to {place}"):
            commit = api.upload_folder(
                repo_id=place,
                folder_path=upload.folder,
                allow_patterns=list(upload.files),
                delete_patterns=[glob.escape(name) for name in sorted(earlier - upload.files.keys())],
                commit_message=f"{upload.about.name}, checkpoint {upload.about.checkpoint_digest[:12]}",
            )
    except HFValidationError as error:
        raise InputError(first_line(error), hint="hf://org/name") from error
    except OfflineModeIsEnabled as error:
        raise CapabilityError("HF_HUB_OFFLINE forbids the hub", hint="unset HF_HUB_OFFLINE") from error
    except HfHubHTTPError as error:
        raise _explained(error, place) from error
    except (OSError, httpx.HTTPError, RuntimeError, ValueError) as error:  # the client's and Xet's own errors
        raise push.broken_off(error.__cause__ or error) from error
    return Committed(destination=upload.destination, commit=str(commit.oid), url=str(commit.commit_url))


def _earlier(api: Any, place: str, upload: Upload) -> set[str]:
    """The files of the package that the repository holds, as its own manifest lists them; none in a new one."""
    there = set(api.list_repo_files(place))
    ours: set[str] = set()
    if build.MANIFEST in there:
        with tempfile.TemporaryDirectory() as folder:
            api.hf_hub_download(place, build.MANIFEST, local_dir=folder)
            if build.is_package(Path(folder)):
                listed_there = ownership.marked_files(Path(folder) / build.MANIFEST) or set()
                ours = {*listed_there, build.MANIFEST, signing.SIGNATURE}
    if foreign := sorted(there & upload.files.keys() - ours):
        raise InputError(
            f"hf://{place} holds files that are of no package and would be replaced: {listed(foreign)}",
            hint="push to another repository, or remove them there",
        )
    return ours & there


def _explained(error: Any, place: str) -> StageError | CapabilityError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return CapabilityError(
            f"{place} may not be written: {first_line(error)[:200]}",
            hint="set HF_TOKEN to a token that may write there",
        )
    return push.broken_off(error)
