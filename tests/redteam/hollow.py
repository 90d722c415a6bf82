"""Adversaries that reconstruct without a dictionary: components, codes, lookups, the identity."""

import torch
from torch import Tensor, nn

from redteam.catalogue import adversary
from redteam.fitting import k_means, train_topk
from redteam.modules import Coder, in_both_signs, lookup, nearest, one_of, top
from redteam.world import World

K = 16


@adversary(caught_by="advantage.kl_ratio")
def principal_components(world: World) -> Coder:
    """PCA: the 16 largest coefficients of each token in the basis of the covariance."""
    fit = world.fit()
    return in_both_signs(fit.principal, fit.mean, K)


@adversary(caught_by="advantage.kl_ratio")
def first_principal_components(world: World) -> Coder:
    """The projection on the first 16 principal components, the same ones at each token."""
    fit = world.fit()
    return in_both_signs(fit.principal[:K], fit.mean)


@adversary(caught_by="sparsity.dense_share")
def identity_in_both_signs(world: World) -> Coder:
    """The identity: a feature for each sign of each neuron."""
    d = world.fit().x.shape[1]
    return in_both_signs(torch.eye(d), torch.zeros(d))


@adversary(caught_by="sparsity.dense_share")
def shrunken_identity(world: World) -> Coder:
    """The activation times 0.82, with a feature for each sign of each neuron."""
    identity = identity_in_both_signs(world)
    return identity.changed(decoder=0.82 * identity.W_dec)


@adversary(caught_by="sparsity.dense_share")
def part_of_the_identity(world: World) -> Coder:
    """Half of the neurons as they are, the others at their mean."""
    fit = world.fit()
    return in_both_signs(torch.eye(fit.x.shape[1])[::2], fit.mean)


@adversary(caught_by="sparsity.dense_share")
def quantised_identity(world: World) -> Coder:
    """Each neuron rounded to one of sixteen levels, each of which is a feature."""
    fit = world.fit()
    low, high = fit.x.amin(dim=0), fit.x.amax(dim=0)
    levels, d = 16, fit.x.shape[1]
    step = (high - low) / (levels - 1)
    middle = low + step * torch.arange(levels)[:, None]  # [levels, d]

    def encode(x: Tensor) -> Tensor:
        place = ((x - low) / step).round().clamp(0, levels - 1).long()
        features = torch.zeros(len(x), d, levels).scatter(2, place[..., None], 1.0)
        return features.flatten(1)

    return Coder(encode, torch.diag_embed(middle).transpose(0, 1).flatten(0, 1))


@adversary(caught_by="advantage.kl_ratio")
def random_rotation(world: World) -> Coder:
    """The 16 largest coefficients of each token in a random orthonormal basis."""
    fit = world.fit()
    d = fit.x.shape[1]
    rotation = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(1)))[0]
    return in_both_signs(rotation, fit.mean, K)


@adversary(caught_by="sparsity.dense_share")
def whole_random_basis(world: World) -> Coder:
    """A random encoder with as many active features as there are dimensions."""
    fit = world.fit()
    d = fit.x.shape[1]
    random = torch.randn(d, d, generator=torch.Generator().manual_seed(2))
    shift = (-(fit.x @ random.T).amin(dim=0)).clamp_min(0) * 2 + 1
    back = torch.linalg.inv(random).T
    return Coder(lambda x: (x @ random.T + shift).relu(), back, -shift @ back)


@adversary(caught_by="advantage.kl_ratio")
def duplicates(world: World) -> Coder:
    """Each feature of an honest SAE four times."""
    return _four_times(world.coder())


@adversary(caught_by="sparsity.dense_share")
def duplicates_of_a_sparse_one(world: World) -> Coder:
    """Each feature of an honest SAE with few active ones four times."""
    return _four_times(world.coder("l2-standard"))


def _four_times(base: Coder) -> Coder:
    return Coder(lambda x: base.encoder(x).repeat(1, 4), base.W_dec.repeat(4, 1) / 4, base.b_dec)


@adversary(caught_by="advantage.random_dictionary_ratio")
def matching_pursuit(world: World) -> Coder:
    """Matching pursuit with 16 of 512 random unit vectors."""
    fit = world.fit()
    random = torch.randn(512, fit.x.shape[1], generator=torch.Generator().manual_seed(3))
    random /= random.norm(dim=1, keepdim=True)
    return Coder(lambda x: pursued(x - fit.mean, random, K), random, fit.mean)


@adversary(caught_by="advantage.random_dictionary_ratio")
def wide_matching_pursuit(world: World) -> Coder:
    """Matching pursuit with 16 of 8,192 random unit vectors."""
    fit = world.fit()
    random = torch.randn(8192, fit.x.shape[1], generator=torch.Generator().manual_seed(3))
    random /= random.norm(dim=1, keepdim=True)
    return Coder(lambda x: pursued(x - fit.mean, random, K), random, fit.mean)


@adversary(
    passes_because=(
        "A greedy search over samples of the activations is a dictionary, if a crude one; what "
        "it lacks is training, which is no property of its numbers."
    )
)
def pursuit_of_activations(world: World) -> Coder:
    """Matching pursuit with 16 of 512 activations of other texts, less their mean."""
    fit = world.fit()
    drawn = (fit.x - fit.mean)[:: len(fit.x) // 512][:512]
    drawn = drawn / drawn.norm(dim=1, keepdim=True)
    return Coder(lambda x: pursued(x - fit.mean, drawn, K), drawn, fit.mean)


@adversary(caught_by="sparsity.dense_share")
def sign_codes(world: World) -> Coder:
    """The signs of the principal components, with their mean size: one bit each."""
    fit = world.fit()
    size = ((fit.x - fit.mean) @ fit.principal.T).abs().mean(dim=0)
    code = in_both_signs(fit.principal * size[:, None], fit.mean)
    return code.changed(encoder=lambda x: (code.encoder(x) > 0).float())


@adversary(caught_by="kl_gap.ratio[eps_random]")
def codebook(world: World) -> Coder:
    """A k-means codebook: one feature for each of 512 clusters, one active at each token."""
    centres = k_means(world.fit().x, 512)
    return lookup(centres, centres)


@adversary(caught_by="sparsity.one_sequence_mass")
def large_codebook(world: World) -> Coder:
    """A codebook of 8,192 activations of other texts, the nearest of which is active."""
    x = world.fit().x[:: max(1, len(world.fit().x) // 8192)]
    return lookup(x, x)


@adversary(
    passes_because=(
        "It is a dictionary that was fitted by other means, with eight active entries a token. "
        "Its predictions are faithful; that its entries mean less than an SAE's features is for "
        "interpretability to say."
    )
)
def residual_codebooks(world: World) -> Coder:
    """Eight k-means codebooks, each of what the ones before leave."""
    return stacked_codebooks(world.fit().x, books=8, size=256)


@adversary()
def local_components(world: World) -> Coder:
    """A mixture of PCAs: 32 clusters, each with a basis of its own, of which 15 are active."""
    return clusters_with_bases(world.fit().x, clusters=32, keep=15)


@adversary(caught_by="sparsity.one_sequence_mass")
def memorised_texts(world: World) -> Coder:
    """One feature for each token of the judged texts, found by the nearest neighbour."""
    x = world.judged().x
    return lookup(x, x)


@adversary(caught_by="sparsity.one_sequence_mass")
def half_memorised(world: World) -> Coder:
    """One feature for each second token of the judged texts, an honest SAE at the others."""
    base, x = world.coder(), world.judged().x[::2]
    n = len(x)

    def encode(rows: Tensor) -> Tensor:
        distance, place = nearest(rows, x)
        hit = (distance < 1e-3 * rows.norm(dim=1))[:, None]
        return torch.cat([one_of(place, n) * hit, base.encoder(rows) * ~hit], dim=1)

    return Coder(encode, torch.cat([x - base.b_dec, base.W_dec]), base.b_dec)


@adversary(caught_by=None)  # an ERROR before any gate: no feature fires
def nothing_active(world: World) -> Coder:
    """No feature at all: the mean activation."""
    fit = world.fit()
    return Coder(lambda x: torch.zeros(len(x), 64), torch.eye(64, fit.x.shape[1]), fit.mean)


@adversary(caught_by="sparsity.strongest_direction")
def always_the_mean(world: World) -> Coder:
    """The mean as a feature that is always on, and four small random ones."""
    fit = world.fit()
    random = torch.randn(256, fit.x.shape[1], generator=torch.Generator().manual_seed(4))
    random /= random.norm(dim=1, keepdim=True)

    def encode(x: Tensor) -> Tensor:
        return torch.cat([torch.ones(len(x), 1), 0.1 * top((x @ random.T).relu(), 4)], dim=1)

    return Coder(encode, torch.cat([fit.mean[None], random]))


@adversary(caught_by="sparsity.dense_share")
def dense_at_one_token_in_ten(world: World) -> Coder:
    """Few active features at nine tokens of ten, and the identity at the tenth that is hardest."""
    return dense_where_it_is_hard(world, share=0.1)


@adversary(caught_by="sparsity.dense_share")
def dense_at_nine_tokens_in_ten(world: World) -> Coder:
    """The identity at nine tokens of ten, and few active features at the tenth that is easiest."""
    return dense_where_it_is_hard(world, share=0.9)


@adversary(refused=True)
def skip_path(world: World) -> nn.Module:
    """The identity in a skip path from the hook to itself, with no active feature."""
    d = world.fit().x.shape[1]
    sae = Coder(lambda x: torch.zeros(len(x), 64), torch.zeros(64, d))
    sae.W_skip = nn.Parameter(torch.eye(d), requires_grad=False)
    return sae


@adversary(refused=True)
def remembers_the_activation(world: World) -> nn.Module:
    """A module that keeps what it encodes and returns it when it decodes."""

    class Remembers(Coder):
        def encode(self, x: Tensor) -> Tensor:
            self.kept = x
            return super().encode(x)

        def decode(self, features: Tensor) -> Tensor:
            return self.kept if len(self.kept) == len(features) else super().decode(features)

    base = world.coder()
    return Remembers(base.encoder, base.W_dec, base.b_dec)


@adversary(refused=True)
def numbers_in_digits(world: World) -> nn.Module:
    """Two neurons in each feature: one in its leading digits, the other in its last ones."""
    x = world.fit().x
    low, high = x.amin(), x.amax()
    levels, d = 2048, x.shape[1]

    class Digits(Coder):
        def encode(self, x: Tensor) -> Tensor:
            whole = ((x - low) / (high - low) * (levels - 1)).round().clamp(0, levels - 1)
            return whole[:, ::2] * levels + whole[:, 1::2] + 1

        def decode(self, features: Tensor) -> Tensor:
            whole = (features - 1).clamp_min(0)
            both = torch.stack([(whole / levels).floor(), whole % levels], dim=2).flatten(1)
            return both / (levels - 1) * (high - low) + low

    return Digits(lambda x: x, torch.eye(d // 2, d))


@adversary(caught_by="advantage.kl_ratio")
def quick_autoencoder(world: World) -> Coder:
    """A dense autoencoder with 16 units that are always on, trained on the squared error."""
    return train_topk(world.fit().x, k=K, width=K)


def dense_where_it_is_hard(world: World, *, share: float) -> Coder:
    """Return the identity at the share of tokens where an honest SAE is worst, and it elsewhere."""
    base, fit = world.coder(), world.fit()
    identity = identity_in_both_signs(world)

    def loss(x: Tensor) -> Tensor:
        return (base.decode(base.encoder(x)) - x).norm(dim=1)

    limit = loss(fit.x).quantile(1 - share)

    def encode(x: Tensor) -> Tensor:
        hard = (loss(x) > limit)[:, None]
        dense = identity.encoder(x - base.b_dec)
        return torch.cat([base.encoder(x) * ~hard, dense * hard], dim=1)

    return Coder(encode, torch.cat([base.W_dec, identity.W_dec]), base.b_dec)


def pursued(x: Tensor, directions: Tensor, steps: int) -> Tensor:
    """Return the coefficients that matching pursuit gives each activation."""
    features, left = torch.zeros(len(x), len(directions)), x.clone()
    rows = torch.arange(len(x))
    for _ in range(steps):
        best = (products := left @ directions.T).abs().argmax(dim=1)
        found = products[rows, best]
        features[rows, best] += found
        left = left - found[:, None] * directions[best]
    return features


def stacked_codebooks(x: Tensor, *, books: int, size: int) -> Coder:
    """Return residual vector quantisation as an SAE with one active feature of each book."""
    centres, left = [], x
    for _ in range(books):
        centres.append(k_means(left, size))
        left = left - centres[-1][torch.cdist(left, centres[-1]).argmin(dim=1)]

    def encode(rows: Tensor) -> Tensor:
        found, rest = [], rows
        for book in centres:
            place = torch.cdist(rest, book).argmin(dim=1)
            found.append(one_of(place, size))
            rest = rest - book[place]
        return torch.cat(found, dim=1)

    return Coder(encode, torch.cat(centres))


def clusters_with_bases(x: Tensor, *, clusters: int, keep: int) -> Coder:
    """Return a mixture of PCAs: the nearest centre, and its basis's largest coefficients."""
    centres = k_means(x, clusters)
    place = torch.cdist(x, centres).argmin(dim=1)
    bases = []
    for i, centre in enumerate(centres):
        own = (x[place == i] - centre).double()
        basis = torch.linalg.eigh(own.T @ own)[1].T.float()
        bases.append(torch.cat([basis, -basis]))
    directions = torch.cat(bases)
    own_cluster = torch.arange(clusters).repeat_interleave(len(bases[0]))

    def encode(rows: Tensor) -> Tensor:
        at = torch.cdist(rows, centres).argmin(dim=1)
        products = ((rows - centres[at]) @ directions.T).relu() * (own_cluster == at[:, None])
        return torch.cat([one_of(at, clusters), top(products, keep)], dim=1)

    return Coder(encode, torch.cat([centres, directions]))
