"""Preparation: loads SAEs, models and texts, checks that they fit, and returns benches."""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

from saebench.data.cloze_tokens import ClozePrompt
from saebench.data.documents import Documents, open_documents
from saebench.data.order import Ways
from saebench.data.prompts import Prompts, open_prompts
from saebench.data.tokens import TokenSet
from saebench.errors import DataError, HostError, OptionError, nearest
from saebench.experiments.bench import Bench
from saebench.experiments.texts import Texts, take
from saebench.experiments.trial import find_place, try_on, with_estimated_norm
from saebench.options import Settings
from saebench.records.document_order import GENERATED
from saebench.subjects.bos import first_token
from saebench.subjects.host import Host
from saebench.subjects.host_loading import host_asked_for, load_host
from saebench.subjects.loading import load_subject
from saebench.subjects.references import SubjectReference
from saebench.subjects.sae import Subject
from saebench.substitution.gathering import site_of
from saebench.substitution.passes import Passes

DEMO_SEED = 0
DEMO_PROMPTS = 400


def prepare(settings: Settings, references: Iterable[SubjectReference]) -> tuple[Bench, ...]:
    """Load the SAEs, their models and texts, and check that they fit together.

    Raises:
        UsageError: for anything that cannot be measured as given; nothing has been measured.
    """
    _share_cores()
    device = chosen_device(settings)
    references = tuple(references)
    texts = {demo: texts_of(settings, demo=demo) for demo in {r.is_demo for r in references}}
    loaded = [load_subject(r, overrides=settings.overrides, device=device) for r in references]
    hosts: dict[str, Host] = {}
    placed: dict[bool, list[tuple[Subject, Host]]] = {}
    for reference, subject in zip(references, loaded, strict=True):
        source, asked_by = model_of(settings, reference, subject)
        if source not in hosts:
            own = reference.model == source
            hosts[source] = load_host(
                source,
                device=device,
                dtype=settings.dtype,
                asked_by=asked_by,
                name=subject.metadata.model_name if own else None,
            )
        placed.setdefault(reference.is_demo, []).append(
            placed_in(hosts[source], reference, subject, patch=settings.host_patch)
        )
    return tuple(
        bench for demo, some in placed.items() for bench in benches_of(settings, some, texts[demo])
    )


def placed_in(
    host: Host, reference: SubjectReference, subject: Subject, *, patch: bool
) -> tuple[Subject, Host]:
    """Return an SAE, with notes, and its model: the host, or what its patch makes of it if asked.

    Raises:
        UsageError: for a patch that is damaged or of another model.
    """
    own, notes = host_asked_for(host, reference.directory, patch=patch)
    subject.metadata = replace(subject.metadata, notes=subject.metadata.notes + notes)
    return subject, own


def benches_of(
    settings: Settings, placed: Iterable[tuple[Subject, Host]], texts: Texts
) -> tuple[Bench, ...]:
    """Return the benches: SAEs with the same model, context and BOS token share one.

    Args:
        settings: the run's settings.
        placed: the SAEs, each with its model.
        texts: the documents and cloze prompts to measure on.

    Raises:
        UsageError: if a hook is not in the model, or the documents are too short.
    """
    drawn = texts.documents.in_order(settings.order, seed=settings.seed)
    texts = replace(texts, documents=drawn)  # opened once for all benches and contexts
    groups: dict[tuple[int, int, int | None], list[tuple[Subject, Host]]] = {}
    for subject, host in placed:
        context = context_of(settings, subject, host)
        key = (id(host), context, first_token(host, subject.metadata, settings.bos_token).id)
        groups.setdefault(key, []).append((subject, host))
    return tuple(
        _bench(settings, some[0][1], texts, [s for s, _ in some], context=context, bos=bos)
        for (_, context, bos), some in groups.items()
    )


def _bench(
    settings: Settings,
    host: Host,
    texts: Texts,
    subjects: Iterable[Subject],
    *,
    context: int,
    bos: int | None,
) -> Bench:
    """Return a bench, with its tokens read and its SAEs' hooks checked."""
    subjects = tuple(subject.to(host.device) for subject in subjects)
    for subject in subjects:
        find_place(host, subject)
    tokens = take(settings, host, texts.documents, context=context, bos=bos)
    _prove(host, subjects, tokens)
    subjects = tuple(
        with_estimated_norm(host, subject, tokens) if subject.waits else subject
        for subject in subjects
    )
    try_on(host, subjects, tokens)
    return Bench(host, texts, subjects, tokens, settings, bos=bos)


def chosen_device(settings: Settings) -> str:
    """Return the torch device that the settings name, or the GPU if there is one.

    Raises:
        OptionError: if there is no such device.
    """
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(
            1, dtype=torch.float32, device=settings.device
        ).item()  # the device meta has no values
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"--sae-device {settings.device}: not usable here: {error}") from error
    return settings.device


def texts_of(settings: Settings, *, demo: bool = False) -> Texts:
    """Return the texts that the settings name, or the demo's own.

    Raises:
        DataError: if there are none.
    """
    prompts = prompts_of(settings, demo=demo and settings.dataset is None)
    if demo and settings.dataset is None:
        return Texts(demo_documents("heldout"), prompts)
    if settings.dataset is None:
        raise DataError(
            "no texts to measure on; give a .jsonl, .txt or .parquet file, a saved data set, or a "
            "hub name: --sae-dataset PATH|NAME[:SPLIT]"
        )
    return Texts(open_documents(settings.dataset), prompts)


def prompts_of(settings: Settings, *, demo: bool = False) -> Prompts | None:
    """Return the cloze prompts that the settings name, or the demo's own, read into memory.

    Raises:
        DataError: if they cannot be read.
    """
    spec = settings.cloze or ("demo" if demo else None)
    if spec is None:
        return None
    if spec == "demo" or spec.startswith("demo:"):
        return _demo_prompts(spec.partition(":")[2] or "lambada", settings.prompts or DEMO_PROMPTS)
    return open_prompts(spec).taken(settings.prompt_count, settings.order, seed=settings.seed)


def _share_cores() -> None:
    """Limit the threads of an xdist worker to its share of the cores."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def demo_documents(split: str) -> Documents:
    """Return the demo model's stories of a split; its SAEs were trained on the split ``sae``."""
    from saebench.zoo import corpus

    def read() -> Iterator[str]:
        return corpus.documents(corpus.split_seed(split, seed=DEMO_SEED))

    return Documents("demo stories", split, None, read, Ways(independent=True))


def _demo_prompts(kind: str, count: int) -> Prompts:
    """Return the demo model's cloze prompts of a kind."""
    from saebench.zoo import corpus as cloze

    known: dict[str, cloze.Kind] = {str(each): each for each in cloze.KINDS}
    if kind not in known:
        raise DataError(f"--sae-cloze demo:{kind}: no such prompts{nearest(kind, known)}")

    def read() -> Iterator[ClozePrompt]:
        for each in cloze.prompts(DEMO_SEED, count, kind=known[kind]):
            yield ClozePrompt(each.prompt, each.answer, each.options or ())

    name = "demo cloze" if kind == "lambada" else f"demo cloze, {kind}"
    return Prompts(name, None, None, read, order=GENERATED)


def context_of(settings: Settings, subject: Subject, host: Host) -> int:
    """Return the number of tokens in a sequence for this SAE.

    Raises:
        OptionError: if it is not known, or exceeds the model's context.
    """
    context = settings.context or subject.metadata.training_context
    if context is None:
        raise OptionError(
            f"{subject.source}: metadata has no context_size; give the number of tokens to "
            "measure on: --sae-context N"
        )
    if host.context is not None and context > host.context:
        if settings.context is None:
            return host.context
        raise OptionError(
            f"--sae-context {context}: {host.name} takes {host.context} tokens at most"
        )
    return context


def model_of(settings: Settings, reference: SubjectReference, subject: Subject) -> tuple[str, str]:
    """Return the name or path of an SAE's model, and what named it.

    Raises:
        HostError: if nothing names one.
    """
    if settings.model is not None:
        return settings.model, "--sae-model"
    if reference.model is not None:
        return reference.model, "the demo's own model"
    if subject.metadata.model_name is None:
        raise HostError(
            f"{subject.source}: metadata has no model_name, the model that the SAE was trained "
            "on; give it: --sae-model PATH|NAME"
        )
    from saebench.zoo import recipe
    from saebench.zoo import shelf as zoo

    name = subject.metadata.model_name
    if name == recipe.MODEL_NAME:  # the embedded demo model has no path in metadata
        name = str(zoo.model_path())
    return name, f"metadata.model_name of {subject.source}"


def _prove(host: Host, subjects: Iterable[Subject], tokens: TokenSet) -> None:
    """Check on the run's first sequences that substituting works at each hook of the model.

    Raises:
        HookError: if it does not.
        HostError: if the model cannot be run on sequences of this length.
    """
    passes, ids = Passes(host), tokens.ids.to(host.device)
    for site in dict.fromkeys(site_of(host, subject) for subject in subjects):
        passes.prove(site, ids)


@contextmanager
def torchs_own_settings() -> Iterator[None]:
    """Restore torch's default dtype, device and autocast inside the context.

    A notebook's ``torch.set_default_dtype(torch.bfloat16)`` would round noise, logits and sums, a
    default device would move them, and an autocast around the call would multiply in half
    precision.

    Example:
        >>> import torch
        >>> torch.set_default_dtype(torch.float64)
        >>> with torchs_own_settings():
        ...     torch.zeros(1).dtype
        torch.float32
        >>> torch.zeros(1).dtype
        torch.float64
        >>> torch.set_default_dtype(torch.float32)
    """
    import torch

    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if device.type != "cpu":
            stack.callback(torch.set_default_device, device)
            torch.set_default_device(None)
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield
