"""docs/from_python.md: a trained learner in somebody else's project, beside a package of theirs called `datasets`."""

import os
import re
import subprocess
import sys

import numpy as np
from PIL import Image

from conftest import ROOT

DATASETS = '''
"""A package that reads folders of pictures as Hugging Face's datasets does."""

from pathlib import Path

from PIL import Image


def load_dataset(kind, data_dir, split):
    assert (kind, split) == ("imagefolder", "train")
    files = sorted(Path(data_dir).glob("*/*.png"))
    names = sorted({file.parent.name for file in files})
    return {"image": [Image.open(file) for file in files], "label": [names.index(file.parent.name) for file in files]}
'''


def test_the_page_classifies_pictures_that_another_package_reads(tmp_path):
    (tmp_path / "metadrop-tf2").symlink_to(ROOT)
    project = tmp_path / "project"
    package = project / "datasets" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text(DATASETS)
    for number, name in enumerate(["across", "down", "across", "down"]):
        picture = np.full((28, 28), 255, np.uint8)
        picture[10 + number : 14 + number] = 0  # a bar, black on white
        file = project / ("support" if number < 2 else "query") / name / "1.png"
        file.parent.mkdir(parents=True)
        Image.fromarray(picture if name == "across" else picture.T).save(file)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/from_python.md").read_text(), re.DOTALL)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", code + "print(datasets.__file__)"]
    settings = {"cwd": project, "env": environment, "capture_output": True, "text": True, "timeout": 150}
    done = subprocess.run(command, check=False, **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[0 1]", str(package)]
