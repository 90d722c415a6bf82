"""A value for every option, and what must be given with it."""


def sample(each) -> str:
    """Return a value of an option as text, other than its default."""
    if each.kind.choices:
        return str(next(c for c in reversed(each.kind.choices) if c != each.default))
    samples = {"": "true", "true|false": "false", "N": "57", "X": "0.25", "RULE": "fidelity.kl<=9"}
    return samples.get(each.kind.metavar, "2" if "norm" in each.name else "some where/x")


def needed(each) -> dict[str, str]:
    """Return what else must be given with an option, by name."""
    if each.name in ("ray-address", "worker-gpus"):
        return {"engine": "ray"}
    return {"run-dir": "runs"} if each.name == "rerun" else {}
