"""Datasets of tensorflow-datasets, by their names there."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from errors import UserError
from sources.download import system_error


@contextmanager
def prepared_builder(name: str, otherwise: str) -> Iterator:
    """Yield tensorflow-datasets' builder of this name, after it has downloaded and prepared its dataset.

    Raise UserError if that fails, or if the `with` block fails to read the dataset; the message ends with `otherwise`.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # TensorFlow would take the GPU's memory to read some images
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print(f"asking tensorflow-datasets for {name}", flush=True)
    with one_sentence(name, otherwise):
        import tensorflow_datasets as tfds  # takes seconds, and only this function needs it

        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would report each of many retries
        builder = tfds.builder(name)
        if not (Path(builder.data_dir) / "dataset_info.json").is_file():  # not downloaded yet
            for url in list(builder.url_infos or ())[:1]:
                requests.head(url, timeout=10)  # fails at once without a network; tfds would retry for minutes
        builder.download_and_prepare()
        yield builder


@contextmanager
def one_sentence(name: str, otherwise: str) -> Iterator[None]:
    """Turn any exception of a `with` block that reads the dataset `name` into UserError; it ends with `otherwise`."""
    try:
        yield
    except UserError:
        raise
    except Exception as fault:  # a network, a disk, a changed checksum, an unknown name, a broken installation, ...
        reason = system_error(fault) or str(fault).strip().partition("\n")[0][:200]
        raise UserError(
            f"tensorflow-datasets could not give {name} ({type(fault).__name__}: {reason}): {otherwise}"
        ) from None
