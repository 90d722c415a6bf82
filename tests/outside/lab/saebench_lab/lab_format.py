"""The laboratory's SAE format: lab.json and lab.npz."""

import json
from pathlib import Path
from typing import Any

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


class LabFormat:
    """Directories with lab.json and lab.npz; torch is imported on loading alone."""

    def matches(self, directory: Path) -> bool:
        return (directory / "lab.json").exists()

    def config(self, directory: Path) -> dict[str, Any]:
        return json.loads((directory / "lab.json").read_text())

    def load(self, directory: Path, config: dict[str, Any]) -> Any:  # noqa: ARG002
        import numpy as np
        import torch

        class ReluSAE(torch.nn.Module):
            def encode(self, x: torch.Tensor) -> torch.Tensor:
                return ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()

            def decode(self, features: torch.Tensor) -> torch.Tensor:
                return features @ self.W_dec + self.b_dec

        sae, arrays = ReluSAE(), np.load(directory / "lab.npz")
        for name in NAMES:
            sae.register_parameter(name, torch.nn.Parameter(torch.from_numpy(arrays[name])))
        return sae
