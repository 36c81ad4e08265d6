"""Files of data sets on the Hugging Face hub."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from limbeck.errors import DataError, require


def fetch(repository: str, file: str, what: str, remedy: str) -> Path:
    """The local path of a file of a data set; only the first call ever needs the network.

    Raises ``DataError`` when ``what`` can be had neither from the cache nor from the hub, with the ``remedy`` that the caller knows.
    """
    download = require("huggingface_hub", "all").hf_hub_download
    with suppress(Exception):  # whatever the cache lacks, the hub may have
        return Path(download(repository, file, repo_type="dataset", local_files_only=True))
    try:
        return Path(download(repository, file, repo_type="dataset"))
    except Exception as error:
        raise DataError(
            f"'{what}' could not be fetched from the Hugging Face hub ({type(error).__name__}): there may be no network here. Fetch it once "
            f"where there is one (its cache is then used), or {remedy}"
        ) from error
