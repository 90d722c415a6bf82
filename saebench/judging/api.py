"""Judging from Python: notebooks and training scripts."""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from saebench.data.documents import given_documents
from saebench.errors import HostError, OptionError, SubjectError, nearest
from saebench.experiments.base import COST
from saebench.experiments.bench import Bench
from saebench.experiments.prepare import (
    benches_of,
    chosen_device,
    prepare,
    prompts_of,
    texts_of,
    torchs_own_settings,
)
from saebench.experiments.texts import Texts
from saebench.judging.cases import Given, Requests
from saebench.judging.judge import Judge
from saebench.options import Overrides, Scale, Settings, whole_number, yes_or_no
from saebench.progress import progress_bar
from saebench.properties import find_property
from saebench.properties import properties as all_properties
from saebench.records.run import Run
from saebench.report.exports.measurements import to_html, to_pandas
from saebench.report.terminal import render
from saebench.scale.jobs import recipe_of
from saebench.scale.sharded import Sharing
from saebench.scale.workplace import Workplace
from saebench.subjects.given_model import TF32, check_asked, check_given, check_tokenizer
from saebench.subjects.host import Host
from saebench.subjects.host_loading import check_tf32, load_host
from saebench.subjects.loading import load_subject, wrap_sae
from saebench.subjects.references import SubjectReference, find_subjects
from saebench.subjects.sae import Subject

if TYPE_CHECKING:
    import pandas as pd


class JudgedRun(Run):
    """A run that shows itself: as a table when printed, as HTML in a notebook."""

    def __str__(self) -> str:
        """Return the tables of all SAEs, worst gate first, as standard output can show them."""
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        shown = render(self, encoding=encoding)
        return shown.encode(encoding, "backslashreplace").decode(encoding)

    def _repr_html_(self) -> str:
        return to_html(self)

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row for each metric, with its interval."""
        return to_pandas(self)


def judge(
    sae: Any,
    model: Any = None,
    data: Any = None,
    *,
    properties: Sequence[str] | str | None = None,
    sequences: int | None = None,
    context: int | None = None,
    tokenizer: Any = None,
    hook: str | None = None,
    training_context: int | None = None,
    prepend_bos: bool | None = None,
    hook_out: str | None = None,
    norm_factor: str | float | None = None,
    name: str = "sae",
    workers: int | None = None,
    engine: str = "local",
    run_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> JudgedRun:
    """Judge an SAE as ``pytest benchmarks`` does.

    Args:
        sae: a SAELens SAE, any torch module with ``encode`` and ``decode``, or a SPEC as for
            ``--sae``. An object is left as it was. Several SAEs of one model are given as a list
            of SPECs, or as a dictionary of objects by name; pairs of them are then judged too.
        model: a transformers causal language model, a directory or a name; None takes the
            SAE's metadata.
        data: texts, or a SPEC as for ``--sae-dataset``. Texts are strings, or rows with a string
            under ``text``, in a list, a generator (which may be endless), a data set or a stream of
            one; or a data frame with a column ``text``.
        properties: which properties; all by default, but for cost, which is timed on request.
        sequences: how many sequences.
        context: tokens in each; the SAE's training context by default.
        tokenizer: for a model object, or the name of one; looked up by the model's name by default.
        hook: where the SAE belongs, if its metadata does not say.
        training_context: what it was trained on, if its metadata does not say.
        prepend_bos: whether it was trained with BOS first, if its metadata does not say.
        hook_out: a transcoder's output hook, if its metadata does not say.
        norm_factor: what its training scaled activations with, if its files do not say: a
            number, ``estimate`` from the texts, or ``folded`` where the weights hold it.
        name: what results call an SAE object.
        workers: processes, or Ray actors, that share the sequences. They load everything
            themselves: SAEs, model and data are then given as SPECs.
        engine: ``local`` or ``ray``.
        run_dir: keep finished shards here: the same call goes on where it stopped.
        **options: further fields of :class:`saebench.options.Settings`, such as ``seed``, and of
            :class:`saebench.options.Scale`, such as ``shard_sequences``.

    Raises:
        UsageError: for anything that cannot be judged as given.
        StoreError: where shards cannot be written, or workers were lost again and again.

    Example::

        run = saebench.judge(sae, model, texts, sequences=64, context=128)
        print(run)
        assert run.passed
    """
    model, data = (os.fspath(x) if isinstance(x, os.PathLike) else x for x in (model, data))
    _refuse_tokenizer(model, tokenizer)
    saes = _named(sae, name)
    scale = _scale(options, workers=workers, engine=engine, run_dir=run_dir)
    whole_number("training_context", training_context)
    yes_or_no("prepend_bos", prepend_bos)
    settings = _settings(
        options,
        sequences=sequences,
        context=context,
        model=model if isinstance(model, str) else None,
        dataset=data if isinstance(data, str) else None,
        overrides=Overrides(hook, training_context, prepend_bos, hook_out, norm_factor),
    )
    if settings.stop_early:
        scale.refuse_rounds()
    asked = [properties] if isinstance(properties, str) else properties
    chosen = [find_property(p).name for p in asked or _untimed()]
    judge = Judge(settings)
    named = isinstance(saes, list) and all(x is None or isinstance(x, str) for x in (model, data))
    specs = saes if named and isinstance(saes, list) else []
    modules = saes.values() if isinstance(saes, dict) else ()
    with torchs_own_settings(), _mode_restored(*modules, model):
        references = find_subjects(specs)
        with _workplace(scale, settings, specs, references) as place:
            if named:
                benches = prepare(settings, references)
            else:
                subjects = _subjects(saes, settings)
                host = _host(model, tokenizer, settings, subjects[0])
                benches = benches_of(
                    settings, [(s, host) for s in subjects], _texts(data, settings)
                )
            sharing = Sharing(place, benches) if place is not None else None
            judge.adopt(benches, maker=sharing)
            judge.announce(Requests(_given(benches)).every(chosen))
            judge.check_rules_are_asked()
            for request in judge.requests:
                case = judge.case(request, progress=progress_bar)
                if sharing is not None:
                    sharing.note(case, judge.reads(request), failed=judge.fails(case))
    run = judge.run(complete=True)
    return JudgedRun(**{f.name: getattr(run, f.name) for f in fields(run)})


@contextmanager
def _workplace(
    scale: Scale, settings: Settings, specs: Sequence[str], references: Iterable[SubjectReference]
) -> Iterator[Workplace | None]:
    """Give where the run is measured in shards, where that was asked for.

    Raises:
        OptionError: for workers that have nothing to load.
    """
    if not scale.shares_out:
        yield None
        return
    if scale.hires and not specs:
        raise OptionError(
            "judge(workers=…, engine=…): workers load everything themselves, so give the SAEs, "
            "model=… and data=… as SPECs (directories, files or names), not as objects; for "
            "objects there is run_dir=… alone"
        )
    with closing(Workplace(scale, recipe_of(scale, settings, specs, references))) as place:
        yield place
        for note in place.notes:
            warnings.warn(note, stacklevel=2)


def _untimed() -> list[str]:
    return [name for name, declared in all_properties().items() if declared.source != COST]


def _scale(options: dict[str, Any], **given: Any) -> Scale:
    """Take out of the options what says how to share the run out."""
    own = {f.name for f in fields(Scale)} & set(options)
    chosen = given | {name: options.pop(name) for name in own}
    if chosen["run_dir"] is not None:
        chosen["run_dir"] = Path(chosen["run_dir"]).absolute()
    return Scale(**chosen)


def _settings(options: dict[str, Any], **given: Any) -> Settings:
    known = {f.name for kind in (Settings, Scale) for f in fields(kind)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(f"judge() has no option {unknown[0]!r}{nearest(unknown[0], known)}")
    return Settings(**given, **options)


def _named(sae: Any, name: str) -> dict[str, Any] | list[str]:
    """Return SAE objects by name, or SPECs.

    Raises:
        SubjectError: for a list that holds anything but SPECs.
    """
    if isinstance(sae, Mapping):
        return dict(sae)
    several = list(sae) if isinstance(sae, list | tuple) else [sae]
    if several and all(isinstance(each, str | os.PathLike) for each in several):
        return [os.fspath(each) for each in several]
    if isinstance(sae, list | tuple):
        raise SubjectError(
            "sae: expected a list of SPECs; give several SAE objects as a dictionary by name"
        )
    return {name: sae}


def _given(benches: Iterable[Bench]) -> list[Given]:
    return [
        Given(subject.id, str(id(bench.host)), subject.metadata.hook)
        for bench in benches
        for subject in bench.subjects
    ]


def _subjects(saes: dict[str, Any] | list[str], settings: Settings) -> list[Subject]:
    if isinstance(saes, list):
        device = chosen_device(settings)
        references = find_subjects(saes)
        return [load_subject(r, overrides=settings.overrides, device=device) for r in references]
    if not saes:
        raise SubjectError("sae: the dictionary holds no SAE")
    return [wrap_sae(sae, id=id, overrides=settings.overrides) for id, sae in saes.items()]


def _refuse_tokenizer(model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer that nothing would be done with.

    Raises:
        HostError: where the model is a name or a directory, which have their own.
    """
    if tokenizer is not None and (model is None or isinstance(model, str)):
        raise HostError(
            "tokenizer: is for a model object; a model given by name or directory brings its own"
        )


def _host(model: Any, tokenizer: Any, settings: Settings, subject: Subject) -> Host:
    if model is None or isinstance(model, str):
        source = settings.model or subject.metadata.model_name
        if source is None:
            raise HostError("model: None, and the SAE's metadata has no model_name; pass model=…")
        device = chosen_device(settings)
        return load_host(source, device=device, dtype=settings.dtype, asked_by="judge(model=…)")
    check_given(model)
    asked = settings.device if settings.device == "auto" else chosen_device(settings)
    check_asked(model, device=asked, dtype=settings.dtype)
    tf32 = settings.dtype == TF32
    if tf32:
        check_tf32(str(model.device))
    source = getattr(model, "name_or_path", "")
    if tokenizer is None or isinstance(tokenizer, str | os.PathLike):
        tokenizer = _tokenizer(source if tokenizer is None else os.fspath(tokenizer))
    check_tokenizer(tokenizer)
    name = source.rstrip("/").rsplit("/", 1)[-1] or "model"
    try:
        return Host(model, tokenizer, name=name, tf32=tf32)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        kind, why = type(model).__name__, _first_line(error)
        raise HostError(
            f"model: {kind} cannot be run on a few tokens: {why}; does "
            "model(input_ids=torch.tensor([[1, 2]])) run?"
        ) from error


def _first_line(error: Exception) -> str:
    """Return what an error says, on one line."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def _tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    if not source:
        raise HostError("model: it does not say where it came from; pass tokenizer=…")
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever a damaged file leads it to
        raise HostError(f"model: no tokenizer at {source!r}; pass tokenizer=…") from error


def _texts(data: Any, settings: Settings) -> Texts:
    if data is None or isinstance(data, str):
        return texts_of(settings)
    return Texts(given_documents(data), prompts_of(settings))


@contextmanager
def _mode_restored(*objects: Any) -> Iterator[None]:
    """Put every submodule back into training mode that was in it."""
    modules = [m for o in objects if isinstance(o, nn.Module) for m in o.modules()]
    modes = [module.training for module in modules]
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
