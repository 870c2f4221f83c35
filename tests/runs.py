"""What a run has left, for tests."""

import re


def checkpoint(savedir, kind="last") -> dict:
    """Every number of a checkpoint, but for times and the checkpoint's own counter."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(savedir / "checkpoints" / kind)))
    names = [n for n in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in n]
    return {n: reader.get_tensor(n) for n in names if not re.search(r"^(secs|lengths|save_counter)/", n)}
