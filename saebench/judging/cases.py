"""Cases, each a property of an SAE or pair: their requests, fingerprints, needs and benches."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from saebench.errors import NotApplicable, OptionError
from saebench.experiments.base import Experiment, Pairs
from saebench.options import Settings
from saebench.properties import Property, find_property, properties
from saebench.records.case import CaseRequest, joined
from saebench.records.inputs import DatasetRecord, ModelRecord, SubjectRecord
from saebench.subjects.depth import depth, same_place

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench


def case_request(
    sae: str | Sequence[str],
    name: str,
    params: Mapping[str, Any] | None = None,
    *,
    peers: Sequence[str] = (),
) -> CaseRequest:
    """Return the request for a property of an SAE or pair, with default parameters filled in.

    Equal cases have equal ids and fingerprints, whether their parameters are given or defaults.

    Args:
        sae: the SAE's id, or a pair's two ids.
        name: the property.
        params: its parameters.
        peers: the model's other SAEs, for a property that reads their measurements too.

    Raises:
        OptionError: for an unknown property, or a pair if the property is about one SAE.
    """
    declared = find_property(name)
    subjects = (sae,) if isinstance(sae, str) else tuple(sae)
    if len(subjects) > 1 and not declared.reads(Pairs):
        raise OptionError(f"{name} is about one SAE, found the pair {joined(subjects)}")
    filled = dict(declared.defaults) | dict(params or {})
    read = tuple(peers) if declared.peers else ()
    return CaseRequest(subjects, declared.name, tuple(sorted(filled.items())), read)


def fingerprint(
    declared: Property,
    params: Mapping[str, Any],
    *,
    seed: int,
    sae: SubjectRecord,
    model: ModelRecord,
    data: DatasetRecord,
    others: Sequence[SubjectRecord] = (),
    experiment: Experiment,
    sequences: int | None = None,
) -> str:
    """Return a hash of everything that a case's metrics depend on.

    Cases with equal fingerprints have equal metrics up to floating point, and are comparable.

    Args:
        declared: the property.
        params: its parameters.
        seed: the run's random seed.
        sae: the case's SAE; for a pair, the first.
        model: the model.
        data: the measured tokens.
        experiment: the experiment that the case reads.
        sequences: number of measured sequences, if the run stopped early.
        others: the pair's second SAE, or the peers that the property reads.
    """
    parts: dict[str, Any] = {
        "metrics": sorted((spec.name, spec.version) for spec in declared.metrics),
        "params": sorted((key, str(value)) for key, value in params.items()),
        "seed": seed,
        "sae": (sae.weights_sha256, sae.config_sha256),
        "model": (model.weights_sha256, model.dtype),
        "tokens": data.fingerprint,
    }
    if others:
        parts["others"] = [(other.weights_sha256, other.config_sha256) for other in others]
    if experiment.has_parameters:
        parts["source"] = str(experiment)
    if sequences is not None:
        parts["sequences"] = sequences
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Given:
    """An SAE of the run; its model and hook are None if they are known only once it is loaded."""

    id: str
    model: str | None
    hook: str | None


class Requests:
    """Returns the requests for cases of the run's SAEs and pairs of them.

    Example:
        >>> saes = [Given("b", None, "blocks.2.hook_mlp_out"), Given("a", None, "blocks.0.hook_z")]
        >>> Requests(saes).subjects("propagation")
        [('a', 'b')]
    """

    def __init__(self, given: Sequence[Given]) -> None:
        self._given = tuple(given)
        self._pairs = list(_pairs(self._given))
        paired = {sae for pair in self._pairs for sae in pair}
        self._alone = [(each.id,) for each in self._given if each.id not in paired]
        self._by_name = {joined(subjects): subjects for subjects in self._pairs}

    def subjects(self, property_name: str) -> list[tuple[str, ...]]:
        """Return the SAEs that a property has cases of, or the pairs and the SAEs without one.

        An unknown property is treated as one about single SAEs.
        """
        declared = properties().get(property_name)
        if declared is not None and declared.reads(Pairs):
            return [*self._pairs, *self._alone]
        return [(each.id,) for each in self._given]

    def request(
        self, sae: str, property_name: str, params: Mapping[str, Any] | None = None
    ) -> CaseRequest:
        """Return the request for a property of an SAE, or of a pair by its joined name.

        Raises:
            OptionError: for an unknown property, or a pair if the property is about one SAE.
        """
        subjects = self._by_name.get(sae, (sae,))
        return case_request(subjects, property_name, params, peers=self._peers(sae))

    def every(self, property_names: Sequence[str]) -> Iterator[CaseRequest]:
        """Yield the requests for all cases of the properties, SAE by SAE, pairs last."""
        for each in self._given:
            for name in property_names:
                if (each.id,) in self.subjects(name):
                    for params in find_property(name).cases:
                        yield self.request(each.id, name, params)
        for name in property_names:
            if find_property(name).reads(Pairs):
                yield from (self.request(joined(pair), name) for pair in self._pairs)

    def _peers(self, sae: str) -> tuple[str, ...]:
        """Return the SAEs of the same model at other hooks."""
        own = next((each for each in self._given if each.id == sae), None)
        if own is None:
            return ()
        return tuple(g.id for g in self._given if g is not own and _are_apart(g, own))


def _pairs(saes: Sequence[Given]) -> Iterator[tuple[str, ...]]:
    """Yield the pairs of SAEs of one model, the first before the second.

    If the hooks' names do not tell the order, it is that of ``saes``.
    """
    for one, two in combinations(saes, 2):
        if not _of_one_model(one, two):
            continue
        depths = [None if g.hook is None else depth(g.hook) for g in (one, two)]
        if depths[0] is None or depths[1] is None or depths[0] < depths[1]:
            yield one.id, two.id
        elif depths[1] < depths[0]:
            yield two.id, one.id


def _are_apart(one: Given, two: Given) -> bool:
    """True for SAEs of one model at different hooks, as far as hooks are known."""
    known = one.hook is not None and two.hook is not None
    return _of_one_model(one, two) and not (known and same_place(one.hook or "", two.hook or ""))


def _of_one_model(one: Given, two: Given) -> bool:
    return one.model is None or two.model is None or one.model == two.model


class Needs:
    """The parameters, experiment and interventions of cases in a run.

    Args:
        settings: the run's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def params(self, request: CaseRequest) -> dict[str, Any]:
        """Return a case's parameters, including the run's choice of interventions."""
        chosen = self.settings.interventions
        return dict(request.params) | ({"interventions": chosen} if chosen else {})

    def experiment(self, request: CaseRequest) -> Experiment:
        """Return the experiment that a case reads."""
        declared = find_property(request.property_name)
        return declared.experiment_of(self.params(request), self.settings)

    def interventions(self, request: CaseRequest) -> tuple[str, ...]:
        """Return the interventions that a case's own metrics need.

        Raises:
            OptionError: for parameters that the property does not accept.
        """
        declared = find_property(request.property_name)
        own = declared.interventions(self.params(request))
        probed = (probe.intervention for probe in declared.probes)
        return tuple(dict.fromkeys((*own, *probed)))


def find_bench(benches: "Sequence[Bench]", request: CaseRequest) -> "Bench | None":
    """Return the bench of the case's SAEs; None where no bench has all of them."""
    return next((bench for bench in benches if bench.has(request.subjects)), None)


def bench_of(benches: "Sequence[Bench]", request: CaseRequest) -> "Bench":
    """Return the bench of the case's SAEs.

    Raises:
        NotApplicable: if a pair's SAEs are not measured on the same tokens.
    """
    if bench := find_bench(benches, request):
        return bench
    where = [next(b for b in benches if b.has([sae])) for sae in request.subjects]
    both = " and ".join(
        f"{sae} on {bench.about}" for sae, bench in zip(request.subjects, where, strict=True)
    )
    raise NotApplicable(
        f"{request.property_name}: the two are not measured on the same tokens: {both}; "
        "--sae-context N, --sae-prepend-bos and --sae-model make them so"
    )
