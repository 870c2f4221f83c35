"""The table of the datasets that get_data.py makes. A new one is a function `make` and an entry here.

A dataset of any other name is made from your own images: YOUR_IMAGES.
"""

from functools import partial

from sources import mimgnet, omniglot
from sources.authors_arrays import Shapes, holds_authors_arrays, make_from_arrays
from sources.glyphs import make_glyphs
from sources.images import SETTINGS, make_images
from sources.maker import SEED, SOURCE, Maker, Variant


def from_authors_arrays(shapes: Shapes) -> Variant:
    make = partial(make_from_arrays, shapes=shapes)
    return Variant(make, {"source": SOURCE}, "from the authors' arrays", holds_authors_arrays)


MAKERS = {
    "omniglot": Maker(
        omniglot.make_omniglot,
        image_shape=(28, 28, 1),
        settings={"source": SOURCE, "seed": SEED, "size": omniglot.SIZE},
        variants=(from_authors_arrays(omniglot.AUTHORS_SHAPES),),
        brightness=(0.084, 0.029),
    ),
    "mimgnet": Maker(
        mimgnet.make_mimgnet,
        image_shape=(84, 84, 3),
        settings={"mirror": mimgnet.MIRROR, "timeout": mimgnet.TIMEOUT, "retries": mimgnet.RETRIES},
        variants=(
            from_authors_arrays(mimgnet.AUTHORS_SHAPES),
            Variant(mimgnet.make_mimgnet_from_source, {"source": SOURCE}, "from --source"),
        ),
        brightness=(0.43, 0.14),
    ),
    "glyphs": Maker(make_glyphs, image_shape=(28, 28, 1), settings={"seed": SEED}, brightness=(0.146, 0.05)),
}

YOUR_IMAGES = Maker(make_images, image_shape=(84, 84, 3), settings={"source": SOURCE} | SETTINGS)
