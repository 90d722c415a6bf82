"""Models and SAEs by name, offline, from a Hugging Face cache laid out on disk."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REVISION = "0123456789abcdef0123456789abcdef01234567"
RELEASE = "gpt2-small-res_sll-ajt"  # its SAEs lie in the repository below
REGISTRY_REPOSITORY, REGISTRY_FOLDER = "neuronpedia/gpt2-small__res_sll-ajt", "2-res_sll-ajt"

CENTRED = "gpt2-small-res-jb"  # a release with overrides
CENTRED_REPOSITORY, CENTRED_FOLDER = "jbloom/GPT2-Small-SAEs-Reformatted", "blocks.2.hook_resid_pre"
SCOPE_REPOSITORY = "google/gemma-scope-2-270m-pt"
SCOPE_FOLDER = "resid_post/layer_12_width_16k_l0_big"
CROSS_LAYER = "mntss-gemma-2-2b-2.5m-clt-as-per-layer:layer_0"  # SAELens warns of it
SILENT = f"{SCOPE_REPOSITORY}:clt/width_262k_l0_big/params_layer_0"  # and not of this

SCRIPT = """
import json, sys
import saebench
from saebench.errors import UsageError

def judged(sae, model):
    try:
        run = saebench.judge(sae, model, sys.argv[1], sequences=4, properties=["fidelity"])
    except UsageError as error:
        return type(error).__name__, str(error)
    return run.models[0].name, run.saes[0].weights_sha256, run.saes[0].source

def loaded(spec):
    from saebench.subjects.loading import load_subject
    from saebench.formats.metadata import Overrides
    from saebench.subjects.references import find_subjects

    try:
        [reference] = find_subjects([spec])
        subject = load_subject(reference, overrides=Overrides(), device="cpu")
    except UsageError as error:
        return {"error": str(error)}
    told = subject.metadata
    kept = {"centred": told.centred, "hook": told.hook, "notes": told.notes, "d_sae": subject.d_sae}
    return kept | {"expected": subject.expected_explained_variance}

both = [judged(*each) for each in json.loads(sys.argv[2])]
print(json.dumps(both + [loaded(each) for each in json.loads(sys.argv[3])]))
"""


def _cached(cache: Path, repository: str, files: dict[str, Path], absent: tuple[str, ...] = ()):
    """Lay out a repository as huggingface_hub does: blobs, and links to them by revision."""
    root = cache / ("models--" + repository.replace("/", "--"))
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(REVISION)
    for number, (name, file) in enumerate(files.items()):
        link = root / "snapshots" / REVISION / name
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / "blobs" / f"{number:040x}")
        link.symlink_to(os.path.relpath(root / "blobs" / f"{number:040x}", link.parent))
    for name in absent:
        missing = root / ".no_exist" / REVISION / name
        missing.parent.mkdir(parents=True, exist_ok=True)
        missing.touch()


@pytest.fixture(scope="module")
def home(tiny, tmp_path_factory):
    """A Hugging Face home with a model and two repositories of SAEs, one of the registry."""
    home = tmp_path_factory.mktemp("hf")
    for name in ("tiny/llama", "gpt2"):
        _cached(home / "hub", name, {p.name: p for p in Path(tiny.model).iterdir()})
    by_alias = tiny.copy_of(tiny.good, home / "by-alias", metadata__model_name="gpt2-small")
    for name, folder in (("tiny/saes", "a/good"), (REGISTRY_REPOSITORY, REGISTRY_FOLDER)):
        files = {f"{folder}/{p.name}": p for p in by_alias.iterdir()}
        _cached(home / "hub", name, files, absent=(f"{folder}/sparsity.safetensors",))
    files = {f"{CENTRED_FOLDER}/{p.name}": p for p in by_alias.iterdir()}
    files |= {f"unlisted/{p.name}": p for p in by_alias.iterdir()}
    _cached(home / "hub", CENTRED_REPOSITORY, files)
    _cached(home / "hub", SCOPE_REPOSITORY, _scope(home / "scope"))
    sparsify, run = _sparsify(home / "made")
    files = {f"run/layers.1/{p.name}": p for p in sparsify.iterdir()}
    _cached(home / "hub", "tiny/sparsify", files | {"run/config.json": run})
    return home


def _scope(root: Path) -> dict[str, Path]:
    """Write a Gemma Scope 2 SAE, whose sizes SAELens asks the hub's server for."""
    import torch
    from safetensors.torch import save_file

    root.mkdir()
    shapes = {"w_enc": (16, 24), "w_dec": (24, 16), "b_enc": (24,), "b_dec": (16,),
              "threshold": (24,)}  # fmt: skip
    save_file({n: torch.ones(s) for n, s in shapes.items()}, root / "params.safetensors")
    return {f"{SCOPE_FOLDER}/params.safetensors": root / "params.safetensors"}


def _sparsify(root: Path) -> tuple[Path, Path]:
    """Write a sparsify directory, and its run's configuration."""
    import torch
    from safetensors.torch import save_file

    (root / "layers.1").mkdir(parents=True)
    shapes = {"encoder.weight": (24, 16), "encoder.bias": (24,), "W_dec": (24, 16), "b_dec": (16,)}
    save_file({n: torch.ones(s) for n, s in shapes.items()}, root / "layers.1" / "sae.safetensors")
    config = {"d_in": 16, "num_latents": 24, "k": 4, "activation": "topk"}
    (root / "layers.1" / "cfg.json").write_text(json.dumps(config))
    (root / "config.json").write_text(json.dumps({"model": "tiny/llama", "ctx_len": 12}))
    return root / "layers.1", root / "config.json"


CASES = {
    "model by name": ("tiny/saes:a/good", "tiny/llama"),
    "model by metadata's alias": ("tiny/saes:a/good", None),
    "release of the registry": (f"{RELEASE}:blocks.2.hook_resid_pre", None),
    "sparsify's layout in a repository": ("tiny/sparsify:run/layers.1", None),
    "no such SAE in the release": (f"{RELEASE}:blocks.99.hook_resid_pre", None),
    "SAE not cached": ("tiny/saes:a/other", "tiny/llama"),
    "repository not cached": ("tiny/nothing:a", "tiny/llama"),
    "model not cached": ("tiny/saes:a/good", "tiny/nothing"),
    "SAE id missing": ("tiny/saes:", "tiny/llama"),
}


LOADED = {
    "by release": f"{CENTRED}:{CENTRED_FOLDER}",
    "by repository": f"{CENTRED_REPOSITORY}:{CENTRED_FOLDER}",
    "by repository, with a slash": f"{CENTRED_REPOSITORY}:{CENTRED_FOLDER}/",
    "unlisted folder": f"{CENTRED_REPOSITORY}:unlisted",
    "no registered repository": "tiny/saes:a/good",
    "sizes asked of the server": f"gemma-scope-2-270m-pt-res:{SCOPE_FOLDER.partition('/')[2]}",
    "copy in the cache": "CACHE",
    "cross-layer": CROSS_LAYER,
    "cross-layer by repository": "mntss/clt-gemma-2-2b-2.5M:0",
    "cross-layer of Gemma Scope 2": SILENT,
}


@pytest.fixture(scope="module")
def found(home, tiny):
    """What comes of each case; one process, because importing takes seconds."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        environment.pop(name, None)
    copy = home / "hub" / f"models--{CENTRED_REPOSITORY.replace('/', '--')}" / "snapshots"
    given = (json.dumps(list(each.values())) for each in (CASES, LOADED))
    given = (each.replace("CACHE", str(copy / REVISION / CENTRED_FOLDER)) for each in given)
    command = [sys.executable, "-c", SCRIPT, tiny.texts, *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip([*CASES, *LOADED], json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.fixture(scope="module")
def weights(tiny):
    from sae_lens import SAE

    from saebench.subjects.modules import tensors_sha256

    return tensors_sha256(SAE.load_from_disk(tiny.good).state_dict())


def test_model_and_sae_are_loaded_by_name_from_the_cache(found, weights):
    assert found["model by name"] == ["tiny/llama", weights, "tiny/saes:a/good"]


def test_the_models_alias_in_the_metadata_leads_to_its_hub_name(found, weights):
    assert found["model by metadata's alias"][:2] == ["gpt2", weights]


def test_an_sae_of_the_registry_is_loaded_from_the_cache(found, weights):
    assert found["release of the registry"][:2] == ["gpt2", weights]


def test_a_repository_of_another_layout_is_read_as_its_directory_is(found):
    """Model and context come from the run's configuration above the folder."""
    model, weights, source = found["sparsify's layout in a repository"]
    assert (model, source) == ("tiny/llama", "tiny/sparsify:run/layers.1")
    assert len(weights) == 64


@pytest.mark.parametrize(
    ("case", "kind", "said"),
    [
        ("no such SAE in the release", "SubjectError", "blocks.99.hook_resid_pre"),
        ("SAE not cached", "SubjectError", "tiny/saes:a/other"),
        ("repository not cached", "SubjectError", "tiny/nothing:a"),
        ("model not cached", "HostError", "model 'tiny/nothing'"),
        ("SAE id missing", "SubjectError", "tiny/saes:"),
    ],
)
def test_what_is_not_in_the_cache_is_a_clear_error_offline(found, case, kind, said):
    assert found[case][0] == kind
    assert said in found[case][1]
    assert len(found[case][1]) < 600


def test_a_registered_repository_is_read_as_its_release_says(found):
    for case in ("by repository", "by repository, with a slash", "copy in the cache"):
        assert found[case] == found["by release"]
    assert found["by release"]["centred"]
    assert found["by release"]["expected"] == pytest.approx(0.99, abs=0.01)
    assert found["by release"]["notes"] == []


def test_a_folder_that_the_registry_does_not_list_gets_its_releases_overrides_and_a_note(found):
    assert found["unlisted folder"]["centred"]
    assert found["unlisted folder"]["expected"] is None
    (note,) = found["unlisted folder"]["notes"]
    assert CENTRED in note


def test_a_repository_that_the_registry_does_not_know_is_read_as_it_is(found):
    assert not found["no registered repository"]["centred"]
    assert found["no registered repository"]["notes"] == []


def test_a_release_whose_sizes_saelens_asks_the_server_for_is_read_from_the_cache(found):
    case = found["sizes asked of the server"]
    assert (case["hook"], case["d_sae"]) == ("blocks.12.hook_resid_post", 24)


@pytest.mark.parametrize("case", [c for c in LOADED if "cross-layer" in c])
def test_a_cross_layer_transcoders_layer_is_refused_before_it_is_fetched(found, case):
    assert "cross-layer transcoder" in found[case]["error"]
