"""Switch off third-party telemetry."""

import os

OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, transformers, datasets
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",  # SAELens imports wandb
}


def switch_telemetry_off() -> None:
    """Set the variables by which libraries, imported later, report nothing; those set stay.

    Child processes inherit them.
    """
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
