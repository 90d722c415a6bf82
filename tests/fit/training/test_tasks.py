"""The whole model's loss: gradients against the plain pass, and what may not change."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from families import FAMILIES, make_host

from saebench.fit.stream import counted_of
from saebench.fit.training import Loss, Objective, Sparsity
from saebench.fit.training import tasks as divergence
from saebench.fit.training.sublayers import ResumedPasses, Sublayers, sublayer_paths
from saebench.fit.training.tasks import Weights, WholeModelTask, cross_entropy_mean, kl_mean
from saebench.fit.training.training_sae import make_sae
from saebench.subjects.hooks import find_site
from saebench.subjects.host_loading import load_host
from saebench.subjects.unembedding import LastStep

HOOKS = (
    "blocks.0.hook_resid_mid",
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_resid_post",
    "blocks.0.hook_mlp_out",
    "blocks.1.hook_attn_out",
    "blocks.1.attn.hook_z",
)


@pytest.fixture
def host(tiny):
    return load_host(tiny.model, device="cpu", dtype="float32", asked_by="test")


@pytest.fixture
def ids():
    rows = torch.randint(3, 43, (3, 12), generator=torch.Generator().manual_seed(0))
    rows[:, 0] = 1
    rows[1, 5] = 1
    return rows


def _task(host, hook, objective=Objective.FROZEN, *, loss=Loss.KL, checkpointing=None, l1=0.01):
    site = find_site(host, hook)
    sae = make_sae(d_in=site.width, d_sae=64, sparsity=Sparsity("l1", 1.0), metadata={}, seed=0)
    sublayers = None
    if objective.trains_sublayers:
        sublayers = Sublayers(host, sublayer_paths(host, hook))
    passes = ResumedPasses(host, site, sublayers=sublayers, checkpointing=checkpointing)
    return WholeModelTask(
        sae, passes, objective=objective, loss=loss, weights=Weights(sparsity=l1),
        validation=torch.ones(1, 12, dtype=torch.int64), sublayers=sublayers,
    )  # fmt: skip


def _plain(host, task, hook, ids):
    """The same loss of one full pass, from full logits, hooked by hand in each place."""
    model, sae, site = host.model, task.trained.sae, find_site(host, hook)
    counted = counted_of(ids, host.special_ids)
    parts = {}

    def put(x):
        features = sae.encode(x)
        parts["size"] = (features[counted] @ sae.W_dec.norm(dim=1)).mean()
        return torch.where(counted[..., None], sae.decode(features), x)

    def swap(_, __, output):
        first = output[0] if isinstance(output, tuple) else output
        return (put(first), *output[1:]) if isinstance(output, tuple) else put(first)

    if hook.endswith("resid_mid"):
        norm = model.model.layers[0].post_attention_layernorm
        # The residual is read twice: by the norm and by the sum after the MLP.
        layer = model.model.layers[0]
        old = layer.forward

        def forward(h, **kwargs):
            h = put(h + layer.self_attn(hidden_states=layer.input_layernorm(h), **kwargs)[0])
            return h + layer.mlp(norm(h))

        layer.forward = forward
        logits = model(input_ids=ids, use_cache=False).logits
        layer.forward = old
    else:
        block, module = site.block, site.module
        if module is None:
            handle = model.model.layers[block - 1].register_forward_hook(swap)
        elif hook.endswith("hook_z"):
            handle = model.get_submodule(module).register_forward_pre_hook(
                lambda _, args: (put(args[0]),)
            )
        else:
            handle = model.get_submodule(module).register_forward_hook(swap)
        logits = model(input_ids=ids, use_cache=False).logits
        handle.remove()
    with torch.no_grad():
        clean = model(input_ids=ids, use_cache=False).logits
    log_p, log_q = (z[counted].log_softmax(-1) for z in (clean, logits))
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean() + 0.01 * parts["size"]


@pytest.mark.parametrize("hook", HOOKS)
def test_gradients_of_the_resumed_loss_are_those_of_the_full_plain_pass(host, ids, hook):
    task = _task(host, hook)
    task.loss(ids).backward()
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    ours = {n: getattr(task.trained.sae, n).grad.clone() for n in names}
    task.trained.zero_grad()
    _plain(host, task, hook, ids).backward()
    for name in names:
        theirs = getattr(task.trained.sae, name).grad
        torch.testing.assert_close(ours[name], theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max())


@pytest.mark.parametrize("hook", HOOKS[:4])
def test_checkpointed_blocks_give_the_same_gradients(host, ids, hook):
    one, two = (_task(host, hook, checkpointing=c) for c in (False, True))
    for task in (one, two):
        task.loss(ids).backward()
    for (name, a), (_, b) in zip(
        one.module.named_parameters(), two.module.named_parameters(), strict=True
    ):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_blocks_of_every_family_are_run_again_as_they_were(family, ids):
    gradients = []
    for checkpointing in (False, True):
        host = make_host(family)
        task = _task(host, "blocks.1.hook_resid_pre", checkpointing=checkpointing)
        task.loss(ids).backward()
        gradients.append(task.trained.sae.W_enc.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("hook", ["blocks.0.hook_resid_mid", "blocks.1.hook_resid_pre"])
def test_gradients_of_half_layers_are_those_of_a_changed_model(host, ids, hook):
    """Both terms, with the half-layers' weights put into a copy of the model."""
    task = _task(host, hook, Objective.NON_INTRUSIVE, l1=0.0)
    halves = task.module["halves"]
    with torch.no_grad():
        for p in halves.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    task.loss(ids).backward()
    changed = copy.deepcopy(host.model).requires_grad_(True)
    changed.load_state_dict(host.model.state_dict() | halves.tensors())
    counted = counted_of(ids, host.special_ids)
    place = 0.0

    def put(x):
        return torch.where(counted[..., None], task.trained.sae(x), x)

    layer = changed.model.layers[0]
    with torch.no_grad():
        log_p = host.model(input_ids=ids, use_cache=False).logits[counted].log_softmax(-1)
    for with_sae in (True, False):
        old = layer.forward

        def forward(h, with_sae=with_sae, **kwargs):
            h = h + layer.self_attn(hidden_states=layer.input_layernorm(h), **kwargs)[0]
            h = put(h) if with_sae and hook.endswith("mid") else h
            h = h + layer.mlp(layer.post_attention_layernorm(h))
            return put(h) if with_sae and hook.endswith("pre") else h

        layer.forward = forward
        log_q = changed(input_ids=ids, use_cache=False).logits[counted].log_softmax(-1)
        layer.forward = old
        place = place + (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    place.backward()
    theirs = dict(changed.named_parameters())
    for side, module in halves.copies.items():
        for name, p in module.named_parameters():
            other = theirs[f"{halves.paths[side]}.{name}"].grad
            torch.testing.assert_close(p.grad, other, rtol=1e-4, atol=1e-5 * other.abs().max())


@pytest.mark.parametrize("objective", [Objective.FROZEN, Objective.NON_INTRUSIVE])
def test_the_host_stays_bit_identical(host, ids, objective):
    before = {n: p.clone() for n, p in host.model.state_dict().items()}
    task = _task(host, "blocks.1.hook_resid_pre", objective)
    optimiser = torch.optim.AdamW([p for p in task.module.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        loss = task.loss(ids)
        loss.backward()
        optimiser.step()
    assert all(torch.equal(p, before[n]) for n, p in host.model.state_dict().items())


def test_intrusive_training_changes_only_the_named_half_layers(host, ids):
    task = _task(host, "blocks.1.hook_resid_pre", Objective.INTRUSIVE)
    names = {
        n.partition("copies.")[2].partition(".")[0]
        for n, _ in task.module["halves"].named_parameters()
    }
    assert names == {"before", "after"}
    task.loss(ids).backward()
    assert all(p.grad is None for p in host.model.parameters())
    tensors = task.module["halves"].tensors()
    assert {n.rsplit(".", 3)[0] for n in tensors} <= {"model.layers.0", "model.layers.1"}
    assert {n.split(".")[3] for n in tensors} == {"mlp", "self_attn"}


@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_the_chunked_gradient_is_autograds(host, at_once, soft_cap, monkeypatch):
    monkeypatch.setattr(host._unembedding, "last_step", LastStep(cap=soft_cap))
    monkeypatch.setattr(divergence, "ROWS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    clean, changed = (torch.randn(20, host.d_model, generator=generator) for _ in range(2))
    targets = torch.randint(43, (20,), generator=generator)
    weight = host.model.get_output_embeddings().weight.detach()

    def logits(h):
        z = h @ weight.T
        return z if soft_cap is None else soft_cap * torch.tanh(z / soft_cap)

    changed.requires_grad_(True)
    for ours, theirs in (
        (
            kl_mean(host, changed, clean),
            F.kl_div(
                logits(changed).log_softmax(-1),
                logits(clean).log_softmax(-1),
                log_target=True,
                reduction="batchmean",
            ),
        ),
        (cross_entropy_mean(host, changed, targets), F.cross_entropy(logits(changed), targets)),
    ):
        torch.testing.assert_close(ours, theirs)
        (a,), (b,) = (torch.autograd.grad(2 * x, changed) for x in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_next_token_loss_is_the_cross_entropy_of_true_tokens_that_count(host, ids):
    hook = "blocks.1.hook_resid_pre"
    task = _task(host, hook, loss=Loss.NEXT_TOKEN, l1=0.0)
    counted = counted_of(ids, host.special_ids)

    def swap(_, __, output):
        x = output[0] if isinstance(output, tuple) else output
        changed = torch.where(counted[..., None], task.trained.sae(x), x)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    with host.model.model.layers[0].register_forward_hook(swap), torch.no_grad():
        logits = host.model(input_ids=ids, use_cache=False).logits
    scored = counted[:, :-1]
    plain = F.cross_entropy(logits[:, :-1][scored], ids[:, 1:][scored])
    torch.testing.assert_close(task.loss(ids), plain)
