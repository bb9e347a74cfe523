"""Batches: an order and changes that are functions of numbers, and one geometry for colour and depth."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from face3d_lib.batches import (
    Augmentation,
    augment,
    disturb_depth,
    epoch_batches,
    epoch_order,
    labelled,
    patches,
    shift_colour,
    train_batches,
    warp,
)
from face3d_lib.pack import Batch

NOTHING = Augmentation(**dict.fromkeys((f.name for f in dataclasses.fields(Augmentation)), 0.0))
GEOMETRY = dataclasses.replace(NOTHING, flip=0.5, rotation_deg=8, zoom=0.1, shift=0.05)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_of(n=8, size=40):
    """A ramp in colour and the same ramp in depth, every seventh reading missing."""
    ramp = (torch.arange(size)[:, None] + 2.0 * torch.arange(size)) + 20
    rgb = ramp.expand(n, 3, size, size).round().to(torch.uint8)
    depth = ramp.expand(n, 1, size, size) + 500
    holes = (torch.arange(size * size) % 7 == 0).view(size, size)
    return Batch(rgb.clone(), torch.where(holes, 0, depth), torch.full((n,), 1.8))


def test_labels_are_positions_among_the_classes_and_rows_follow_the_table():
    class Rows:
        def rows(self, pair_ids):
            return np.array([int(pair_id[-1]) for pair_id in pair_ids])

    table = pd.DataFrame({"pair_id": ["b/4", "a/7", "b/1"], "cls_name": ["b", "a", "b"]})
    rows, labels = labelled(Rows(), table, ["a", "b"])
    assert rows.tolist() == [4, 7, 1]
    assert labels.tolist() == [1, 0, 1]


class TinyPack:
    def batch(self, rows, device="cpu"):
        whole = batch_of(8)
        pick = torch.from_numpy(np.asarray(rows) % 8)
        return Batch(whole.rgb[pick], whole.depth[pick], whole.depth_per_px[pick])


def test_order_is_a_permutation_and_a_function_of_seed_and_epoch():
    order = epoch_order(100, seed=3, epoch=5)
    assert sorted(order) == list(range(100))
    np.random.seed(1)  # noqa: NPY002 (that the global state has no say is the point)
    torch.manual_seed(1)
    assert (epoch_order(100, 3, 5) == order).all()
    assert not (epoch_order(100, 3, 6) == order).all()
    assert not (epoch_order(100, 4, 5) == order).all()


@pytest.mark.parametrize(("n", "size", "sizes"), [(10, 4, [4, 3, 3]), (65, 64, [33, 32]), (5, 8, [5]), (1, 4, [1])])
def test_nothing_is_dropped_and_no_pair_is_left_alone(n, size, sizes):
    batches = epoch_batches(n, size, 0, 0)
    assert [len(b) for b in batches] == sizes
    assert sorted(np.concatenate(batches)) == list(range(n))


def test_batches_do_not_depend_on_global_random_state_or_on_where_one_starts():
    rows, labels = np.arange(20), np.arange(20) * 10

    def run(first_step=0):
        return list(train_batches(TinyPack(), rows, labels, 6, 1, 2, "cpu", Augmentation(), first_step))

    torch.manual_seed(0)
    whole = run()
    torch.manual_seed(9)
    rest = run(first_step=2)
    assert [len(y) for _, y in whole] == [5, 5, 5, 5]
    assert sorted(torch.cat([y for _, y in whole]).tolist()) == list(labels)
    for (a, ya), (b, yb) in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.rgb, b.rgb)
        assert torch.equal(a.depth, b.depth)
        assert torch.equal(ya, yb)


def test_each_pair_and_each_step_has_draws_of_its_own():
    batch = batch_of()
    a, b = (augment(batch, Augmentation(), 0, 0, step) for step in (0, 1))
    assert not torch.equal(a.rgb, b.rgb)
    assert not torch.equal(a.depth, b.depth)
    assert len({tuple(image.flatten().tolist()) for image in a.depth}) == len(batch)
    assert len({tuple(image.flatten().tolist()) for image in a.rgb}) == len(batch)


def test_without_changes_a_batch_stays_as_it_is():
    batch = batch_of()
    same = augment(batch, NOTHING, 0, 0, 0)
    assert torch.equal(same.rgb, batch.rgb)
    assert torch.equal(same.depth, batch.depth)
    assert torch.equal(same.depth_per_px, batch.depth_per_px)


def test_colour_and_depth_are_warped_alike():
    warped = warp(batch_of(32), GEOMETRY, generator())
    seen = warped.depth > 0
    error = (warped.rgb[:, :1] + 500 - warped.depth)[seen].abs()  # nearest is at most a diagonal pixel step away
    assert error.max() <= 2.2
    assert (warped.rgb[:, :, :, 5] > warped.rgb[:, :, :, 35]).all((1, 2)).float().mean() == pytest.approx(0.5, abs=0.3)


def test_the_warp_is_a_similarity_mirrored_or_not():
    x = torch.arange(40.0).expand(40, 40)
    places = torch.stack([x, x.T, x]).expand(64, 3, 40, 40)  # each pixel's colour is its place
    batch = Batch(places, torch.ones(64, 1, 40, 40), torch.ones(64))
    warped = warp(batch, dataclasses.replace(GEOMETRY, rotation_deg=10, zoom=0.05, shift=0.01), generator())
    across = (warped.rgb[:, :2, 20, 24] - warped.rgb[:, :2, 20, 16]) / 8
    down = (warped.rgb[:, :2, 24, 20] - warped.rgb[:, :2, 16, 20]) / 8
    assert (across * down).sum(1).abs().max() < 1e-3  # right angles stay
    assert torch.allclose(across.norm(dim=1), down.norm(dim=1), atol=1e-3)
    assert torch.allclose(across.norm(dim=1), warped.depth_per_px, atol=1e-3)
    turns = torch.atan2(down[:, 0], down[:, 1]).rad2deg()
    assert turns.std().item() == pytest.approx(10, rel=0.3)
    assert 16 < (across[:, 0] < 0).sum() < 48


def test_no_depth_is_invented_and_holes_stay_holes():
    batch = batch_of(16)
    warped = warp(batch, GEOMETRY, generator())
    assert set(warped.depth.unique().tolist()) <= set(batch.depth.unique().tolist())
    assert (warped.depth == 0).float().mean() > 0.1
    changed = disturb_depth(batch.depth, batch.depth_per_px, Augmentation(hole_share=0.0), generator())
    assert torch.equal(changed > 0, batch.depth > 0)
    lost = disturb_depth(batch.depth, batch.depth_per_px, Augmentation(hole_share=0.3), generator()) == 0
    assert (lost | (batch.depth > 0)).all()
    assert 0.35 < lost.float().mean() < 0.45


def test_zooming_in_makes_a_pixel_smaller():
    how = dataclasses.replace(NOTHING, zoom=0.2)
    batch = batch_of(64)
    warped = warp(batch, how, generator())
    zoom = batch.depth_per_px / warped.depth_per_px
    step_across = (warped.rgb[:, 0, 20, 24] - warped.rgb[:, 0, 20, 16]) / 8  # the ramp rises by 2 per pixel before
    assert torch.allclose(step_across, 2 / zoom, atol=0.15)


def test_depth_noise_is_in_crop_pixels():
    batch = batch_of(64)
    how = dataclasses.replace(NOTHING, depth_noise_px=0.5)
    change = disturb_depth(batch.depth, batch.depth_per_px, how, generator()) - batch.depth
    assert change[batch.depth > 0].std().item() == pytest.approx(0.5 * 1.8, rel=0.03)
    how = dataclasses.replace(NOTHING, depth_tilt=0.1)
    change = (disturb_depth(batch.depth, batch.depth_per_px, how, generator()) - batch.depth) / 1.8
    slopes = (change[:, 0, 20, 30] - change[:, 0, 20, 10]) / 20
    assert slopes.std().item() == pytest.approx(0.1, rel=0.3)


def test_colour_changes_are_exposure_contrast_saturation_and_balance():
    rgb = torch.full((200, 3, 4, 4), 100.0)
    rgb[:, 0] += 30
    grey = shift_colour(rgb, dataclasses.replace(NOTHING, brightness=0.2), generator())
    gain = grey / rgb
    assert torch.allclose(gain, gain[:, :1, :1, :1].expand_as(gain), atol=1e-4)
    assert gain.log()[:, 0, 0, 0].std().item() == pytest.approx(0.2, rel=0.2)
    flat = shift_colour(rgb, dataclasses.replace(NOTHING, contrast=0.5), generator())
    assert torch.allclose(flat.mean((1, 2, 3)), rgb.mean((1, 2, 3)), atol=1e-2)
    pale = shift_colour(rgb, dataclasses.replace(NOTHING, saturation=0.5), generator())
    assert torch.allclose(pale.mean(1), rgb.mean(1), atol=1e-2)
    assert pale[:, 0, 0, 0].std() > 3
    tinted = shift_colour(rgb, dataclasses.replace(NOTHING, white_balance=0.1), generator()) / rgb
    assert tinted[:, :, 0, 0].std(1).mean() > 0.05


def test_patches_fall_on_colour_and_depth_independently():
    how = dataclasses.replace(NOTHING, erase=0.5, erase_size=0.5)
    changed = augment(batch_of(200), how, 0, 0, 0)
    before = batch_of(200)
    no_colour = (changed.rgb != before.rgb).flatten(1).any(1)
    no_depth = ((changed.depth == 0) & (before.depth > 0)).flatten(1).any(1)
    for share in (no_colour, no_depth, no_colour == no_depth):
        assert 0.35 < share.float().mean() < 0.65
    area = patches(before.depth, how, generator()).float().mean((1, 2, 3))
    assert area.max() <= 0.26
