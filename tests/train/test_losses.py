"""Every own loss against its paper's formula written out in numpy, its gradient, its precision, and what it watches."""

import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning import distances, miners
from pytorch_metric_learning import losses as pml
from safetensors.torch import load, save
from torch import nn

from face3d_lib.train.losses import (
    AdaFaceLoss,
    CentreLoss,
    CosineLoss,
    MagFaceLoss,
    MarginLoss,
    MinedLoss,
    SoftmaxLoss,
    WatchedLoss,
    describe,
)

DIMENSIONS, CLASSES = 5, 4


def arcface(**values):
    return pml.ArcFaceLoss(**{"num_classes": CLASSES, "embedding_size": DIMENSIONS, "margin": 20, "scale": 8} | values)


def triplets(kind="semihard", margin=0.3):
    cosine = distances.CosineSimilarity()
    miner = miners.TripletMarginMiner(margin=margin, type_of_triplets=kind, distance=cosine)
    return MinedLoss(pml.TripletMarginLoss(margin=margin, distance=cosine), miner)


OWN = {
    "softmax": lambda: SoftmaxLoss(DIMENSIONS, CLASSES, label_smoothing=0.1),
    "centre": lambda: CentreLoss(DIMENSIONS, CLASSES, centre_weight=0.3),
    "adaface": lambda: AdaFaceLoss(DIMENSIONS, CLASSES, scale=8),
    "magface": lambda: MagFaceLoss(DIMENSIONS, CLASSES, norms=(0.5, 6), norm_weight=2, scale=8),
    "arcface eased in": lambda: MarginLoss(arcface(), warmup=4),
    "triplets": triplets,
}
WITH_WEIGHTS = [name for name in OWN if name != "triplets"]


def make(name, seed=0):
    torch.manual_seed(seed)
    loss = OWN[name]()
    if isinstance(loss, CentreLoss):
        nn.init.normal_(loss.centres)
    return loss


def batch(n=12, seed=1, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, DIMENSIONS, generator=random, dtype=torch.float64)
    return embeddings.to(dtype), torch.arange(n) % CLASSES


def numpy_of(*tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


def entropy(logits, labels, smoothing=0.0):
    """Cross-entropy (B,) written out; the target is 1 - smoothing on the label, plus smoothing / C everywhere."""
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.eye(logits.shape[1])[labels] * (1 - smoothing) + smoothing / logits.shape[1]
    return -(target * log_p).sum(1)


def at_angles(degrees):
    """Two classes, along x and y, and embeddings of class 0 at known angles to x, in the x-y plane."""
    radians = np.radians(degrees)
    return torch.tensor(np.stack([np.cos(radians), np.sin(radians)], 1), dtype=torch.float32)


def with_axes(loss):
    """The loss with class weights along x and y (their length must not matter)."""
    loss.weight.data = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    return loss


# ------------------------------------------------------------------------------------- the papers' formulas


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax(smoothing):
    loss = SoftmaxLoss(DIMENSIONS, CLASSES, smoothing)
    x, y = batch()
    w, b, e = numpy_of(loss.linear.weight, loss.linear.bias, x)
    assert loss(x, y).item() == pytest.approx(entropy(e @ w.T + b, y, smoothing).mean(), rel=1e-5)


def test_centre():
    loss = make("centre")
    x, y = batch()
    w, b, c, e = numpy_of(loss.softmax.linear.weight, loss.softmax.linear.bias, loss.centres, x)
    distance = np.linalg.norm(e - c[y], axis=1)
    assert loss(x, y).item() == pytest.approx(entropy(e @ w.T + b, y).mean() + 0.3 / 2 * (distance**2).mean(), rel=1e-5)
    assert loss.watch() == pytest.approx(
        {"centre_distance": distance.mean(), "centre_spread": np.linalg.norm(c, axis=1).mean()}, rel=1e-5
    )


def test_centres_move_towards_their_people():
    loss = CentreLoss(2, 2, centre_weight=1.0)
    x, y = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0])
    loss(x, y).backward()
    assert loss.centres.grad.tolist() == [[-2.0, 0.0], [0.0, 0.0]]  # towards the mean, and of class 1 nothing


def test_adaface_on_known_angles_and_lengths():
    m, h, s = math.radians(20), 0.5, 10.0
    degrees, norms = np.array([0.05, 30.0, 60.0, 120.0, 175.0]), np.array([1.0, 2.0, 4.0, 8.0, 5.0])
    loss = with_axes(AdaFaceLoss(2, 2, margin_deg=20, h=h, scale=s, momentum=0.1))
    x = at_angles(degrees) * torch.tensor(norms, dtype=torch.float32)[:, None]
    y = torch.zeros(5, dtype=torch.long)

    def expected(mean, sd):
        q = np.clip((norms - mean) / (sd + 1e-3) * h, -1, 1)
        target = np.cos(np.clip(np.radians(degrees) - m * q, 1e-3, np.pi - 1e-3)) - (m + m * q)
        return entropy(s * np.stack([target, np.sin(np.radians(degrees))], 1), y).mean()

    assert loss(x, y).item() == pytest.approx(expected(4.0, norms.std()), rel=1e-4)  # the first batch is the start
    loss(2 * x, y)
    mean, sd = 0.9 * 4.0 + 0.1 * 8.0, 0.9 * norms.std() + 0.1 * 2 * norms.std()
    assert (loss.norm_mean.item(), loss.norm_sd.item()) == pytest.approx((mean, sd), rel=1e-5)
    loss.eval()
    assert loss(x, y).item() == pytest.approx(expected(mean, sd), rel=1e-4)
    assert loss.norm_mean.item() == pytest.approx(mean), "evaluation must not move the statistics"


def test_adaface_between_its_limits():
    """q = -1 is ArcFace, q = 0 CosFace, q = 1 a margin of 2 m on an angle made m smaller (the paper's figure 3)."""
    loss = with_axes(AdaFaceLoss(2, 2, margin_deg=20, h=1.0, scale=1.0)).eval()
    loss.norm_mean, loss.norm_sd = torch.tensor(10.0), torch.tensor(1.0)
    m, angle = math.radians(20), math.radians(50)
    for norm, target in (
        (1, math.cos(angle + m)),
        (10, math.cos(angle) - m),
        (30, math.cos(angle - m) - 2 * m),
    ):
        value = loss(at_angles([50]) * norm, torch.tensor([0])).item()
        assert value == pytest.approx(entropy(np.array([[target, math.sin(angle)]]), [0])[0], rel=1e-4)


def test_magface_on_known_angles_and_lengths():
    degrees, norms = np.array([5.0, 30.0, 60.0, 120.0, 170.0]), np.array([0.5, 2.0, 4.0, 8.0, 50.0])
    loss = with_axes(MagFaceLoss(2, 2, norms=(1, 10), margins_deg=(10, 40), norm_weight=3, scale=8))
    x = at_angles(degrees) * torch.tensor(norms, dtype=torch.float32)[:, None]
    y = torch.zeros(5, dtype=torch.long)
    a, theta = np.clip(norms, 1, 10), np.radians(degrees)
    m = np.radians(10 + 30 * (a - 1) / 9)
    assert np.degrees(m)[[0, -1]].tolist() == pytest.approx([10, 40])
    target = np.where(theta + m <= np.pi, np.cos(theta + m), np.cos(theta) - m * np.sin(m))
    value = entropy(8 * np.stack([target, np.sin(theta)], 1), y) + 3 * (a / 100 + 1 / a)
    assert loss(x, y).item() == pytest.approx(value.mean(), rel=1e-5)
    assert loss.watch() == pytest.approx(
        {"angle_deg": degrees.mean(), "norm": norms.mean(), "norm_outside": 0.4}, rel=1e-5
    )


def test_magface_lengthens_what_is_easy_and_not_what_is_hard():
    """With the reward alone every length grows; the margin holds back those far from their centre."""
    loss = with_axes(MagFaceLoss(2, 2, norms=(1, 10), margins_deg=(0, 60), norm_weight=0.3, scale=8))
    x = (at_angles([2, 70]) * 3).requires_grad_()
    loss(x, torch.tensor([0, 0])).backward()
    easy, hard = (x.grad * x.detach()).sum(1)  # the slope along the embedding
    assert easy < 0 < hard


def test_arcface_of_the_library_is_in_degrees_and_sub_centres_give_logits_by_class():
    """What the notebooks say of pytorch-metric-learning's units, on a known angle."""
    arc = pml.ArcFaceLoss(2, 2, margin=20, scale=8)
    cos = pml.CosFaceLoss(2, 2, margin=0.2, scale=8)
    sphere = pml.SphereFaceLoss(2, 2, margin=5, scale=1)
    x, theta = at_angles([40]), math.radians(40)
    cases = [
        (arc, 8 * math.cos(theta + math.radians(20)), 8),
        (cos, 8 * (math.cos(theta) - 0.2), 8),
        (sphere, -math.cos(5 * theta) - 2, 1),  # 40 degrees lie in the second fifth of the half circle
    ]
    for loss, target, scale in cases:
        loss.W.data = torch.eye(2)
        value = loss(x, torch.tensor([0])).item()
        assert value == pytest.approx(entropy(np.array([[target, scale * math.sin(theta)]]), [0])[0], rel=1e-4)
    sub = pml.SubCenterArcFaceLoss(num_classes=2, embedding_size=2, sub_centers=2, margin=20, scale=8)
    sub.W.data = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])  # both directions of an axis
    logits = MarginLoss(sub).get_logits(at_angles([190, 80]))
    assert logits.tolist()[0] == pytest.approx([8 * math.cos(math.radians(10)), 8 * math.sin(math.radians(10))])
    assert logits.argmax(1).tolist() == [0, 1]


def test_a_margin_is_eased_in():
    inner = arcface()
    loss, (x, y) = MarginLoss(inner, warmup=4), batch()
    plain, full = nn.functional.cross_entropy(inner.get_logits(x), y), inner(x, y)
    shares = [((loss(x, y) - plain) / (full - plain)).item() for _ in range(7)]
    assert shares == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1], abs=1e-5)
    assert MarginLoss(inner)(x, y).item() == pytest.approx(full.item())
    for warmup, expected in ((2, [0, 0.1, 0.2, 0.2]), (0, [0.2] * 4)):
        loss = MarginLoss(inner, warmup=warmup, most=0.2)
        shares = [((loss(x, y) - plain) / (full - plain)).item() for _ in range(4)]
        assert shares == pytest.approx(expected, abs=1e-5)


# ---------------------------------------------------------------------------- gradients, precision, edges


@pytest.mark.parametrize("name", OWN)
def test_gradients_are_those_of_finite_differences(name):
    loss = make(name).double().eval()
    if name == "adaface":
        loss.norm_mean, loss.norm_sd = torch.tensor(2.0).double(), torch.tensor(1.0).double()
        loss.h = 0.0  # no gradient reaches the length through the quality: that is a choice, tested below
    x, y = batch(dtype=torch.float64)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda e: loss(e, y), (x,), eps=1e-6, atol=1e-5)
    for weight in loss.parameters():
        assert torch.autograd.gradcheck(lambda *_: loss(x.detach(), y), (weight,), eps=1e-6, atol=1e-5)


def test_no_gradient_reaches_the_length_through_adafaces_quality():
    loss, (x, y) = make("adaface"), batch()
    x.requires_grad_()
    loss(x, y).backward()
    assert (x.grad * x).sum(1).abs().max() < 1e-5
    assert x.grad.abs().max() > 1e-2


@pytest.mark.parametrize("name", OWN)
def test_float32_agrees_with_float64(name):
    x, y = batch()
    single, double = make(name), make(name).double()
    found = []
    for loss, e in ((single, x.clone()), (double, x.double())):
        e.requires_grad_()
        loss(e, y).backward()
        found.append([e.grad.double(), *(p.grad.double() for p in loss.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_bf16_embeddings_do_not_touch_the_weights(name):
    """Embeddings of a bf16 network, cast to float32 as `fit` does, and not cast: weights and loss stay float32."""
    x, y = batch(dtype=torch.bfloat16)
    x.requires_grad_()
    loss = make(name)
    value = loss(x.float(), y)
    value.backward()
    assert x.grad.dtype == torch.bfloat16
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0
    if name in WITH_WEIGHTS:
        again = make(name)(x, y)
        assert again.dtype == torch.float32
        assert again.item() == pytest.approx(value.item(), rel=1e-6)
    assert all(weight.dtype == torch.float32 for weight in loss.parameters())
    assert all(weight.grad.dtype == torch.float32 for weight in loss.parameters())


def test_the_library_alone_would_cast_its_weights_for_good():
    """Why MarginLoss casts the embeddings (issue 293 of pytorch-metric-learning)."""
    loss, (x, y) = arcface(), batch(dtype=torch.bfloat16)
    loss(x, y)
    assert loss.W.dtype == torch.bfloat16
    loss = MarginLoss(arcface())
    loss(x, y)
    assert loss.loss.W.dtype == torch.float32


@pytest.mark.parametrize("margin_deg", [0.0, 30.0, 80.0])
@pytest.mark.parametrize("name", ["adaface", "magface", "arcface", "sub-centre", "cosface", "sphereface"])
def test_finite_at_the_ends_of_the_cosine(name, margin_deg):
    """Embeddings exactly along and against their weights, and of length 0: every number stays finite."""
    weights = torch.eye(3)
    made = {
        "adaface": lambda: AdaFaceLoss(3, 3, margin_deg=margin_deg),
        "magface": lambda: MagFaceLoss(3, 3, margins_deg=(margin_deg, margin_deg + 40)),
        "arcface": lambda: MarginLoss(pml.ArcFaceLoss(3, 3, margin=margin_deg, scale=64)),
        "sub-centre": lambda: MarginLoss(
            pml.SubCenterArcFaceLoss(num_classes=3, embedding_size=3, margin=margin_deg, sub_centers=1)
        ),
        "cosface": lambda: MarginLoss(pml.CosFaceLoss(3, 3, margin=margin_deg / 90, scale=64)),
        "sphereface": lambda: MarginLoss(pml.SphereFaceLoss(3, 3, margin=4)),
    }
    loss = made[name]()
    (loss.weight if isinstance(loss, CosineLoss) else loss.loss.W).data = weights.clone()
    x = torch.cat([weights * 3, -weights, weights.roll(1, 0), torch.zeros(1, 3)]).requires_grad_()
    value = loss(x, torch.tensor([0, 1, 2] * 3 + [0]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(weight.grad).all() for weight in loss.parameters())
    assert all(math.isfinite(number) for number in loss.watch().values())


def test_a_batch_of_one_pair_is_finite():
    for name in OWN:
        x, y = batch(1)
        x.requires_grad_()
        loss = make(name)
        value = loss(x, y)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(x.grad).all(), name
        assert torch.isfinite(loss(*batch()))  # and its statistics are not spoilt


@pytest.mark.parametrize("name", OWN)
def test_descending_lowers_the_loss(name):
    """The embeddings themselves and the weights, moved down the gradient: people come apart."""
    loss, (x, y) = make(name), batch(24)
    x.requires_grad_()
    optimizer = torch.optim.Adam([x, *loss.parameters()], lr=0.03)
    values = []
    for _ in range(150):
        values.append(loss(x, y))
        optimizer.zero_grad()
        values[-1].backward()
        optimizer.step()
    if hasattr(loss, "get_logits"):
        assert (loss.get_logits(x).argmax(1) == y).all()
        assert loss.get_logits(x).shape == (24, CLASSES)
    if name == "arcface eased in":
        loss.warmup = 0  # compare like with like
    assert loss(x, y) < 0.7 * make(name).eval()(*batch(24))


# ----------------------------------------------------------------------------------------------- mined


def test_mined_triplets_are_counted():
    """Three people in the plane: 0 and 20 degrees, 55 and 80, 180. Semi-hard below .3: only (20, 0, 55), (55, 80, 20)."""
    degrees, y = [0, 20, 55, 80, 180], torch.tensor([0, 0, 1, 1, 2])
    cos = np.cos(np.radians(np.subtract.outer(degrees, degrees)))
    every, semi_hard, violation = 0, 0, []
    for a in range(5):
        for p in range(5):
            for n in range(5):
                if a != p and y[a] == y[p] and y[a] != y[n]:
                    every += 1
                    gap = cos[a, p] - cos[a, n]
                    semi_hard += bool(0 < gap <= 0.3)
                    if 0 < gap <= 0.3:
                        violation.append(0.3 - gap)
    assert (every, semi_hard) == (12, 2)
    loss = triplets(margin=0.3)
    assert loss(at_angles(degrees) * 7, y).item() == pytest.approx(np.mean(violation), rel=1e-4)
    same = (cos[0, 1] + cos[2, 3]) / 2
    other = np.mean([cos[i, j] for i in range(5) for j in range(i) if y[i] != y[j]])
    assert loss.watch() == pytest.approx({"left": 2 / 12, "cos_same": same, "cos_other": other}, rel=1e-5)


def test_mined_pairs_are_counted():
    """Pairs of one person below cosine .9 and of two above .3: by hand 2 (30 degrees) and 4 (30 and 50), of 12."""
    y, x = torch.tensor([0, 0, 1, 1]), at_angles([0, 20, 50, 80])
    cosine = distances.CosineSimilarity()
    miner = miners.PairMarginMiner(pos_margin=0.9, neg_margin=0.3, distance=cosine)
    loss = MinedLoss(pml.ContrastiveLoss(pos_margin=0.9, neg_margin=0.3, distance=cosine), miner)
    cos = np.cos(np.radians([30, 30, 50, 60]))  # 50-80; 20-50, 0-50, 20-80; 0-80 (80 degrees) is below .3
    value = loss(x, y).item()
    assert value == pytest.approx((0.9 - cos[0]) + (cos[1:] - 0.3).mean(), rel=1e-4)
    assert loss.watch()["left"] == pytest.approx((2 + 2 * 3) / 12)


def test_mined_with_nothing_left_is_nought_and_still_has_a_gradient():
    loss = triplets("hard", margin=0.1)
    x, y = at_angles([0, 1, 90, 91]).requires_grad_(), torch.tensor([0, 0, 1, 1])
    value = loss(x, y)
    value.backward()
    assert value.item() == 0
    assert x.grad.abs().sum() == 0
    assert loss.watch()["left"] == 0


def test_mined_without_a_miner_uses_all_pairs():
    loss, (x, y) = MinedLoss(pml.SupConLoss()), batch()
    assert loss(x, y).item() == pytest.approx(pml.SupConLoss()(x, y).item())
    assert loss.watch()["left"] == 1


def test_collapse_is_seen():
    loss = triplets()
    value = loss(torch.ones(6, DIMENSIONS) + 1e-4 * batch(6)[0], torch.arange(6) % 2)
    assert value.item() == pytest.approx(0.3, abs=1e-3), "at collapse the loss is its margin"
    watched = loss.watch()
    assert min(watched["cos_same"], watched["cos_other"]) > 0.999


# ---------------------------------------------------------------------------------------------- watching


class Two(WatchedLoss):
    watches = ("a", "b")


def test_watch_gives_means_and_begins_anew():
    two = Two()
    for a, b in ((1.0, 5.0), (2.0, math.nan), (6.0, math.inf)):
        two.record(torch.tensor(a), torch.tensor(b))
    assert two.watch() == {"a": 3.0, "b": 5.0}
    assert all(math.isnan(value) for value in two.watch().values())
    with pytest.raises(ValueError, match="1 values"):
        two.record(torch.tensor(1.0))


@pytest.mark.parametrize("name", OWN)
def test_a_restored_loss_goes_on_as_if_nothing_had_been(name):
    """After two batches saved (as safetensors, as the model is) and loaded into a fresh one: same loss, same watch."""
    loss, fresh = make(name), make(name, seed=5)
    for seed in (1, 2):
        loss(*batch(seed=seed))
    fresh.load_state_dict(load(save(loss.state_dict())))
    for one in (loss, fresh):
        one.value = one(*batch(seed=3)).item()
    assert loss.value == fresh.value
    if name != "softmax":
        assert loss.watch() == fresh.watch()
        assert fresh.watched.sum() == 0


def test_angles_are_watched():
    inner = pml.ArcFaceLoss(2, 2, margin=20, scale=8)
    inner.W.data = torch.eye(2)
    loss = MarginLoss(inner)
    loss(at_angles([40, 20]), torch.tensor([0, 1]))
    assert loss.watch() == pytest.approx({"angle_deg": (40 + 70) / 2, "angle_other_deg": (50 + 20) / 2}, rel=1e-5)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: MarginLoss(arcface(margin=20)), lambda: MarginLoss(arcface(margin=21))),
        (lambda: MarginLoss(arcface(), warmup=3), lambda: MarginLoss(arcface(), warmup=4)),
        (lambda: MarginLoss(arcface(), most=0.2), lambda: MarginLoss(arcface())),
        (lambda: triplets(margin=0.3), lambda: triplets(margin=0.2)),
        (lambda: MinedLoss(pml.SupConLoss(temperature=0.1)), lambda: MinedLoss(pml.SupConLoss(temperature=0.2))),
        (lambda: AdaFaceLoss(2, 2, h=0.3), lambda: AdaFaceLoss(2, 2, h=0.4)),
        (lambda: MagFaceLoss(2, 2, norm_weight=1), lambda: MagFaceLoss(2, 2, norm_weight=2)),
        (lambda: CentreLoss(2, 2, 0.1), lambda: CentreLoss(2, 2, 0.2)),
        (lambda: SoftmaxLoss(2, 2, 0.1), lambda: SoftmaxLoss(2, 2, 0.2)),
    ],
)
def test_a_description_tells_losses_of_other_numbers_apart(one, other):
    assert describe(one()) == describe(one())
    assert describe(one()) != describe(other())
