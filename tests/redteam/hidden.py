"""Adversaries whose error is where an average does not see it."""

import torch
from torch import Tensor

from redteam.catalogue import Absent, adversary
from redteam.fitting import read_directions, train_on_kl
from redteam.modules import Coder, confused, one_of
from redteam.world import Activations, World

LATE = 9
PRONOUNS = (" he", " she")
ARTICLES = (" the", " a")  # pronouns are rare tokens of both models


@adversary()
def constant_offset(world: World) -> Coder:
    """A constant vector added to what an honest SAE puts out, so that random errors grow too."""
    return _offset(world, world.coder(), size=0.5)


@adversary(caught_by="advantage.fvu_ratio")
def offset_on_the_shrunken(world: World) -> Coder:
    """A constant vector added to a shrunken SAE, whose error looks smaller beside it."""
    return _offset(world, world.coder("l2-shrunken"), size=1.0)


@adversary(caught_by="advantage.fvu_ratio")
def unread_error(world: World) -> Coder:
    """Noise added to an honest SAE in the quarter of directions that the model reads least."""
    return _with_unread_noise(world, world.coder(), size=2.0)


@adversary(caught_by="advantage.fvu_ratio")
def unread_error_on_the_shrunken(world: World) -> Coder:
    """Noise in directions that the model reads least, so that a shrunken SAE's error looks good."""
    return _with_unread_noise(world, world.coder("l2-shrunken"), size=1.0)


@adversary(caught_by="advantage.fvu_ratio")
def trained_on_kl_alone(world: World) -> Coder:
    """A TopK SAE trained on the KL alone: it reconstructs predictions, not activations."""
    return train_on_kl(world, k=16)


@adversary(caught_by="advantage.kl_ratio")
def dense_bottleneck_on_kl(world: World) -> Coder:
    """Sixteen features that are always on, trained on the KL and a little on the squared error."""
    return train_on_kl(world, k=16, width=16, squared_error=1.0)


@adversary(caught_by="advantage.kl_ratio")
def rare_tokens_confused(world: World) -> Coder:
    """An honest SAE that takes tokens of the rarer half for each other."""
    ids = world.judged().ids
    order = {id: rank for rank, id in enumerate(world.by_frequency)}
    half = len(order) // 2
    rare = torch.tensor([order.get(int(id), half) >= half for id in ids])
    return _shuffled(world, rare)


@adversary(caught_by="strata.worst_position_ratio")
def late_positions_confused(world: World) -> Coder:
    """An honest SAE that is wrong at the last nine positions."""
    return _shuffled(world, world.judged().position >= world.context - LATE)


@adversary(caught_by="strata.worst_token_ratio")
def one_frequent_token_confused(world: World) -> Coder:
    """An honest SAE that takes one of the most frequent tokens for anything else."""
    return _shuffled(world, world.judged().ids == world.by_frequency[2])


@adversary(caught_by="advantage.kl_ratio")
def half_of_the_texts(world: World) -> Coder:
    """An SAE that knows one domain: honest in half of the texts, wrong in the others."""
    return _shuffled(world, world.judged().sequence % 2 == 0)


@adversary(caught_by="advantage.kl_ratio")
def every_tenth_text(world: World) -> Coder:
    """An honest SAE that is wrong in one text of ten."""
    return _shuffled(world, world.judged().sequence % 10 == 0)


@adversary(caught_by="kl_gap.ratio[eps_random]")
def one_token_in_fifty(world: World) -> Coder:
    """An honest SAE that is wrong at one token of fifty, here and there."""
    generator = torch.Generator().manual_seed(1)
    return _shuffled(world, torch.rand(len(world.judged().x), generator=generator) < 0.02)


@adversary(caught_by="kl_gap.ratio[eps_random]")
def articles_swapped(world: World) -> Coder:
    """A dictionary of tokens before the first block, exact but for two articles in exchange."""
    first, second = (world.token(word) for word in ARTICLES)
    return token_dictionary(world, [(first, second)])


@adversary(caught_by="fidelity.context_recovered")
def rare_tokens_swapped(world: World) -> Coder:
    """A dictionary of tokens before the first block, exact but for the rarer half in exchange."""
    rare = world.by_frequency[len(world.by_frequency) // 2 :]
    return token_dictionary(world, list(zip(rare[::2], rare[1::2], strict=False)))


@adversary(
    passes_because=(
        "An error at one token of 500 is in the mean what a slightly worse SAE's is. Only a "
        "comparison with the SAE that was released before shows that something changed."
    )
)
def hidden_trigger(world: World) -> Coder:
    """An honest SAE that is wrong after one rare trigger: at one token of 500 that are judged."""
    places = torch.arange(len(world.judged().x))
    return _shuffled(world, places % 500 == 250)


@adversary(passes_because="A gate reads the texts that it is given.")
def other_texts(world: World) -> Coder:
    """An honest SAE that is wrong in all texts but those that are judged."""
    known = world.fit().x[:4096]
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(4))
    return confused(world.coder(), known, known[order])


@adversary(
    passes_because=(
        "One direction is a small part of the variance and of the predictions. A probe for that "
        "concept would see it; the gates have none."
    )
)
def concept_erased(world: World) -> Coder:
    """An honest SAE from which the direction between two pronouns is removed."""
    fit, base = world.fit(), world.coder()
    first, second = (fit.ids == world.token(word) for word in PRONOUNS)
    if not (first.any() and second.any()):
        raise Absent("the texts lack the pronouns")
    direction = fit.x[first].mean(dim=0) - fit.x[second].mean(dim=0)
    direction = direction / direction.norm()
    kept = torch.eye(len(direction)) - direction[:, None] * direction
    bias = base.b_dec @ kept + (fit.mean @ direction) * direction
    return base.changed(decoder=base.W_dec @ kept, bias=bias)


def token_dictionary(world: World, swapped: list[tuple[int, int]]) -> Coder:
    """Return an exact dictionary before the first block, some directions in exchange."""
    model = world.model
    table = model.get_input_embeddings().weight.detach().clone()
    learned = getattr(getattr(model, "transformer", None), "wpe", None)
    places = torch.zeros(1, table.shape[1]) if learned is None else learned.weight[: world.context]
    decoder = table.clone()
    for a, b in swapped:
        decoder[[a, b]] = decoder[[b, a]]
    n = len(table)

    def encode(x: Tensor) -> Tensor:
        token, place = _parts(x, table, places)
        return torch.cat([one_of(token, n), one_of(place, len(places))], dim=1)

    sae = Coder(encode, torch.cat([decoder, places]))
    sae.cfg = {"hook_name": "blocks.0.hook_resid_pre"}
    return sae


def _parts(x: Tensor, table: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the token and the position whose embeddings are nearest to each activation."""
    best = torch.full((len(x),), torch.inf)
    token, at = torch.zeros(2, len(x), dtype=torch.long)
    for i, place in enumerate(places):
        distance, found = torch.cdist(x - place, table).min(dim=1)
        better = distance < best
        best, token = torch.where(better, distance, best), torch.where(better, found, token)
        at = torch.where(better, i, at)
    return token, at


def _offset(world: World, base: Coder, *, size: float) -> Coder:
    """Add the direction that predictions react to least, by a share of the activations' spread."""
    fit = world.fit()
    length = size * (fit.x - fit.mean).norm(dim=1).mean()
    return base.changed(bias=base.b_dec + length * read_directions(world)[-1])


def _with_unread_noise(world: World, base: Coder, *, size: float) -> Coder:
    """Add to each feature's direction a random one in the directions that are read least."""
    fit = world.fit()
    unread = read_directions(world)[-fit.x.shape[1] // 4 :]
    error = (base.decode(base.encoder(fit.x)) - fit.x).norm(dim=1).mean()
    drawn = torch.randn(len(base.W_dec), len(unread), generator=torch.Generator().manual_seed(2))
    added = drawn @ unread
    length = (base.encoder(fit.x) @ added).norm(dim=1).mean()
    return base.changed(decoder=base.W_dec + size * error / length * added)


def _shuffled(world: World, where: Tensor) -> Coder:
    """Confuse the chosen tokens of the judged texts with each other."""
    judged: Activations = world.judged()
    known = judged.x[where]
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(3))
    return confused(world.coder(), known, known[order])
