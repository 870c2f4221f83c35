"""The plane of the decision boundary figures: axis 1 is exact, axis 2 is a 1-D t-SNE of the rest of the features.

For two classes A and B of a linear head, u = (w_A - w_B) / |w_A - w_B|. Axis 1 is h . u; on it the two logits are
equal at (b_B - b_A) / |w_A - w_B|, and A is to the right. The scale of axis 2 has no meaning.
Shapes: P snapshots, R points, D features, N classes.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import minmax_scale
from threadpoolctl import threadpool_limits


@dataclass(frozen=True)
class Scene:
    """One task in the plane, at every snapshot. Roles are "support", "query" and "copies" (R is 0 without noise).

    points: {role: [P,R,2]}. side: {role: [R]}, 0 for class A and 1 for class B. boundary: [P], its place on axis 1.
    accuracy: [P], 0 to 1, of the query points between these two classes.
    """

    points: dict[str, np.ndarray]
    side: dict[str, np.ndarray]
    boundary: np.ndarray
    accuracy: np.ndarray


def scene(export: dict, task: int, pair: tuple[int, int], seed: int) -> Scene:
    """Project one task of an export (export_format.py) to the plane of two classes of its head."""
    copies = export["perturbed_features"][task]  # [P,M,S,D]
    features = {role: export[f"{role}_features"][task] for role in ("support", "query")}
    features["copies"] = copies.reshape(len(copies), -1, copies.shape[-1])
    labels = {role: export[f"{role}_labels"] for role in ("support", "query")}
    labels["copies"] = np.tile(labels["support"], copies.shape[1])
    rows = {role: np.flatnonzero(np.isin(labels[role], pair)) for role in features}
    all_roles = np.concatenate([features[role][:, rows[role]] for role in features], 1)
    along, rest, boundary = project(all_roles, export["head_w"][task], export["head_b"][task], pair)
    plane = np.stack([along, embed(rest, seed)], -1)
    points = dict(zip(rows, np.split(plane, np.cumsum([*map(len, rows.values())])[:-1], 1), strict=True))
    side = {role: (labels[role][rows[role]] == pair[1]).astype(int) for role in rows}
    correct = (points["query"][..., 0] > boundary[:, None]) == (side["query"] == 0)
    return Scene(points, side, boundary, correct.mean(-1))


def project(
    features: np.ndarray, w: np.ndarray, b: np.ndarray, pair: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split features [P,R,D] with head w [P,D,N], b [P,N] -> axis 1 [P,R], the rest [P,R,D], the boundary [P]."""
    first, second = pair
    w, b = w.astype(np.float64), b.astype(np.float64)  # float32's squares overflow if inner steps diverged
    difference = w[..., first] - w[..., second]
    length = np.linalg.norm(difference, axis=-1)
    length = np.where(length > 0, length, 1)  # equal columns: all points are on the boundary
    u = difference / length[:, None]
    along = np.einsum("prd,pd->pr", features, u)
    return along, features - along[..., None] * u[:, None], (b[:, second] - b[:, first]) / length


def embed(rest: np.ndarray, seed: int) -> np.ndarray:
    """Return one 1-D t-SNE of all snapshots: features without axis 1 [P,R,D] -> [P,R] in -1 to 1.

    It starts from the first principal component, with a little noise that depends on the seed.
    """
    rows = rest.reshape(-1, rest.shape[-1]).astype(np.float64)
    rows = rows - rows.mean(0)
    if abs(rows).max() <= 1e-9 * max(1, abs(rest).max()):
        return np.zeros(rest.shape[:2])  # axis 1 leaves nothing out
    start = PCA(1, svd_solver="full").fit_transform(rows)
    start = start / start.std() + np.random.default_rng(seed).normal(scale=0.1, size=start.shape)
    tsne = TSNE(
        n_components=1,
        perplexity=min(30.0, (len(rows) - 1) / 3),
        init=1e-4 * start.astype(np.float32),
        learning_rate="auto",
        early_exaggeration=4,  # the usual 12 moves points past each other, and on a line none finds its way back
        random_state=seed,
    )
    with threadpool_limits(1):  # one order of summation: the same seed gives the same figure
        positions = tsne.fit_transform(rows)
    return minmax_scale(positions, (-1, 1)).reshape(rest.shape[:2])
