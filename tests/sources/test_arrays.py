"""A dataset's folder: damaged arrays, full disks, and what is said where there is no dataset."""

import errno
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from errors import UserError
from originals import npy
from sources.arrays import open_npy, read_manifest, save


def test_a_damaged_header_is_one_sentence(tmp_path):
    whole = npy(np.zeros((2, 3)))
    for i in range(80):  # the rest is padding
        for byte in (40, whole[i] ^ 1):
            (tmp_path / "x.npy").write_bytes(whole[:i] + bytes([byte]) + whole[i + 1 :])
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert open_npy(tmp_path / "x.npy").nbytes == 48
            except UserError as fault:
                assert re.search(r"damaged or cut short|not an \.npy|not numbers", str(fault))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_array_on_a_full_disk():
    with pytest.raises(OSError, match="No space") as caught:
        save(Path("/dev/full"), np.zeros((1, 1, 2, 2, 1), np.uint8))
    assert caught.value.errno == errno.ENOSPC


def test_where_there_is_no_dataset_the_others_are_named(tmp_path):
    def sentence(name):
        with pytest.raises(UserError) as caught:
            read_manifest(tmp_path / name, {"omniglot"})
        return str(caught.value)

    missing = f"there is no dataset in {tmp_path}/omniglot; "
    command = f"make it with: python get_data.py --dataset omniglot --data_dir {tmp_path}"
    assert sentence("omniglot") == missing + command
    for name in ("mine", "glyphs", ".glyphs.old"):  # the last: of a get_data.py that was killed
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "downloads").mkdir()
    assert sentence("omniglot") == f"{missing}{command}; {tmp_path} has glyphs, mine"
    unknown = sentence("omnigolt")
    assert "python get_data.py --help" in unknown and "--dataset" not in unknown and "has glyphs, mine" in unknown


def test_an_array_in_fortrans_order_is_refused(tmp_path):
    """Its bytes are not those of its images one after the other."""
    np.save(tmp_path / "a.npy", np.asfortranarray(np.zeros((2, 3))))
    with pytest.raises(UserError, match=r"Fortran's order: save numpy\.ascontiguousarray of it"):
        open_npy(tmp_path / "a.npy")


def test_a_damaged_dataset_is_to_be_made_again(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"damaged: make it again with python get_data.py --dataset mine .*--force"):
        read_manifest(tmp_path / "mine", {"mine"})
    with pytest.raises(UserError, match=r"damaged: make it again$"):  # get_data.py would refuse its name
        read_manifest(tmp_path / "mine", {"omniglot"})
