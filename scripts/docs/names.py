"""What the reference describes, by its path in the package: public names, methods, metrics and attacks."""

from pathlib import Path

import hf_unlearn
from hf_unlearn.unlearning.method_names import METHODS


PACKAGE = Path(hf_unlearn.__file__).parent


def in_methods(method: str, kind: str) -> str:
    """The path of the `"Config"` or the `"Trainer"` of a method. Some configurations have a file of their own."""
    own_file = kind == "Config" and (PACKAGE / "methods" / f"{method}_config.py").is_file()
    return f"hf_unlearn.methods.{method}{'_config' if own_file else ''}.{METHODS[method]}{kind}"


PUBLIC = {name: f"hf_unlearn.{hf_unlearn._MODULE_OF[name]}.{name}" for name in hf_unlearn.__all__}
# It is loaded by way of its trainer.
PUBLIC["JiTConfig"] = in_methods("jit", "Config")
ERRORS = {
    name: f"hf_unlearn.errors.{name}" for name in ("InputError", "CollapsedModelError", "SaveError", "HubPushError")
}
METHOD_CLASSES = {
    f"{METHODS[method]}{kind}": in_methods(method, kind) for method in METHODS for kind in ("Config", "Trainer")
}
METRICS = [path.parent.name for path in sorted(PACKAGE.glob("metrics/*/README.md"))]
ATTACKS = {
    name: f"hf_unlearn.evaluation.{module}.{name}"
    for module, names in {
        "verification": ["verify_unlearning"],
        "verification_report": ["VerificationReport"],
        "relearning": ["relearn"],
        "probes": ["prototype_accuracy", "probe_accuracy", "information_of_layers", "head_only", "recalibrated"],
        "logit_attacks": ["choose_constant", "found_with", "false_positives", "logit_auroc"],
        "rounding": ["rounded_copy"],
        "attacks": ["ShadowModels", "u_lira", "rmia", "attack_shadow_models"],
    }.items()
    for name in names
}
# What a docstring may link to.
LINKS = PUBLIC | ERRORS | METHOD_CLASSES | ATTACKS
