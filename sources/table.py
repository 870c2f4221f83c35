"""The table of the datasets that get_data.py makes. A new one is a function `make` and an entry here.

A dataset of any other name is made from your own images, or from vectors: YOUR_IMAGES.
"""

from pathlib import Path

from sources import benchmarks, mimgnet, omniglot
from sources.authors_arrays import Shapes, holds_authors_arrays, make_from_arrays
from sources.backbone import BackboneSettings, make_with_backbone
from sources.features import FeaturesSettings, make_from_features
from sources.glyphs import make_glyphs
from sources.images import ImagesSettings, make_images
from sources.maker import Maker, SeedSettings, SourceSettings, Variant


def from_authors_arrays(shapes: Shapes) -> Variant:
    def make(folder: Path, target: Path, settings: SourceSettings) -> dict:
        return make_from_arrays(folder, target, settings.source, shapes)

    return Variant(make, SourceSettings, "from the authors' arrays", holds_authors_arrays)


MAKERS = {
    "omniglot": Maker(
        omniglot.make_omniglot,
        image_shape=(28, 28, 1),
        settings=omniglot.OmniglotSettings,
        variants=(from_authors_arrays(omniglot.AUTHORS_SHAPES),),
        brightness=(0.084, 0.029),
    ),
    "mimgnet": Maker(
        mimgnet.make_mimgnet,
        image_shape=(84, 84, 3),
        settings=mimgnet.MimgnetSettings,
        variants=(
            from_authors_arrays(mimgnet.AUTHORS_SHAPES),
            Variant(mimgnet.make_mimgnet_from_source, SourceSettings, "from --source"),
        ),
        brightness=(0.43, 0.14),
    ),
    "glyphs": Maker(make_glyphs, image_shape=(28, 28, 1), settings=SeedSettings, brightness=(0.146, 0.05)),
    **benchmarks.MAKERS,
}

YOUR_IMAGES = Maker(
    make_images,
    image_shape=(84, 84, 3),
    settings=ImagesSettings,
    variants=(
        Variant(make_from_features, FeaturesSettings, "from --features", flag="features"),
        Variant(make_with_backbone, BackboneSettings, "from --backbone", flag="backbone"),
    ),
)
