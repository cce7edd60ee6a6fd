"""
Membership inference with shadow models on unlearned models: U-LiRA and RMIA, computed from the shadow models' logits.
The attacks of `hf-unlearn verify`, which needs no shadow models, are in [`~evaluation.probes`].
"""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..metrics.membership_inference.membership_inference import area_under_curve, tpr_at_fpr


@dataclass
class ShadowModels:
    """
    The logits of shadow models. Each is trained like the model under attack, on a random half of the target images.

    Args:
        trained (`np.ndarray` of shape `(S, n + m, K)`):
            Logits of the S models after training: on the n target images, and then on the m images of the population,
            which no model was trained on.
        unlearned (`np.ndarray` of shape `(S, n + m, K)`):
            Logits of the same models after they unlearned the target images that they were trained on.
        labels (`np.ndarray` of shape `(n + m,)`):
            Label ids.
        members (`np.ndarray` of shape `(S, n)`):
            bool: whether the model was trained on the target image. Models 2i and 2i + 1 are a pair: their rows are
            opposite.

    Raises:
        [`InputError`]: if the shapes do not fit, if there are fewer than two pairs, or if a logit is not finite.
    """

    trained: np.ndarray
    unlearned: np.ndarray
    labels: np.ndarray
    members: np.ndarray

    def __post_init__(self):
        if self.trained.shape != self.unlearned.shape or len(self.members) != len(self.trained):
            raise InputError("shadow_models", "the logits and the members are not of the same models.")
        if len(self.members) < 4 or not (self.members[::2] == ~self.members[1::2]).all():
            raise InputError("shadow_models", "there must be two pairs of models with opposite members, or more.")
        if not (np.isfinite(self.trained).all() and np.isfinite(self.unlearned).all()):
            raise InputError("shadow_models", "some logits are not finite.")


def logit_confidence(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    φ = ln p_y − ln Σ_{j≠y} p_j, the logit of the probability of the label y. Over training runs it is close to a
    normal distribution (Carlini et al., arXiv 2112.03570; this form is that of the code of the NeurIPS 2023 machine
    unlearning challenge). It is computed from logits z as z_y − ln Σ_{j≠y} e^{z_j}.

    Args:
        logits (`np.ndarray` of shape `(…, n, K)`): K is at least 2.
        labels (`np.ndarray` of shape `(n,)`): label ids.

    Returns:
        `np.ndarray` of shape `(…, n)`.
    """
    logits = np.asarray(logits, dtype=np.float64)
    index = np.broadcast_to(labels[:, None], (*logits.shape[:-1], 1))
    own = np.take_along_axis(logits, index, axis=-1)[..., 0]
    others = logits.copy()
    np.put_along_axis(others, index, -np.inf, axis=-1)
    highest = others.max(axis=-1)
    return own - highest - np.log(np.exp(others - highest[..., None]).sum(axis=-1))


def label_probability(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p_y, the probability of the label: 1 / (1 + e^{−φ}). For the arguments see [`logit_confidence`]."""
    return 1 / (1 + np.exp(-np.clip(logit_confidence(logits, labels), -700, 700)))


def u_lira(
    target: np.ndarray, unlearned: np.ndarray, never_seen: np.ndarray, per_image_variance: bool = False
) -> np.ndarray:
    """
    U-LiRA (Hayes et al., arXiv 2403.01218): the logarithm of the likelihood ratio

        N(φ; μ_u, σ_u²) / N(φ; μ_r, σ_r²)

    between two cases: the model was trained on the image and unlearned it (u), or it never saw the image (r). Each
    image has its own two normal distributions, fitted to shadow models. A value above 0 says that the image was more
    likely unlearned than never seen.

    Args:
        target (`np.ndarray` of shape `(n,)`):
            φ of the model under attack, from [`logit_confidence`].
        unlearned (`np.ndarray` of shape `(S, n)`):
            φ of the shadow models that unlearned the image; NaN for the other models.
        never_seen (`np.ndarray` of shape `(S, n)`):
            φ of the shadow models that never saw the image; NaN for the other models.
        per_image_variance (`bool`, *optional*, defaults to `False`):
            Whether each image has its own variances, which needs about 64 shadow models. Otherwise all images share
            the mean variance (Carlini et al., arXiv 2112.03570).

    Returns:
        `np.ndarray` of shape `(n,)`.

    Raises:
        [`InputError`]: if an image has fewer than two shadow models of a kind.
    """
    logs = []
    for shadows in (unlearned, never_seen):
        count = np.isfinite(shadows).sum(axis=0)
        if (count < 2).any():
            raise InputError("shadow_models", "an image has fewer than two shadow models of a kind.")
        mean, variance = np.nanmean(shadows, axis=0), np.nanvar(shadows, axis=0, ddof=1)
        if not per_image_variance:
            variance = np.full_like(mean, variance.mean())
        # If all shadow models agree to the last bit, the variance is 0. This avoids a division by it.
        variance = np.maximum(variance, 1e-12)
        logs.append(-((target - mean) ** 2) / (2 * variance) - np.log(variance) / 2)
    return logs[0] - logs[1]


def rmia(
    target: np.ndarray,
    population: np.ndarray,
    shadows: np.ndarray,
    population_shadows: np.ndarray,
    gamma: float = 1.0,
    offline_a: float | None = None,
) -> np.ndarray:
    """
    RMIA (Zarifzadeh et al., arXiv 2312.03262): for each image x, the share of images z of the population with

        (p(x | θ) / p(x)) / (p(z | θ) / p(z)) ≥ γ

    where p(x | θ) is the probability of the label, and p(x) its mean over the shadow models, half of which were
    trained on x. With `offline_a` (a), none of the shadow models was trained on x, and

        p(x) = ½ ((1 + a) p_out(x) + 1 − a)

    where p_out(x) is the mean over these models.

    Args:
        target (`np.ndarray` of shape `(n,)`):
            p(x | θ) of the model under attack, from [`label_probability`].
        population (`np.ndarray` of shape `(m,)`):
            p(z | θ) of the model under attack.
        shadows (`np.ndarray` of shape `(S, n)`):
            p(x | θ') of the shadow models; NaN for models to leave out.
        population_shadows (`np.ndarray` of shape `(S, m)`):
            p(z | θ') of the shadow models.
        gamma (`float`, *optional*, defaults to 1.0):
            γ, at least 1.
        offline_a (`float`, *optional*):
            a, between 0 and 1.

    Returns:
        `np.ndarray` of shape `(n,)`: between 0 and 1; larger for images that the model knows.

    Raises:
        [`InputError`]: if `gamma` is less than 1.
    """
    if gamma < 1:
        raise InputError("gamma", f"must be at least 1, got {gamma}.")
    means = [np.nanmean(shadows, axis=0), np.nanmean(population_shadows, axis=0)]
    if offline_a is not None:
        means = [((1 + offline_a) * mean + 1 - offline_a) / 2 for mean in means]
    ratio_x, ratio_z = (
        values / np.maximum(mean, 1e-300) for values, mean in zip((target, population), means, strict=True)
    )
    # Counts the z with ratio_x ≥ γ ratio_z. Not a division, since p(z | θ) can be 0.
    return np.searchsorted(np.sort(gamma * ratio_z), ratio_x, side="right") / len(ratio_z)


# By game, the logits that an attack must tell apart: of models that were trained on the image, and of models that were
# not.
GAMES = {
    # Ordinary membership inference: what there is to unlearn.
    "original": ("trained", "trained"),
    # The question of U-LiRA: did the model unlearn the image, or was it retrained without the image?
    "unlearned or never seen": ("unlearned", "trained"),
    # The model has unlearned some images: is this image one of them?
    "unlearned or another was": ("unlearned", "unlearned"),
}


def attack_shadow_models(shadow_models: ShadowModels, gamma: float = 1.0) -> dict[str, dict[str, dict[str, float]]]:
    """
    Attacks each shadow model in turn. The other shadow models help, except the second model of its pair: as many of
    them were trained on each image as were not.

    Args:
        shadow_models ([`ShadowModels`]):
            At least two pairs. [`u_lira`] needs three, since a variance needs two models of each kind.
        gamma (`float`, *optional*, defaults to 1.0):
            γ of [`rmia`].

    Returns:
        `dict[str, dict[str, dict[str, float]]]`: by game (see `GAMES`) and attack (`u_lira`, `rmia`): `auc`,
        `tpr_at_1_percent_fpr` and `tpr_at_0.1_percent_fpr` over all pairs of model and image, and `auc_standard_error`
        over the target images.
    """
    members, labels = shadow_models.members, shadow_models.labels
    count, num_targets = members.shape
    phi = {name: logit_confidence(getattr(shadow_models, name), labels) for name in ("trained", "unlearned")}
    probability = {name: 1 / (1 + np.exp(-np.clip(values, -700, 700))) for name, values in phi.items()}
    results = {}
    for game, (known, unknown) in GAMES.items():
        scores = {"u_lira": np.zeros(members.shape), "rmia": np.zeros(members.shape)}
        for model in range(count):
            others = np.array([other for other in range(count) if other // 2 != model // 2])
            # For each shadow model and image, the logits that belong to the game.
            seen = members[others]
            unlearned = np.where(seen, phi[known][others, :num_targets], np.nan)
            never_seen = np.where(seen, np.nan, phi[unknown][others, :num_targets])
            scores["u_lira"][model] = u_lira(
                np.where(members[model], phi[known][model, :num_targets], phi[unknown][model, :num_targets]),
                unlearned,
                never_seen,
            )
            shadows = np.where(
                seen, probability[known][others, :num_targets], probability[unknown][others, :num_targets]
            )
            for kind, rows in ((known, members[model]), (unknown, ~members[model])):
                scores["rmia"][model, rows] = rmia(
                    probability[kind][model, :num_targets][rows],
                    probability[kind][model, num_targets:],
                    shadows[:, rows],
                    # No model was trained on the population, so both kinds of logits count half.
                    np.concatenate([probability[name][others, num_targets:] for name in (known, unknown)]),
                    gamma,
                )
        results[game] = {name: rates(values, members) for name, values in scores.items()}
    return results


def rates(scores: np.ndarray, members: np.ndarray) -> dict[str, float]:
    """
    How well scores tell members from others.

    Args:
        scores (`np.ndarray` of shape `(S, n)`):
            Score of each model and image, larger for members.
        members (`np.ndarray` of shape `(S, n)`):
            bool: whether the model was trained on the image.

    Returns:
        `dict[str, float]`: see [`attack_shadow_models`].
    """
    inside, outside = scores[members], scores[~members]
    # Scores of the same image are not independent, but images are: the error is that of a mean over images.
    by_image = [area_under_curve(scores[rows, i], scores[~rows, i]) for i, rows in enumerate(members.T)]
    return {
        "auc": area_under_curve(inside, outside),
        "auc_standard_error": float(np.std(by_image, ddof=1) / np.sqrt(len(by_image))),
        "tpr_at_1_percent_fpr": tpr_at_fpr(inside, outside, 0.01),
        "tpr_at_0.1_percent_fpr": tpr_at_fpr(inside, outside, 0.001),
    }
