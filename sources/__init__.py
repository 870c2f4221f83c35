"""The table of the datasets that get_data.py makes. A new one is a function `make` and an entry here.

A dataset of any other name is made from your own images: YOUR_IMAGES.
"""

from sources.authors_arrays import holds_authors_arrays
from sources.glyphs import make_glyphs
from sources.images import SETTINGS, make_images
from sources.maker import SEED, SOURCE, Maker, Variant
from sources.mimgnet import MIRROR, RETRIES, TIMEOUT, make_mimgnet, make_mimgnet_from_source
from sources.omniglot import SIZE, make_omniglot, make_omniglot_from_arrays

MAKERS = {
    "omniglot": Maker(
        make_omniglot,
        image_shape=(28, 28, 1),
        settings={"source": SOURCE, "seed": SEED, "size": SIZE},
        variants=(
            Variant(make_omniglot_from_arrays, {"source": SOURCE}, "from the authors' arrays", holds_authors_arrays),
        ),
        brightness=(0.084, 0.029),
    ),
    "mimgnet": Maker(
        make_mimgnet,
        image_shape=(84, 84, 3),
        settings={"mirror": MIRROR, "timeout": TIMEOUT, "retries": RETRIES},
        variants=(Variant(make_mimgnet_from_source, {"source": SOURCE}, "from --source"),),
        brightness=(0.43, 0.14),
    ),
    "glyphs": Maker(make_glyphs, image_shape=(28, 28, 1), settings={"seed": SEED}, brightness=(0.146, 0.05)),
}

YOUR_IMAGES = Maker(make_images, image_shape=(84, 84, 3), settings={"source": SOURCE} | SETTINGS)
