"""Judging from Python: notebooks and training scripts."""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from inspect import Parameter
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from saebench.data.given import given_documents
from saebench.errors import HostError, OptionError, SubjectError, nearest
from saebench.experiments.base import Timing
from saebench.experiments.bench import Bench
from saebench.experiments.prepare import (
    benches_of,
    chosen_device,
    placed_in,
    prepare,
    prompts_of,
    texts_of,
    torchs_own_settings,
)
from saebench.experiments.texts import Texts
from saebench.experiments.training_texts import measure_overlaps
from saebench.judging.in_process import judge_in_process, requests_of
from saebench.judging.judge import Judge
from saebench.measures.names import check_names
from saebench.option_kinds import Option, options_of
from saebench.options import RunOptions, Scale, Settings, options_from
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
from saebench.text import first_line

if TYPE_CHECKING:
    import pandas as pd

Function = TypeVar("Function", bound=Callable[..., Any])


def keywords() -> dict[str, Option]:
    """Return the options that are keywords of :func:`judge`, by keyword.

    What pytest reads into ``model`` and ``dataset`` is given by position, or as objects.
    """
    taken = ("model", "dataset")
    options = (*options_of(Settings), *options_of(Scale))
    return {each.field: each for each in options if each.field not in taken}


def documented(function: Function) -> Function:
    """Complete a function's signature and documentation by the keywords that are options."""
    options = keywords().values()
    *own, rest = inspect.signature(function).parameters.values()
    assert rest.kind is Parameter.VAR_KEYWORD
    added = [Parameter(o.field, Parameter.KEYWORD_ONLY, default=o.default) for o in options]
    function.__signature__ = inspect.Signature(own + added)  # pyright: ignore
    lines = "\n".join(f"        {o.field}: {o.help}{_one_of(o.kind.choices)}" for o in options)
    function.__doc__ = (function.__doc__ or "").replace("        OPTIONS", lines)
    return function


def _one_of(choices: Sequence[str]) -> str:
    return f": {', '.join(choices)}" if choices else ""


class JudgedRun(Run):
    """A run that prints as tables, and displays as HTML in a notebook."""

    def __str__(self) -> str:
        """Return the tables of all SAEs, worst gate first, in standard output's encoding."""
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        tables = render(self, encoding=encoding)
        return tables.encode(encoding, "backslashreplace").decode(encoding)

    def _repr_html_(self) -> str:
        return to_html(self)

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row for each metric, with its interval."""
        return to_pandas(self)


@documented
def judge(
    sae: Any,
    model: Any = None,
    data: Any = None,
    *,
    properties: Sequence[str] | str | None = None,
    tokenizer: Any = None,
    name: str = "sae",
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
        tokenizer: for a model object, or the name of one; looked up by the model's name by default.
        name: what results call an SAE object.
        **options: the options of ``pytest --help``, by the names that follow. Workers load
            everything themselves: with ``workers``, or ``engine="ray"``, SAEs, model and data are
            SPECs.
        OPTIONS

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
    asked = _asked(options, model=model, data=data)
    wanted = [properties] if isinstance(properties, str) else properties
    chosen = [find_property(p).name for p in wanted or _untimed()]
    judge = Judge(asked.settings)
    named = isinstance(saes, list) and all(x is None or isinstance(x, str) for x in (model, data))
    specs = saes if named and isinstance(saes, list) else []
    modules = saes.values() if isinstance(saes, dict) else ()
    with torchs_own_settings(), _mode_restored(*modules, model):
        references = find_subjects(specs)
        with _workplace(asked.scale, asked.settings, specs, references) as place:
            if named:
                benches = prepare(asked.settings, references)
            else:
                benches = _benches(saes, model, data, tokenizer, asked.settings)
            measure_overlaps(benches, progress=progress_bar)
            run = judge_in_process(
                judge,
                benches,
                requests_of(benches).every(chosen),
                progress=progress_bar,
                sharing=None if place is None else Sharing(place, benches),
                possible=requests_of(benches).every(list(all_properties())),
            )
    return JudgedRun(**{f.name: getattr(run, f.name) for f in fields(run)})


def _asked(options: Mapping[str, Any], *, model: Any, data: Any) -> RunOptions:
    """Return the options that the keywords are, with a model or data that are SPECs.

    Raises:
        TypeError: for a keyword that is no option.
        OptionError: for a value that an option cannot have.
    """
    known = keywords()
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"judge() has no option {unknown[0]!r}{nearest(unknown[0], known)}")
    specs = {"model": model, "dataset": data}
    given = {name: spec for name, spec in specs.items() if isinstance(spec, str)}
    asked = options_from(RunOptions, given | dict(options))
    check_names(asked.settings.interventions)
    return asked


def _benches(
    saes: dict[str, Any] | list[str], model: Any, data: Any, tokenizer: Any, settings: Settings
) -> tuple[Bench, ...]:
    """Return benches of which the SAEs, the model or the texts are objects."""
    if isinstance(saes, list):
        device, references = chosen_device(settings), find_subjects(saes)
        loaded = [load_subject(r, overrides=settings.overrides, device=device) for r in references]
        host = _host(model, tokenizer, settings, loaded[0])
        pairs = zip(references, loaded, strict=True)
        placed = [placed_in(host, r, s, patch=settings.host_patch) for r, s in pairs]
    else:
        subjects = _subjects(saes, settings)
        host = _host(model, tokenizer, settings, subjects[0])
        placed = [(subject, host) for subject in subjects]
    return benches_of(settings, placed, _texts(data, settings))


@contextmanager
def _workplace(
    scale: Scale, settings: Settings, specs: Sequence[str], references: Iterable[SubjectReference]
) -> Iterator[Workplace | None]:
    """Give where shards are measured; None for a run that is not divided into shards.

    Raises:
        OptionError: for workers, where something is an object that they cannot load.
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
    return [name for name, declared in all_properties().items() if not declared.reads(Timing)]


def _named(sae: Any, name: str) -> dict[str, Any] | list[str]:
    """Return SAE objects by name, or SPECs.

    Raises:
        SubjectError: for a list in which something is not a SPEC.
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


def _subjects(saes: dict[str, Any], settings: Settings) -> list[Subject]:
    if not saes:
        raise SubjectError("sae: the dictionary holds no SAE")
    return [wrap_sae(sae, id=id, overrides=settings.overrides) for id, sae in saes.items()]


def _refuse_tokenizer(model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer that would not be used.

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
        kind, why = type(model).__name__, first_line(error)
        raise HostError(
            f"model: {kind} cannot be run on a few tokens: {why}; does "
            "model(input_ids=torch.tensor([[1, 2]])) run?"
        ) from error


def _tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    if not source:
        raise HostError("model: it has no name_or_path to load a tokenizer from; pass tokenizer=…")
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
    """Restore, at the end, each submodule's training or evaluation mode."""
    modules = [m for o in objects if isinstance(o, nn.Module) for m in o.modules()]
    modes = [module.training for module in modules]
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
