"""The same targets under atheris, which looks for inputs that reach new lines of saebench.

``make fuzz`` runs it where atheris is installed: ``python tests/fuzz/coverage_guided.py TARGET``.
"""

import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["saebench"]):
    from fuzz_targets import survives, targets

GUIDED = ("saelens-cfg.json", "thresholds", "rule", "baseline", "result")
CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Fuzz one target; libFuzzer's options follow its name."""
    name, *options = sys.argv[1:] or ["saelens-cfg.json"]
    target = targets()[name]
    warnings.simplefilter("ignore")

    def once(content: bytes) -> None:
        survives(target, content)

    with TemporaryDirectory() as grown:  # libFuzzer writes what it finds into the first of them
        seeds = [str(path) for path in (CORPUS / name,) if path.is_dir()]
        atheris.Setup([sys.argv[0], *options, grown, *seeds], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
