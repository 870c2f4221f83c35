"""What tensorflow-datasets has, by its name there."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import requests

from errors import UserError
from sources.download import system_error

T = TypeVar("T")


def read_prepared(name: str, read: Callable[..., T], otherwise: str) -> T:
    """What `read` makes of tensorflow-datasets' builder of this name, which downloads and prepares it first.

    UserError, which ends with `otherwise`, what to do instead, when any of that fails.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # TensorFlow would take the GPU's memory to read some images
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print(f"asking tensorflow-datasets for {name}", flush=True)
    try:
        import tensorflow_datasets as tfds  # takes seconds, and only this function needs it

        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would report each of many retries
        builder = tfds.builder(name)
        if not (Path(builder.data_dir) / "dataset_info.json").is_file():  # it has yet to be downloaded
            for url in list(builder.url_infos or ())[:1]:
                requests.head(url, timeout=10)  # no network? Its own retries take minutes
        builder.download_and_prepare()
        return read(builder)
    except Exception as fault:  # a network, a disk, a changed checksum, no such name, a broken installation: anything
        reason = system_error(fault) or str(fault).strip().partition("\n")[0][:200]
        raise UserError(
            f"tensorflow-datasets could not give {name} ({type(fault).__name__}: {reason}): {otherwise}"
        ) from None
