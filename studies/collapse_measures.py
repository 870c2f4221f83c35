"""Neural-collapse measures of features: pure functions in numpy, which compute in float64.

Source: Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of deep learning training",
PNAS 2020 (arXiv 2008.08186), with the normalisations of the authors' code; but NC1 is divided by C, as in the paper. N
rows h_i of D features, C classes, mu_c the mean of class c, mu_G the mean of the class means, W the head's weights, one
column w_c per class.

    S_W = mean over rows of (h - mu_c)(h - mu_c)'           S_B = mean over classes of (mu_c - mu_G)(mu_c - mu_G)'

Rows may have any order, and classes any number of rows. At a full collapse every measure is 0, except for the trace of
S_B. With one row per class S_W is 0, and so is NC1. A measure that is 0/0 (all class means are equal, or all weights
are 0) is NaN. ValueError: there are fewer than two classes, or features that are not finite.
"""

import numpy as np

# The keys of `measures`' result.
NAMES = (
    "trace_within", "trace_between", "share_within", "nc1", "nc2_norm_means", "nc2_angle_means", "nc2_spread_means",
    "nc2_norm_weights", "nc2_angle_weights", "nc2_spread_weights", "nc3", "nc4",
)  # fmt: skip


def variability(deviations: np.ndarray, means: np.ndarray) -> float:
    """Return NC1 = Tr(S_W S_B^+) / C of h - mu_c [N,D] and mu_c - mu_G [C,D].

    S_B has the rank C - 1 at most, and S_B^+ inverts it there: with the singular values s_r of the means and their
    directions u_r, Tr(S_W S_B^+) = sum_r mean(((h - mu_c) . u_r)^2) C / s_r^2.
    """
    _, s, directions = np.linalg.svd(means, full_matrices=False)
    rank = np.flatnonzero(s > s[0] * max(means.shape) * np.finfo(float).eps)[: len(means) - 1]
    if not rank.size:
        return np.nan
    along = np.square(deviations @ directions[rank].T).mean(0)
    return float((along / np.square(s[rank])).sum())


def geometry(vectors: np.ndarray, name: str) -> dict[str, float]:
    """Return NC2 of C vectors [C,D], in keys that end with `name`: std(norms) / mean(norms) (ddof 1, as theirs); mean
    over pairs of |cos + 1/(C-1)|, the distance from a simplex equiangular tight frame; std of the pairs' cosines.
    """
    norms, classes = np.linalg.norm(vectors, axis=1), len(vectors)
    equinorm = norms.std(ddof=1) / norms.mean() if norms.any() else np.nan
    angle = spread = np.nan
    if norms.all():
        unit = vectors / norms[:, None]
        cosines = (unit @ unit.T)[~np.eye(classes, dtype=bool)]
        angle, spread = np.abs(cosines + 1 / (classes - 1)).mean(), cosines.std()
    return {f"nc2_norm_{name}": float(equinorm), f"nc2_angle_{name}": float(angle), f"nc2_spread_{name}": float(spread)}


def duality(means: np.ndarray, weights: np.ndarray) -> float:
    """Return NC3 = ||W'/||W|| - M/||M|| ||^2, Frobenius norms, M the centred class means [C,D], weights [D,C]."""
    sizes = np.linalg.norm(means), np.linalg.norm(weights)
    return float(np.square(weights.T / sizes[1] - means / sizes[0]).sum()) if all(sizes) else np.nan


def measures(features, labels, weights=None, predictions=None) -> dict[str, float]:
    """Return the measures that these arguments allow, by the names in NAMES.

    features [N,D]. labels [N]: numbers of any C classes. weights [D,C], for NC2 of the weights and NC3: their columns
    are in the order of the sorted labels. predictions [N], for NC4: the labels that the network predicts.
    """
    h, labels = np.asarray(features, np.float64), np.asarray(labels)
    if h.ndim != 2 or labels.shape != h.shape[:1]:
        raise ValueError(f"features of the shape {h.shape} do not fit labels of the shape {labels.shape}")
    if not np.isfinite(h).all():
        raise ValueError("the features are not finite")
    h = h - h[:1]  # changes no measure, and a constant feature is exactly 0
    names, place = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"neural collapse needs two classes or more, and here is {len(names)}")
    member = np.eye(len(names))[place]
    mu = member.T @ h / member.sum(0)[:, None]
    deviations, means = h - mu[place], mu - mu.mean(0)
    means[np.abs(means) <= 8 * np.finfo(float).eps * np.abs(h).max()] = 0  # equal means differ by rounding alone

    within, between = np.square(deviations).sum(1).mean(), np.square(means).sum(1).mean()
    values = {"trace_within": float(within), "trace_between": float(between)}
    values["share_within"] = float(within / (within + between)) if within + between else np.nan
    values["nc1"] = variability(deviations, means)
    values |= geometry(means, "means")
    if weights is not None:
        w = np.asarray(weights, np.float64)
        if not np.isfinite(w).all():
            raise ValueError("the weights are not finite")
        values |= geometry(w.T, "weights") | {"nc3": duality(means, w)}
    if predictions is not None:  # NC4: the share of rows that are not predicted as the class with the nearest mean
        distances = np.square(mu).sum(1) - 2 * h @ mu.T  # less |h|^2, which is the same for all classes
        values["nc4"] = float(np.mean(names[distances.argmin(1)] != predictions))
    return values
