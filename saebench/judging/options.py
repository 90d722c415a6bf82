"""From raw options to settings: what the command line, the environment and a file say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saebench.errors import OptionError, nearest
from saebench.scale.options import Scale
from saebench.settings import Settings
from saebench.subjects.metadata import Overrides

SHARED = {
    "workers": "workers",
    "shard_sequences": "shard_sequences",
    "worker_threads": "threads",
}
NUMBERS = (
    "sequences",
    "prompts",
    "context",
    "batch_size",
    "position",
    "draw_position",
    "draws",
    "seed",
)
PLAIN = (
    *NUMBERS,
    "profile",
    "packing",
    "inconclusive",
    "model",
    "dataset",
    "cloze",
    "device",
    "dtype",
    "thresholds",
    "baseline",
)
YES, NO = ("true", "yes", "1"), ("false", "no", "0")


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Return the settings that raw options mean.

    Raises:
        OptionError: for a value that an option cannot have.
    """
    if "unknown" in options:
        key, known = options["unknown"]
        raise OptionError(
            f"[tool.saebench] of pyproject.toml: unknown key {key!r}{nearest(key, known)}"
        )
    chosen: dict[str, Any] = {key: options[key] for key in PLAIN if key in options}
    for key in NUMBERS:
        if key in chosen:
            chosen[key] = _number(key, chosen[key])
    training_context = options.get("training_context")
    overrides = Overrides(
        hook=options.get("hook"),
        training_context=None
        if training_context is None
        else _number("training_context", training_context),
        prepend_bos=flag(options, "prepend_bos"),
        hook_out=options.get("hook_out"),
        norm_factor=options.get("norm_factor"),
    )
    return Settings(
        **chosen,
        interventions=tuple(listed(options, "interventions", separator=",")),
        fail_on=tuple(listed(options, "fail_on", separator="\n")),
        score_bos=bool(flag(options, "score_bos")),
        stop_early=bool(flag(options, "stop_early")),
        overrides=overrides,
    )


def check_stop_early(settings: Settings, scale: Scale, options: Mapping[str, Any]) -> None:
    """Refuse what a run that ends early cannot do.

    Raises:
        OptionError: naming both options.
    """
    if not settings.stop_early:
        return
    scale.refuse_rounds()
    for key in ("update_baselines", "update_new"):
        if flag(options, key):
            raise OptionError(
                f"--sae-stop-early with {_option(key)}: a run that ended early is no baseline, "
                "measure all sequences for one"
            )


def scale_of(options: Mapping[str, Any]) -> Scale:
    """Return how raw options mean the run to be shared out.

    Raises:
        OptionError: for a value that an option cannot have.
    """
    chosen: dict[str, Any] = {key: options[key] for key in ("engine", "rerun") if key in options}
    for key, name in SHARED.items():
        if key in options:
            chosen[name] = _number(key, options[key])
    if "worker_gpus" in options:
        try:
            chosen["gpus"] = float(options["worker_gpus"])
        except ValueError as error:
            given = options["worker_gpus"]
            raise OptionError(f"--sae-worker-gpus: expected a number, found {given!r}") from error
    if "run_dir" in options:
        chosen["run_dir"] = Path(options["run_dir"]).absolute()
    return Scale(**chosen, address=options.get("ray_address"))


def listed(options: Mapping[str, Any], key: str, *, separator: str) -> list[str]:
    """Return an option's several values, given as a list or in one text."""
    value = options.get(key, [])
    parts = value.split(separator) if isinstance(value, str) else value
    return [part.strip() for part in parts if part.strip()]


def _number(key: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{_option(key)}: expected a whole number, found {value!r}") from error


def flag(options: Mapping[str, Any], key: str) -> bool | None:
    """Return whether an option is on; None where it was not given.

    Raises:
        OptionError: for what is neither true nor false.
    """
    value = options.get(key)
    if value is None or isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in YES + NO:
        raise OptionError(f"{_option(key)}: expected true or false, found {value!r}")
    return text in YES


def _option(key: str) -> str:
    return "--sae-" + key.replace("_", "-")
