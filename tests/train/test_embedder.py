"""Networks that see what they say they see, and designs that are refused when they cannot be built."""

import numpy as np
import pytest
import skimage.data
import timm
import torch
import torch.nn.functional as F
import torchvision
from facenet_pytorch import InceptionResnetV1
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import nn

from face3d_lib.base.errors import UserError
from face3d_lib.data.pack import Batch
from face3d_lib.train.backbones import load_backbone, make_backbone, widen_stem
from face3d_lib.train.embedder import Architecture, Embedder, count
from face3d_lib.train.encodings import ENCODINGS, block_means
from face3d_lib.train.fusion import Attention, AttentionFusion, GatedSum
from face3d_lib.train.losses import SoftmaxLoss
from face3d_lib.train.weights import locate, read_state

KINDS = [
    Architecture("rgb"),
    Architecture("depth"),
    Architecture("depth", encoding="depth"),
    Architecture("rgbd"),
    Architecture("rgbd", fusion="early", embedding_size=32),
    Architecture("rgbd", fusion="early", encoding="depth"),
    Architecture("rgbd", fusion="gated", encoding="depth_mask"),
    Architecture("rgbd", fusion="parallel", encoding="depth"),
    Architecture("rgbd", fusion="attention"),
    Architecture("rgbd", fusion="depth_attention"),
    Architecture("rgbd", "facenet", fusion="early", depth_stem="mean", embedding_size=8),
    Architecture("rgbd", fusion="joined", input_size=80, modality_dropout=0.5),
]
SEPARATE = ["joined", "parallel", "gated", "attention", "depth_attention"]
FUSIONS = ["early", *SEPARATE]


def faces(n=4, size=112, seed=0):
    random = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=random)
    depth = 800 + 20 * torch.rand(n, 1, size, size, generator=random)
    return Batch(rgb, depth, torch.full((n,), 1.8))


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    return Embedder(Architecture("rgbd", embedding_size=16)).eval()


@pytest.mark.parametrize("architecture", KINDS, ids=lambda a: f"{a.modality}-{a.backbone}-{a.encoding}-{a.fusion}")
def test_an_embedder_uses_its_modality_and_nothing_else(architecture):
    torch.manual_seed(0)
    embedder = Embedder(architecture).eval()
    batch, other = faces(), faces(seed=1)
    with torch.no_grad():
        here = embedder(batch)
        new_colour = embedder(Batch(other.rgb, batch.depth, batch.depth_per_px))
        new_depth = embedder(Batch(batch.rgb, other.depth, batch.depth_per_px))
    assert here.shape == (4, architecture.embedding_size)
    assert here.dtype == torch.float32
    assert torch.equal(here, new_colour) == (architecture.modality == "depth")
    assert torch.equal(here, new_depth) == (architecture.modality == "rgb")
    assert here.std(0).min() > 0  # not the same vector for everybody


def test_colour_channels_are_not_interchangeable(embedder):
    batch = faces()
    swapped = Batch(batch.rgb.flip(1), batch.depth, batch.depth_per_px)
    with torch.no_grad():
        assert not torch.allclose(embedder(batch), embedder(swapped), atol=1e-3)


def test_joinedes_speak_alone_and_together(embedder):
    batch = faces()
    with torch.no_grad():
        together, colour, depth = embedder.branches(batch)
        other = Batch(faces(seed=1).rgb, batch.depth, batch.depth_per_px)
        _, other_colour, same_depth = embedder.branches(other)
    assert together.shape == colour.shape == depth.shape == (4, 16)
    assert torch.equal(depth, same_depth)
    assert not torch.equal(colour, other_colour)
    assert torch.equal(embedder(batch), together)


def test_other_crop_sizes_fit_the_same_network(embedder):
    assert embedder(faces(size=182)).shape == (4, 16)


def first_filters(backbone):
    return next(m for m in backbone.modules() if isinstance(m, nn.Conv2d)).weight


@pytest.mark.parametrize("name", ["small", "resnet18", "facenet", "efficientnet_lite0"])
def test_with_zero_filters_early_fusion_starts_as_the_colour_network(name):
    torch.manual_seed(0)
    colour = Embedder(Architecture("rgb", name, embedding_size=16)).eval()
    torch.manual_seed(0)
    early = Embedder(Architecture("rgbd", name, fusion="early", depth_stem="zero", embedding_size=16)).eval()
    with torch.no_grad():
        assert torch.allclose(early(faces()), colour(faces()), atol=1e-5)
        first_filters(early)[:, 3:] += 0.1
        assert not torch.allclose(early(faces()), colour(faces()), atol=1e-3)


@pytest.mark.parametrize("name", ["small", "resnet18", "facenet", "efficientnet_lite0"])
def test_a_widened_stem_starts_as_it_says(name):
    torch.manual_seed(0)
    old = first_filters(make_backbone(name, 3)).clone()

    def widened(start, channels=5):
        backbone = make_backbone(name, 3)
        with torch.no_grad():
            first_filters(backbone).copy_(old)
        widen_stem(backbone, channels, start)
        assert first_filters(backbone).shape == (len(old), channels, *old.shape[2:])
        return first_filters(backbone).detach()

    mean, zero, fresh = (widened(start) for start in ("mean", "zero", "fresh"))
    assert torch.equal(mean[:, :3], old)
    by_hand = (old[:, 0] + old[:, 1] + old[:, 2]) / 3
    assert torch.allclose(mean[:, 3], by_hand, atol=1e-7)
    assert torch.equal(mean[:, 3], mean[:, 4])
    assert torch.equal(zero[:, :3], old)
    assert zero[:, 3:].abs().max() == 0
    assert (fresh[:, :3] == old).float().mean() < 0.01  # the legacy recipe draws the filters of colour anew, too
    assert float(fresh[:, 3:].std()) == pytest.approx(float(fresh[:, :3].std()), rel=0.2)


def test_resnet50_of_four_channels_starts_from_a_file(tmp_path):
    torch.manual_seed(0)
    source = make_backbone("resnet50", 3)
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict() | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, path)
    early = Embedder(Architecture("rgbd", "resnet50", "depth", "early", 64), init=path)
    assert early.branch[0].backbone.conv1.weight.shape[1] == 4
    assert torch.equal(early.branch[0].backbone.conv1.weight[:, :3], source.conv1.weight)
    assert torch.equal(early.branch[0].backbone.layer4[2].conv3.weight, source.layer4[2].conv3.weight)
    with pytest.raises(UserError, match="does not fit"):
        load_backbone(make_backbone("resnet18", 3), path)
    two = Embedder(Architecture("rgbd", "resnet50"), init=path)
    for branch in two.branch:  # both start from the file, depth with the filters of colour
        assert torch.equal(branch.backbone.conv1.weight, source.conv1.weight)
    (depth,) = Embedder(Architecture("depth", "resnet50", "depth"), init=path).branch
    assert torch.equal(depth.backbone.conv1.weight[:, 0], source.conv1.weight.mean(1))


def test_a_file_without_counts_of_batches_is_read(tmp_path):
    source = make_backbone("resnet18", 3)
    state = {key: value for key, value in source.state_dict().items() if "num_batches" not in key}  # torchvision's
    save_file(state, tmp_path / "weights.safetensors")
    (branch,) = Embedder(Architecture("rgb", "resnet18"), init=tmp_path / "weights.safetensors").branch
    assert torch.equal(branch.backbone.layer4[1].bn2.weight, source.layer4[1].bn2.weight)


def test_facenet_from_a_file_is_the_network_of_the_file(tmp_path):
    torch.manual_seed(0)
    source = InceptionResnetV1().eval()
    with torch.no_grad():
        source.last_bn.running_mean.normal_(0, 0.1)
    logits = {"logits.weight": torch.zeros(9, 512), "logits.bias": torch.zeros(9)}
    torch.save(source.state_dict() | logits, tmp_path / "vggface2.pt")
    embedder = Embedder(Architecture("rgb", "facenet", embedding_size=512), init=tmp_path / "vggface2.pt").eval()
    batch = faces(2)
    with torch.no_grad():
        expected = source((batch.rgb.float() - 127.5) / 128)  # as facenet-pytorch normalises; unit length
        assert torch.allclose(F.normalize(embedder(batch)), expected, atol=1e-5)
    other = Embedder(Architecture("depth", "facenet", "depth", embedding_size=24), init=tmp_path / "vggface2.pt")
    assert torch.equal(first_filters(other)[:, 0], first_filters(source).mean(1))
    assert other(faces(2)).shape == (2, 24)
    assert not any("last_linear" in name for name, _ in other.named_parameters())  # no weights without a use


def test_facenet_says_what_is_too_small():
    embedder = Embedder(Architecture("rgb", "facenet", embedding_size=16)).eval()
    assert embedder(faces(1, size=75)).shape == (1, 16)
    with pytest.raises(UserError, match=r"facenet needs crops of 75 px or more"):
        embedder(faces(1, size=74))


def port_to_timm(key):
    """The name in timm of a weight of the first port of EfficientNet, layer by layer; None for its classifier."""
    depths = [1, 2, 2, 3, 3, 4, 1]  # blocks in each stage: Tan and Le 2019, table 1
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    later |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    if not key.startswith("_blocks."):
        layer, value = key.split(".")
        outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
        return f"{outside[layer]}.{value}" if layer in outside else None
    _, number, layer, value = key.split(".")
    stage, block = places[int(number)]
    return f"blocks.{stage}.{block}.{(later if stage else first)[layer]}.{value}"


def test_efficientnet_from_imagenet_names_what_it_sees():
    file = read_state(locate("imagenet", "efficientnet_lite0"))
    embedder = Embedder(Architecture("rgb", "efficientnet_lite0", embedding_size=8), init="imagenet").eval()
    backbone = embedder.branch[0].backbone
    expected = {port_to_timm(key): value for key, value in file.items() if port_to_timm(key)}
    loaded = backbone.state_dict()
    assert expected.keys() == loaded.keys()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    for photograph, name in [(skimage.data.coffee(), "espresso"), (skimage.data.chelsea(), "Egyptian cat")]:
        side = min(photograph.shape[:2])
        left = (photograph.shape[1] - side) // 2
        picture = Image.fromarray(photograph).crop((left, 0, left + side, side)).resize((224, 224), Image.BICUBIC)
        rgb = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        with torch.no_grad():
            (image,) = embedder.inputs(Batch(rgb, torch.zeros(1, 1, 224, 224), torch.ones(1)))
            pooled = backbone.forward_features(image).mean((2, 3))
            share = (pooled @ file["_fc.weight"].T + file["_fc.bias"]).softmax(1)[0]
        assert ImageNetInfo().index_to_description(int(share.argmax())).startswith(name)
        assert share.max() > (0.9 if name == "espresso" else 0.35)  # .94, and among several cats .39


def test_efficientnet_gets_colours_as_timm_prepares_them():
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 224, 224)
    assert config["mean"] == config["std"] == (0.5, 0.5, 0.5)
    rgb = faces(1, 256).rgb
    theirs = timm.data.create_transform(**config | {"crop_pct": 1.0})  # a square of 224 px needs no crop
    embedder = Embedder(Architecture("rgb", "efficientnet_lite0", embedding_size=8))
    square = rgb[:, :, :224, :224].contiguous()
    picture = Image.fromarray(square[0].permute(1, 2, 0).numpy())
    (ours,) = embedder.inputs(Batch(square, torch.zeros(1, 1, 224, 224), torch.ones(1)))
    assert torch.allclose(ours[0], theirs(picture), atol=1e-6)


def test_weights_of_another_network_are_refused_by_efficientnet(tmp_path):
    state = read_state(locate("imagenet", "efficientnet_lite0"))
    del state["_blocks.3._bn1.running_var"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"less\.pth: does not fit this backbone: .*choose the backbone"):
        load_backbone(make_backbone("efficientnet_lite0", 3), tmp_path / "less.pth")
    with pytest.raises(UserError, match="does not fit"):
        load_backbone(make_backbone("resnet18", 3), locate("imagenet", "efficientnet_lite0"))


@pytest.mark.parametrize("backbone", ["small", "resnet18", "resnet50", "facenet", "efficientnet_lite0"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_of_every_backbone_learns_from_both_modalities(fusion, backbone):
    torch.manual_seed(0)
    embedder = Embedder(Architecture("rgbd", backbone, fusion=fusion, embedding_size=8)).eval()
    together, *alone = embedder.branches(faces(1, size=75 if backbone == "facenet" else 64))
    assert together.shape == (1, 8)
    learning = alone if fusion == "parallel" else [together]
    (sum(learning) * torch.arange(8)).sum().backward()
    if fusion == "early":
        (gradient,) = (first_filters(branch).grad for branch in embedder.branch)
        colour, depth = gradient[:, :3], gradient[:, 3:]
    else:
        colour, depth = (first_filters(branch).grad for branch in embedder.branch)
    assert colour.abs().max() > 0
    assert depth.abs().max() > 0


@pytest.mark.parametrize("fusion", SEPARATE)
def test_each_branch_speaks_alone_whatever_the_fusion(fusion):
    torch.manual_seed(0)
    embedder = Embedder(Architecture("rgbd", fusion=fusion, embedding_size=16)).eval()
    batch = faces()
    with torch.no_grad():
        _, colour, depth = embedder.branches(batch)
        _, other_colour, same_depth = embedder.branches(Batch(faces(seed=1).rgb, batch.depth, batch.depth_per_px))
    assert torch.equal(depth, same_depth)
    assert not torch.equal(colour, other_colour)


def test_in_parallel_a_branch_learns_alone_and_cosines_add_up():
    torch.manual_seed(0)
    embedder = Embedder(Architecture("rgbd", fusion="parallel", embedding_size=16)).eval()
    batch = faces()
    together, colour, depth = embedder.branches(batch)
    assert torch.equal(together, torch.cat([colour[:, :8], depth[:, :8]], 1))
    cosine = nn.functional.cosine_similarity
    for alone, lacking in (
        (colour, Batch(batch.rgb, 0 * batch.depth, batch.depth_per_px)),
        (depth, Batch(0 * batch.rgb, batch.depth, batch.depth_per_px)),
    ):
        assert alone.shape == together.shape
        withheld = embedder(lacking)  # half of it is 0
        assert cosine(alone[0], alone[1], 0).item() == pytest.approx(
            cosine(withheld[0], withheld[1], 0).item(), abs=1e-6
        )
    # |a| |b| cos(a, b) = the same of colour and of depth, added
    product, of_colour, of_depth = (v[0] @ v[1] for v in (together, colour[:, :8], depth[:, :8]))
    assert product == pytest.approx((of_colour + of_depth).item(), rel=1e-5)
    assert not together.requires_grad  # the joint loss trains its own weights alone
    assert colour.requires_grad
    assert depth.requires_grad
    with pytest.raises(UserError, match="even number"):
        Architecture("rgbd", fusion="parallel", embedding_size=15)


def test_a_gated_sum_is_a_mean_with_weights_from_0_to_1():
    torch.manual_seed(0)
    join, here = GatedSum(0, 3, 0), torch.tensor([[True, True], [True, False], [False, True]])
    colour, depth = torch.randn(3, 3), torch.randn(3, 3)
    for scale in (1, 100):  # at 100 the sigmoid is 0 or 1 in float32
        share = join.weights((scale * colour, scale * depth), here)
        assert ((share >= 0) & (share <= 1)).all()
    assert share[1].tolist() == [1, 1, 1]
    assert share[2].tolist() == [0, 0, 0]
    with torch.no_grad():
        join.gate.weight.zero_()
        join.gate.bias.copy_(torch.tensor([0.0, np.log(3), -np.log(3)]))  # sigmoid: 1/2, 3/4, 1/4
    joined = join(None, (colour, depth), here)
    (a, b, c), (x, y, z) = colour[0], depth[0]
    assert torch.allclose(joined[0], torch.stack([(a + x) / 2, (3 * b + y) / 4, (c + 3 * z) / 4]), atol=1e-6)
    assert torch.equal(joined[1], colour[1])
    assert torch.equal(joined[2], depth[2])


def test_attention_is_that_of_cbam():
    torch.manual_seed(0)
    attention, features = Attention(6), torch.randn(2, 6, 5, 5)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def shared(x):  # the two-layer network of equation 2
        first, _, last = (
            (m.weight.detach().numpy(), m.bias.detach().numpy()) if isinstance(m, nn.Linear) else None
            for m in attention.channel
        )
        return np.maximum(x @ first[0].T + first[1], 0) @ last[0].T + last[1]

    f = features.numpy()
    channels = sigmoid(shared(f.mean((2, 3))) + shared(f.max((2, 3))))
    assert np.allclose(attention.of_channels(features).detach().numpy()[:, :, 0, 0], channels, atol=1e-6)
    maps = np.pad(np.stack([f.mean(1), f.max(1)], 1), [(0, 0), (0, 0), (3, 3), (3, 3)])
    filters = attention.place.weight.detach().numpy()[0]
    places = [[sigmoid((maps[0, :, y : y + 7, x : x + 7] * filters).sum()) for x in range(5)] for y in range(5)]
    assert np.allclose(attention.of_places(features).detach().numpy()[0, 0], places, atol=1e-5)


def test_attention_fusion_weights_both_maps():
    torch.manual_seed(0)
    join, here = AttentionFusion(4, 8, 1).eval(), torch.ones(2, 2, dtype=torch.bool)
    maps = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        for parameter in join.attention.parameters():
            parameter.zero_()
        # all weights are sigmoid(0) = 1/2, of channels and of places: a quarter of the mean of each channel
        expected = join.neck[2](torch.cat([m.mean((2, 3)) for m in maps], 1) / 4) / np.sqrt(1 + 1e-5)
        assert torch.allclose(join(maps, None, here), expected, atol=1e-6)


def without(batch, modality):
    """The batch without a modality; `depth_per_px` of missing depth is noise that must not matter."""
    if modality == "rgb":
        return Batch(torch.zeros_like(batch.rgb), batch.depth, batch.depth_per_px)
    return Batch(batch.rgb, torch.zeros_like(batch.depth), 1 + torch.rand(len(batch)))


def columns(batch):
    return batch.rgb, batch.depth, batch.depth_per_px


@pytest.mark.parametrize("missing", ["rgb", "depth"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_missing_has_no_influence(fusion, missing):
    if (fusion, missing) == ("depth_attention", "rgb"):
        pytest.skip("depth only guides there: without colour there is no face")
    torch.manual_seed(0)
    embedder = Embedder(Architecture("rgbd", fusion=fusion, embedding_size=16)).eval()
    batch = faces()
    with torch.no_grad():
        whole, partial = embedder(batch), embedder(without(batch, missing))
        partly = without(batch, missing)  # the first two pairs lack it, each judged by itself
        mixed = embedder(
            Batch(*(torch.cat([n[:2], o[2:]]) for n, o in zip(columns(partly), columns(batch), strict=True)))
        )
        lost = 0 if missing == "rgb" else 1
        if fusion == "early":
            filters = first_filters(embedder)
            (filters[:, :3] if lost == 0 else filters[:, 3:]).normal_()
        else:
            for parameter in embedder.branch[lost].parameters():
                parameter.normal_()
        assert torch.allclose(embedder(without(batch, missing)), partial, atol=1e-6)
    assert (partial.std(0) > 0).sum() == (8 if fusion == "parallel" else 16)  # numbers that still tell pairs apart
    assert not torch.allclose(partial, whole, atol=1e-3)
    assert torch.allclose(mixed, torch.cat([partial[:2], whole[2:]]), atol=1e-5)


def test_modality_dropout_hides_one_modality_of_some_pairs():
    n = 4000
    embedder = Embedder(Architecture("rgbd", fusion="joined", modality_dropout=0.4, embedding_size=8))
    dots = Batch(torch.ones(n, 3, 1, 1, dtype=torch.uint8), torch.ones(n, 1, 1, 1), torch.ones(n))
    torch.manual_seed(7)
    here = embedder.present_modalities(dots)
    assert here.any(1).all()
    for lost in (0, 1):
        assert (~here[:, lost]).float().mean() == pytest.approx(0.2, abs=0.025)  # four deviations
    assert not torch.equal(embedder.present_modalities(dots), here)
    torch.manual_seed(7)
    assert torch.equal(
        embedder.present_modalities(dots), here
    )  # by the global generator, which the training loop seeds
    dots.depth[:] = 0
    assert embedder.present_modalities(dots).all(0).tolist() == [True, False]  # what is left stays
    assert embedder.eval().present_modalities(faces()).all()
    plain = Embedder(Architecture("rgbd", embedding_size=8))
    state = torch.get_rng_state()
    plain.present_modalities(faces())
    assert torch.equal(torch.get_rng_state(), state)  # without dropout nothing is drawn


@pytest.mark.parametrize("fusion", ["early", "joined", "gated", "attention"])
def test_training_with_modality_dropout_does_not_see_what_it_hides(fusion):
    torch.manual_seed(0)
    embedder = Embedder(Architecture("rgbd", fusion=fusion, embedding_size=8, modality_dropout=1.0)).eval()
    batch, other = faces(), faces(seed=1)
    with torch.no_grad():
        whole = embedder(batch)
        embedder.training = True  # of the embedder alone: batch normalisation would mix the pairs
        torch.manual_seed(5)
        no_colour = torch.rand(4, 1)[:, 0] < 0.5
        assert no_colour.any()
        assert not no_colour.all()
        for changed, hidden in [
            (Batch(other.rgb, batch.depth, batch.depth_per_px), no_colour),
            (Batch(batch.rgb, other.depth, other.depth_per_px), ~no_colour),
        ]:
            found = []
            for b in (batch, changed):
                torch.manual_seed(5)
                found.append(embedder(b))
            same = (found[0] - found[1]).abs().amax(1) < 1e-6
            assert torch.equal(same, hidden)
            assert (found[0] - whole).abs().amax(1).min() > 1e-3


def test_crops_are_resized_on_the_way_in_and_depth_after_it_is_encoded():
    torch.manual_seed(0)
    small = Embedder(Architecture("rgbd", input_size=64))
    batch = faces(2)
    colour, depth = small.inputs(batch)
    assert colour.shape == depth.shape == (2, 3, 64, 64)
    picture = Image.fromarray(batch.rgb[0].permute(1, 2, 0).numpy()).resize((64, 64), Image.Resampling.BILINEAR)
    pixels = (colour[0] * small.deviation + small.mean).permute(1, 2, 0).numpy()
    assert np.abs(pixels - np.asarray(picture)).max() < 1.01  # Pillow rounds twice
    encoded = ENCODINGS["normals_depth"].function(batch.depth, batch.depth_per_px)
    plane = Image.fromarray(encoded[1, 2].numpy()).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.abs(depth[1, 2].numpy() - np.asarray(plane)).max() < 1e-4
    as_it_is, same = (Embedder(Architecture("rgbd", input_size=size)).inputs(batch) for size in (0, 112))
    assert all(torch.equal(a, b) for a, b in zip(as_it_is, same, strict=True))
    large = Embedder(Architecture("rgb", input_size=224)).inputs(batch)
    assert large[0].shape == (2, 3, 224, 224)


def test_depth_is_averaged_over_blocks_before_it_is_encoded():
    batch = faces(2)
    plain, coarse = (Embedder(Architecture("depth", input_size=28, depth_block=n)) for n in (1, 2))
    encode = ENCODINGS["normals_depth"].function
    expected = coarse.resize(encode(block_means(batch.depth, 2), 2 * batch.depth_per_px))
    assert torch.equal(coarse.inputs(batch)[0], expected)
    assert not torch.allclose(coarse.inputs(batch)[0], plain.inputs(batch)[0], atol=1e-3)


def test_parameters_and_operations_are_those_of_the_network():
    facts = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta  # _ops: multiply-adds in 1e9, at 224 px
    embedder = Embedder(Architecture("rgb", "resnet18", embedding_size=32)).train()
    parameters, operations = count(embedder, 224)
    neck, classifier = 512 * 16 * 32, 512 * 1000
    assert parameters == facts["num_params"] - classifier - 1000 + neck + 2 * 32
    assert operations / 2e9 == pytest.approx(facts["_ops"] + (neck - classifier) / 1e9, abs=1e-3)
    assert embedder.training
    assert embedder.branch[0].neck[3].num_batches_tracked == 0  # nothing was learnt from the blank pair
    assert count(embedder, 112)[1] < operations / 3
    assert count(Embedder(Architecture("rgbd", "resnet18", embedding_size=64)), 224) == (2 * parameters, 2 * operations)
    two = Embedder(Architecture("rgbd", "resnet18", fusion="joined", embedding_size=32))
    assert count(two, 224) == (2 * parameters + 2 * 32 * 32 + 2 * 32, 2 * operations + 2 * 2 * 32 * 32)
    fixed = Embedder(Architecture("rgb", "resnet18", embedding_size=32, input_size=224))
    assert count(fixed, 112)[1] == operations


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"modality": "rgbdd"}, "modality = 'rgbdd': one of rgb, depth, rgbd"),
        ({"backbone": "resnet51"}, "backbone = 'resnet51'"),
        ({"encoding": "normal"}, "encoding = 'normal': one of .*normals_depth"),
        ({"fusion": "late"}, "fusion = 'late'"),
        ({"depth_stem": "none"}, "depth_stem"),
        ({"modality": "rgbd", "modality_dropout": 1.5}, "modality_dropout from 0 to 1"),
        ({"modality_dropout": 0.5}, "is for modality rgbd"),
        ({"modality": "rgbd", "fusion": "depth_attention", "modality_dropout": 0.5}, "depth_attention, which cannot"),
        ({"modality": "rgbd", "fusion": "parallel", "modality_dropout": 0.5}, "branches never meet"),
        ({"input_size": -1}, "input_size"),
        ({"depth_block": 0}, "depth_block >= 1"),
    ],
)
def test_an_architecture_that_does_not_exist_is_one_line(wrong, words):
    with pytest.raises(UserError, match=words) as caught:
        Architecture(**wrong)
    assert "\n" not in str(caught.value)


def test_softmax_is_the_cross_entropy_of_a_linear_layer():
    loss = SoftmaxLoss(2, 2)
    with torch.no_grad():
        loss.linear.weight.copy_(torch.eye(2))
        loss.linear.bias.zero_()
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    by_hand = (torch.log1p(torch.exp(torch.tensor(-2.0))) + torch.log1p(torch.exp(torch.tensor(-1.0)))) / 2
    assert torch.allclose(loss(embeddings, torch.tensor([0, 1])), by_hand)
    assert loss.get_logits(embeddings).argmax(1).tolist() == [0, 1]
    smooth = SoftmaxLoss(2, 2, label_smoothing=0.2)
    smooth.load_state_dict(loss.state_dict())
    assert torch.allclose(smooth(embeddings, torch.tensor([0, 1])), by_hand + 0.1 * 1.5)
