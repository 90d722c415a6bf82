"""Nobody is told that saebench runs, nor on what."""

import os

OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, transformers, datasets
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",  # SAELens imports wandb
}


def switch_telemetry_off() -> None:
    """Tell the libraries, before they are imported, to report nothing; what is set stays.

    Processes that are started from here inherit it.
    """
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
