"""Neural-collapse measures of features: pure functions in numpy, float64 inside.

Source: Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of deep learning training",
PNAS 2020 (arXiv 2008.08186), with the normalisations of the authors' code. N rows h_i of D features, C classes,
mu_c the mean of class c, mu_G the mean of the class means, W the head's weights, a column w_c a class.

    S_W = mean over rows of (h - mu_c)(h - mu_c)'           S_B = mean over classes of (mu_c - mu_G)(mu_c - mu_G)'

Rows may come in any order and classes may have different numbers of them. All is 0 at a full collapse (but for the
trace of S_B). A single row a class makes S_W = 0, hence NC1 = 0. Where a measure is 0/0 (class means that are all
equal, weights that are all 0), it is NaN. Fewer than two classes, or features that are not finite: ValueError.
"""

import numpy as np

# What `measures` returns.
NAMES = (
    "trace_within", "trace_between", "share_within", "nc1", "nc2_norm_means", "nc2_angle_means", "nc2_spread_means",
    "nc2_norm_weights", "nc2_angle_weights", "nc2_spread_weights", "nc3", "nc4",
)  # fmt: skip


def variability(deviations: np.ndarray, means: np.ndarray) -> float:
    """NC1 = Tr(S_W S_B^+) / C from h - mu_c [N,D] and mu_c - mu_G [C,D].

    S_B has the rank C - 1 at most, and S_B^+ inverts it there: with the singular values s_r of the means and their
    directions u_r, Tr(S_W S_B^+) = sum_r mean(((h - mu_c) . u_r)^2) C / s_r^2.
    """
    _, s, directions = np.linalg.svd(means, full_matrices=False)
    rank = np.flatnonzero(s > s[0] * max(means.shape) * np.finfo(float).eps)[: len(means) - 1]
    if not rank.size:
        return np.nan
    along = np.square(deviations @ directions[rank].T).mean(0)
    return float((along / np.square(s[rank])).sum())


def geometry(vectors: np.ndarray) -> tuple[float, float, float]:
    """NC2 of C vectors [C,D]: std(norms) / mean(norms) (ddof 1, as the authors' code); mean over pairs of
    |cos + 1/(C-1)|, the distance from a simplex equiangular tight frame; std of the pairs' cosines."""
    norms, classes = np.linalg.norm(vectors, axis=1), len(vectors)
    if not norms.any():
        return np.nan, np.nan, np.nan
    equinorm = norms.std(ddof=1) / norms.mean()
    if not norms.all():
        return float(equinorm), np.nan, np.nan
    unit = vectors / norms[:, None]
    cosines = (unit @ unit.T)[~np.eye(classes, dtype=bool)]
    return float(equinorm), float(np.abs(cosines + 1 / (classes - 1)).mean()), float(cosines.std())


def duality(means: np.ndarray, weights: np.ndarray) -> float:
    """NC3 = ||W'/||W|| - M/||M|| ||^2, Frobenius norms, M the centred class means [C,D], weights [D,C]."""
    sizes = np.linalg.norm(means), np.linalg.norm(weights)
    return float(np.square(weights.T / sizes[1] - means / sizes[0]).sum()) if all(sizes) else np.nan


def disagreement(h: np.ndarray, mu: np.ndarray, predicted: np.ndarray) -> float:
    """NC4: share of rows whose predicted class is not that of the nearest class mean; predicted [N], 0 to C-1."""
    distances = np.square(mu).sum(1) - 2 * h @ mu.T  # less |h|^2, which is the same for all classes
    return float(np.mean(distances.argmin(1) != predicted))


def measures(features, labels, weights=None, predictions=None) -> dict[str, float]:
    """All of NAMES that there is the material for.

    features [N,D]; labels [N], numbers of any C classes; weights [D,C], their columns in the order of the sorted
    labels, for NC2 of the weights and NC3; predictions [N], the network's, in the labels' terms, for NC4.
    """
    h, labels = np.asarray(features, np.float64), np.asarray(labels)
    if h.ndim != 2 or labels.shape != h.shape[:1]:
        raise ValueError(f"features of the shape {h.shape} and labels of the shape {labels.shape} do not go together")
    if not np.isfinite(h).all():
        raise ValueError("the features are not finite")
    h = h - h[:1]  # changes no measure, and a constant feature is exactly 0
    names, place = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"neural collapse is between classes, and here is {len(names)}")
    member = np.eye(len(names))[place]
    mu = member.T @ h / member.sum(0)[:, None]
    deviations, means = h - mu[place], mu - mu.mean(0)
    means[np.abs(means) <= 8 * np.finfo(float).eps * np.abs(h).max()] = 0  # of equal means, their rounding

    within, between = np.square(deviations).sum(1).mean(), np.square(means).sum(1).mean()
    values = {"trace_within": float(within), "trace_between": float(between)}
    values["share_within"] = float(within / (within + between)) if within + between else np.nan
    values["nc1"] = variability(deviations, means)
    values |= dict(zip(("nc2_norm_means", "nc2_angle_means", "nc2_spread_means"), geometry(means), strict=True))
    if weights is not None:
        w = np.asarray(weights, np.float64)
        if w.shape != (h.shape[1], len(names)):
            raise ValueError(f"weights of the shape {w.shape}, wanted {(h.shape[1], len(names))}")
        if not np.isfinite(w).all():
            raise ValueError("the weights are not finite")
        values |= dict(zip(("nc2_norm_weights", "nc2_angle_weights", "nc2_spread_weights"), geometry(w.T), strict=True))
        values["nc3"] = duality(means, w)
    if predictions is not None:
        predicted = np.asarray(predictions)
        if predicted.shape != labels.shape:
            raise ValueError(f"predictions of the shape {predicted.shape}, wanted {labels.shape}")
        place = np.searchsorted(names, predicted).clip(max=len(names) - 1)
        values["nc4"] = disagreement(h, mu, np.where(names[place] == predicted, place, -1))
    return values
