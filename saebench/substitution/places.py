"""SAEs at their places in a model, with what their interventions must know of the corpus."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from saebench.measures.stages import Stages
from saebench.subjects.hooks import Site
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Engine, site_of
from saebench.substitution.gathering import check_first_look
from saebench.substitution.interventions import Tokens
from saebench.substitution.reference import Reference
from saebench.substitution.rows import read_rows
from saebench.substitution.windows import WindowBatch


@dataclass(frozen=True)
class Placed:
    """An SAE at its place.

    Attributes:
        subject: the SAE.
        site: its place.
        reference: corpus statistics there.
        bank_errors: the SAE's errors at the reference's bank.
        seed: root seed of all noise.
    """

    subject: Subject
    site: Site
    reference: Reference
    bank_errors: Float[Tensor, "bank d"]
    seed: int

    def tokens(self, batch: WindowBatch, *, stages: Stages) -> Tokens:
        """Return the batch's substituted tokens, reconstructed."""
        x = read_rows(self.site, batch.window.tail.activations[self.site], batch.at)
        x_hat = self.subject.reconstruct(x, stages=stages).x_hat
        place = (batch.sequence, batch.position, self.reference, self.bank_errors)
        return Tokens(x, x_hat, *place, self.seed)


class Places:
    """Finds each SAE's place once, whatever is measured there.

    Args:
        engine: the run's, for its model, seed and corpus statistics.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._found: dict[str, Placed] = {}

    def of(self, subject: Subject) -> Placed:
        """Return an SAE at its place.

        Raises:
            MeasurementError: where a first look at its reconstructions shows that it cannot be
                judged.
        """
        if subject.id not in self._found:
            site = site_of(self.engine.host, subject)
            reference = self.engine.reference(site)
            x_hat = subject.reconstruct(reference.bank).x_hat
            check_first_look(subject, reference.bank, x_hat)
            errors = reference.bank - x_hat
            self._found[subject.id] = Placed(subject, site, reference, errors, self.engine.seed)
        return self._found[subject.id]
