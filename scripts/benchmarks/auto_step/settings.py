"""What the parts of run.py run: settings, seeds, kinds and images."""

# What `bad` does: settings of JiTConfig, changes of the images, of the weights, or of the step that was found.
# The released preset with 5 perturbations in place of 25, which costs a fifth.
RELEASED = {"preset": "as_released", "num_perturbations": 5}
BAD = {
    "released rule, η 0.01": {"settings": {**RELEASED, "learning_rate": 0.01}},
    "released rule, η 0.1": {"settings": {**RELEASED, "learning_rate": 0.1}},
    "fixed, η 1": {"settings": {"step_rule": "fixed", "learning_rate": 1.0}},
    "algorithm1, η 0.03": {"settings": {"preset": "algorithm1", "learning_rate": 0.03}},
    "released rule, σ 0.001, η 0.01": {"settings": {**RELEASED, "sigma": 1e-3, "learning_rate": 0.01}},
    "released rule, σ 1e-7, η 0.001": {"settings": {**RELEASED, "sigma": 1e-7, "learning_rate": 1e-3}},
    "automatic, σ 1e-7": {"settings": {"sigma": 1e-7}},
    "automatic, step 4 times too long": {"stretch": 4.0},
    "automatic, step 10 times too long": {"stretch": 10.0},
    "a weight is NaN before": {"nan_weight": True},
    "fixed, η 1e38: weights overflow": {"settings": {"step_rule": "fixed", "learning_rate": 1e38}},
    "wrong processor: inverted": {"images": lambda x: -x},
    "wrong processor: bytes 0..255": {"images": lambda x: 127.5 * x + 127.5},
    "wrong processor: 0..1": {"images": lambda x: 0.5 * x + 0.5},
    "wrong processor: ImageNet's mean and deviation": {"images": lambda x: (0.5 * x + 0.05) / 0.225},
}
DRAWS = (7, 8)
BAD_SEED, BAD_CLASSES, BAD_IMAGES = 1, (4, 7), 200
RELEASED_SEED, RELEASED_CLASSES, RELEASED_IMAGES = 0, (3, 5), 300
SIGMAS, RATES = (0.5, 2.0, 0.1), [1e-6 * 2**k for k in range(14)]
ROBUST_CLASSES, ROBUST_SIGMAS, ROBUST_COPIES, ROBUST_IMAGES = (3, 5), (0.25, 0.5, 1.0, 2.0), (1, 4, 25), 300
MANY_CLASSES = range(0, 50, 2)
