"""Batches: an order and changes that are functions of numbers, and one geometry for colour and depth."""

import dataclasses
import threading
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from face3d_lib.base.errors import UserError
from face3d_lib.data.pack import Batch, Pack
from face3d_lib.train import augment as augment_module
from face3d_lib.train import draws
from face3d_lib.train.augment import Augmentation, augment, blur, disturb_depth, erase, render, shift_colour, warp
from face3d_lib.train.batches import (
    epoch_batches,
    epoch_order,
    labelled,
    person_batches,
    prefetch,
    shard,
    train_batches,
)
from face3d_lib.train.draws import PATCH, PIXELS, normal, pixel_words, sample_keys, uniform
from face3d_lib.train.encodings import encode_normals

NOTHING = Augmentation(**dict.fromkeys((f.name for f in dataclasses.fields(Augmentation)), 0.0))
GEOMETRY = dataclasses.replace(NOTHING, flip=0.5, rotation_deg=8, zoom=0.1, shift=0.05)
EVERYTHING = Augmentation(pose_deg=6, quantisation_px=1, blur=0.5)


def only(**how):
    return dataclasses.replace(NOTHING, **how)


def keys(n, seed=0, epoch=0):
    return sample_keys(seed, epoch, np.arange(n))


def batch_of(n=8, size=40):
    """A ramp in colour and the same ramp in depth, every seventh reading missing."""
    ramp = (torch.arange(size)[:, None] + 2.0 * torch.arange(size)) + 20
    rgb = ramp.expand(n, 3, size, size).round().to(torch.uint8)
    depth = ramp.expand(n, 1, size, size) + 500
    holes = (torch.arange(size * size) % 7 == 0).view(size, size)
    return Batch(rgb.clone(), torch.where(holes, 0, depth), torch.full((n,), 1.8))


def tiny_pack(n=20, size=16):
    """A streamed pack whose pairs all differ."""
    random = np.random.default_rng(0)
    rgb = random.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    codes = random.integers(0, 3000, (n, size, size)).astype(np.int16)
    return Pack(None, {}, pd.DataFrame(index=range(n)), rgb, codes, np.tile(np.float32([500, 0.1, 1.8]), (n, 1)))


def pick(batch, index):
    return Batch(batch.rgb[index], batch.depth[index], batch.depth_per_px[index])


def assert_same(a, b):
    for x, y in ((a.rgb, b.rgb), (a.depth, b.depth), (a.depth_per_px, b.depth_per_px)):
        assert torch.equal(x, y)


def test_labels_are_positions_among_the_classes_and_rows_follow_the_table():
    class Rows:
        def rows(self, pair_ids):
            return np.array([int(pair_id[-1]) for pair_id in pair_ids])

    table = pd.DataFrame({"pair_id": ["b/4", "a/7", "b/1"], "cls_name": ["b", "a", "b"]})
    rows, labels = labelled(Rows(), table, ["a", "b"])
    assert rows.tolist() == [4, 7, 1]
    assert labels.tolist() == [1, 0, 1]


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
    steps = epoch_batches(n, size, 0, 0)
    assert [len(step) for step in steps] == sizes
    assert sorted(np.concatenate(steps)) == list(range(n))


def test_batches_do_not_depend_on_global_random_state_or_on_where_one_starts():
    rows, labels = np.arange(20)[::-1].copy(), np.arange(20) * 10

    def run(first_step=0):
        return list(train_batches(tiny_pack(), rows, labels, 6, 1, 2, "cpu", Augmentation(), first_step))

    torch.manual_seed(0)
    whole = run()
    torch.manual_seed(9)
    rest = run(first_step=2)
    assert [len(y) for _, y in whole] == [5, 5, 5, 5]
    assert sorted(torch.cat([y for _, y in whole]).tolist()) == list(labels)
    for (a, ya), (b, yb) in zip(whole[2:], rest, strict=True):
        assert_same(a, b)
        assert torch.equal(ya, yb)


def test_what_becomes_of_a_pair_hangs_on_its_row_in_the_pack():
    def run(rows):
        steps = list(train_batches(tiny_pack(), rows, rows.copy(), 6, 1, 2, "cpu", Augmentation()))
        return {int(label): pick(batch, [i]) for batch, y in steps for i, label in enumerate(y)}

    a, b = run(np.arange(20)), run(np.array([17, 3, 8, 4, 19]))
    for row in b:
        assert_same(a[row], b[row])


def test_without_augmentation_batches_are_what_the_pack_holds():
    pack, labels = tiny_pack(), np.arange(10) + 5
    for batch, y in train_batches(pack, np.arange(10) + 3, labels, 4, 0, 0):
        assert_same(batch, pack.batch(y.numpy() - 5 + 3))


# -- P x K


def crowd(counts, seed=0):
    """Labels of people with so many pictures, in disorder."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize(("counts", "size", "k"), [([6] * 8, 12, 3), ([5, 9, 30, 7, 4, 4], 8, 4), ([8, 8, 9], 6, 2)])
def test_a_batch_holds_p_people_with_k_different_pictures_each(counts, size, k):
    labels = crowd(counts)
    for epoch in range(4):
        steps = person_batches(labels, size, k, 1, epoch)
        assert len(steps) == -(-len(labels) // size) == len(epoch_batches(len(labels), size, 1, epoch))
        for positions in steps:
            people = labels[positions].reshape(-1, k)
            assert (people == people[:, :1]).all()
            assert len(set(people[:, 0])) == size // k
            assert len(set(positions)) == size  # everybody here has K pictures


def test_people_come_up_equally_often_and_their_pictures_in_turn():
    labels = crowd([3, 10, 6, 7, 4, 21, 8])
    people, pictures = Counter(), Counter()
    for epoch in range(30):
        within = Counter()
        for positions in person_batches(labels, 12, 3, 5, epoch):
            within.update(labels[positions[::3]].tolist())
            pictures.update(positions.tolist())
        people += within
        for counted in (within, people):
            assert max(counted.values()) - min(counted[i] for i in range(7)) <= 1
        for person in range(7):
            shown = [pictures[i] for i in np.flatnonzero(labels == person)]
            assert max(shown) - min(shown) <= 1


def test_the_same_people_or_pictures_do_not_always_meet():
    labels = crowd([8] * 12)
    pairs, companions = Counter(), Counter()
    for epoch in range(60):
        for positions in person_batches(labels, 8, 2, 0, epoch):
            who = labels[positions[::2]]
            pairs.update((a, b) for a in who for b in who if a < b)
            companions.update(tuple(sorted(x)) for x in positions.reshape(-1, 2).tolist())
    assert len(pairs) == 12 * 11 / 2
    assert min(pairs.values()) > 0.7 * np.mean(list(pairs.values()))
    assert len(companions) > 0.9 * 12 * 8 * 7 / 2


def test_which_people_a_rank_gets_does_not_hang_on_their_labels():
    steps = [positions for epoch in range(20) for positions in person_batches(crowd([8] * 12), 8, 2, 0, epoch)]
    first = [crowd([8] * 12)[shard(positions, 0, 2, 2)].mean() for positions in steps]
    assert np.mean(first) == pytest.approx(5.5, abs=0.5)


def test_person_batches_are_a_function_of_seed_and_epoch():
    labels = crowd([6] * 8)
    first = np.concatenate(person_batches(labels, 12, 3, 1, 2))
    assert (np.concatenate(person_batches(labels, 12, 3, 1, 2)) == first).all()
    assert not (np.concatenate(person_batches(labels, 12, 3, 1, 3)) == first).all()
    assert not (np.concatenate(person_batches(labels, 12, 3, 2, 2)) == first).all()
    named = np.array(list("hgfedcba"))[labels]  # labels need not be 0..C-1
    assert (np.array([named[p] for p in person_batches(named, 12, 3, 1, 2)]).reshape(-1, 3)[:, 0] != "").all()


def test_who_has_fewer_than_k_pictures_comes_up_with_copies_that_are_changed_apart():
    labels = crowd([2, 6, 6, 6])
    steps = list(train_batches(tiny_pack(), np.arange(20), labels, 8, 0, 0, "cpu", Augmentation(), 0, 4))
    assert len(steps) == 3
    seen = 0
    for batch, y in steps:
        assert sorted(Counter(y.tolist()).values()) == [4, 4]
        seen += len({tuple(d.flatten().tolist()) for d in batch.depth})
    assert seen == 24
    few = next(p for p in person_batches(labels, 8, 4, 0, 0) if 0 in labels[p])
    assert sorted(Counter(few[labels[few] == 0].tolist()).values()) == [2, 2]


@pytest.mark.parametrize(
    ("counts", "size", "k", "fault"),
    [
        ([9], 4, 2, "1 person in the training set"),
        ([4, 4], 8, 3, "not a multiple"),
        ([4, 4, 4], 8, 2, "asks for 4 people"),
        ([4, 4, 4], 4, 4, "asks for 1 people"),
    ],
)
def test_what_p_times_k_cannot_have_is_said(counts, size, k, fault):
    with pytest.raises(UserError, match=fault):
        person_batches(crowd(counts), size, k, 0, 0)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [0, 3])
def test_ranks_share_a_batch_out_without_loss_or_doubling(world, k):
    labels = crowd([6, 7, 8, 9, 5, 5])
    steps = person_batches(labels, 15, 3, 0, 0) if k else epoch_batches(len(labels), 15, 0, 0)
    for positions in steps:
        parts = [shard(positions, rank, world, k) for rank in range(world)]
        assert np.concatenate(parts).tolist() == positions.tolist()
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= (k or 1)
        if k:
            assert all(set(Counter(labels[part].tolist()).values()) == {k} for part in parts)


def test_more_ranks_than_a_batch_can_feed_is_a_users_mistake():
    assert len(shard(np.arange(4), 3, 4)) == 1
    with pytest.raises(UserError, match="4 pairs for 5 processes"):
        shard(np.arange(4), 0, 5)
    with pytest.raises(UserError, match="2 people for 3 processes"):
        shard(np.arange(8), 0, 3, 4)


@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_see_the_bytes_that_one_process_sees(world, k):
    labels = crowd([5, 5, 5, 5])

    def run(rank, world):
        where = (tiny_pack(), np.arange(20), labels, 8, 3, 1, "cpu", EVERYTHING)
        return list(train_batches(*where, per_person=k, rank=rank, world=world))

    if k and world == 3:
        labels = crowd([4] * 5)
    whole = run(0, 1)
    for (batch, y), *parts in zip(whole, *[run(rank, world) for rank in range(world)], strict=True):
        together = Batch(*(torch.cat([getattr(b, f.name) for b, _ in parts]) for f in dataclasses.fields(Batch)))
        assert_same(together, batch)
        assert torch.equal(torch.cat([part for _, part in parts]), y)


# -- reading ahead


def test_reading_ahead_has_no_say_in_what_comes_out():
    labels = crowd([5, 5, 5, 5])

    def run(ahead):
        where = (tiny_pack(), np.arange(20), labels, 4, 3, 1, "cpu", Augmentation())
        return list(train_batches(*where, ahead=ahead))

    plain = run(0)
    for ahead in (1, 4, 50):
        for (a, ya), (b, yb) in zip(plain, run(ahead), strict=True):
            assert_same(a, b)
            assert torch.equal(ya, yb)


def alive():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_the_thread_reads_ahead_as_far_as_told_and_ends_with_its_reader():
    made = []

    def items():
        for i in range(10):
            assert threading.current_thread().name.startswith("prefetch")
            made.append(i)
            yield i

    ready = prefetch(items(), 3)
    assert next(ready) == 0
    deadline = time.monotonic() + 20
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]  # one in hand, three ahead
    assert len(alive()) == 1
    ready.close()
    assert alive() == []
    assert list(prefetch(iter(range(5)), 2)) == [0, 1, 2, 3, 4]
    assert alive() == []


def test_stopping_early_leaves_unread_what_was_not_begun():
    made, go = [], threading.Event()

    def items():
        for i in range(10):
            made.append(i)
            if i == 1:
                go.wait(20)
            yield i

    ready = prefetch(items(), 3)
    assert next(ready) == 0
    threading.Timer(0.1, go.set).start()
    ready.close()
    assert len(made) <= 2


def test_stopping_in_the_middle_of_an_epoch_ends_the_thread():
    for _batch in train_batches(tiny_pack(), np.arange(20), np.arange(20), 4, 0, 0):
        assert len(alive()) == 1
        break
    assert alive() == []


def test_what_goes_wrong_in_the_thread_is_raised_where_the_item_is_asked_for():
    def items():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    ready = prefetch(items(), 4)
    assert [next(ready), next(ready)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ready)
    assert alive() == []


# -- draws


def test_draws_have_the_distributions_they_are_named_for():
    k = keys(20000)
    u, z = uniform(k, 3, 4), normal(k, 3, 4)
    assert u.mean() == pytest.approx(0.5, abs=0.005)
    assert u.var() == pytest.approx(1 / 12, rel=0.02)
    assert (u > 0).all()
    assert (u < 1).all()
    assert z.mean() == pytest.approx(0, abs=0.015)
    assert z.std() == pytest.approx(1, abs=0.01)
    assert (np.abs(z) > 3).mean() == pytest.approx(0.0027, rel=0.25)
    others = np.concatenate([u, uniform(k, 4, 2), uniform(keys(20000, epoch=1), 3, 2), uniform(k + 1, 3, 1)], 1)
    correlation = np.corrcoef(others.T)  # of counters, purposes, epochs, neighbouring keys
    assert np.abs(correlation - np.eye(9)).max() < 0.04


def test_keys_differ_by_seed_epoch_row_and_turn():
    rows = np.arange(1000)
    many = [sample_keys(seed, epoch, rows, turn) for seed in (0, 1) for epoch in (0, 1) for turn in (0, 1)]
    assert len(set(np.concatenate(many).tolist())) == 8000
    assert sample_keys(0, 0, rows).dtype == np.int64
    assert (sample_keys(0, 0, rows[[7, 3]]) == sample_keys(0, 0, rows)[[7, 3]]).all()


def lowbias32(word):
    """In Python's integers, which have no sign to drag along."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        word = (word ^ word >> shift) * factor % 2**32
    return word ^ word >> 15


def test_pixels_are_hashed_as_unsigned_integers_are():
    words = pixel_words(keys(3), 5, 7, "cpu").flatten(1).tolist()
    for row, start in zip(words, draws._words(keys(3), PIXELS, 1)[:, 0].tolist(), strict=True):
        assert [word % 2**32 for word in row] == [lowbias32((start + i * 0x9E3779B9) % 2**32) for i in range(35)]


def test_pixel_words_are_even_in_every_bit_and_unrelated_between_pairs_and_places():
    words = pixel_words(keys(40), 64, 64, "cpu").long() & 0xFFFFFFFF
    bits = torch.stack([(words >> k & 1).float().mean() for k in range(32)])
    assert (bits - 0.5).abs().max() < 0.006
    u = words.double().flatten(1) / 2**32
    assert torch.corrcoef(u).fill_diagonal_(0).abs().max() < 0.08
    assert torch.corrcoef(u[:, :64].T.contiguous()).fill_diagonal_(0).abs().mean() < 0.2
    neighbours = torch.stack([u[:, :-1].flatten(), u[:, 1:].flatten()])
    assert torch.corrcoef(neighbours)[0, 1].abs() < 0.01


# -- augmentation


def test_a_pair_is_changed_alike_in_whatever_batch_it_comes():
    batch, k = batch_of(13, 37), keys(13)
    torch.manual_seed(0)
    whole = augment(batch, EVERYTHING, k)
    torch.manual_seed(1)
    for index in ([4], [12, 0], [3, 3, 9, 1, 2], list(range(12, -1, -1))):
        assert_same(augment(pick(batch, index), EVERYTHING, k[index]), pick(whole, index))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert_same(augment(batch, EVERYTHING, k), whole)
    torch.set_num_threads(threads)


def test_the_batch_that_came_in_is_left_as_it_was():
    for how in (EVERYTHING, only(erase=1, erase_size=0.5), only(blur=1, blur_px=1), only(depth_noise_px=1)):
        batch = batch_of()
        augment(batch, how, keys(8))
        assert_same(batch, batch_of())


def test_each_pair_and_each_epoch_has_draws_of_its_own():
    batch = batch_of()
    a, b = (augment(batch, Augmentation(), keys(8, epoch=epoch)) for epoch in (0, 1))
    assert not torch.equal(a.rgb, b.rgb)
    assert not torch.equal(a.depth, b.depth)
    assert len({tuple(image.flatten().tolist()) for image in a.depth}) == len(batch)
    assert len({tuple(image.flatten().tolist()) for image in a.rgb}) == len(batch)


def test_without_changes_a_batch_stays_as_it_is():
    batch = batch_of()
    same = augment(batch, NOTHING, keys(8))
    assert torch.equal(same.rgb, batch.rgb)
    assert torch.equal(same.depth, batch.depth)
    assert torch.equal(same.depth_per_px, batch.depth_per_px)


def test_colour_and_depth_are_warped_alike():
    warped = warp(batch_of(32), GEOMETRY, keys(32))
    seen = warped.depth > 0
    error = (warped.rgb[:, :1] + 500 - warped.depth)[seen].abs()  # nearest is at most a diagonal pixel step away
    assert error.max() <= 2.2
    assert (warped.rgb[:, :, :, 5] > warped.rgb[:, :, :, 35]).all((1, 2)).float().mean() == pytest.approx(0.5, abs=0.3)


def test_the_warp_is_a_similarity_mirrored_or_not():
    x = torch.arange(40.0).expand(40, 40)
    places = torch.stack([x, x.T, x]).expand(64, 3, 40, 40)  # each pixel's colour is its place
    batch = Batch(places, torch.ones(64, 1, 40, 40), torch.ones(64))
    warped = warp(batch, dataclasses.replace(GEOMETRY, rotation_deg=10, zoom=0.05, shift=0.01), keys(64))
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
    warped = warp(batch, GEOMETRY, keys(16))
    assert set(warped.depth.unique().tolist()) <= set(batch.depth.unique().tolist())
    assert (warped.depth == 0).float().mean() > 0.1
    changed = disturb_depth(batch.depth, batch.depth_per_px, Augmentation(hole_share=0.0), keys(16))
    assert torch.equal(changed > 0, batch.depth > 0)
    lost = disturb_depth(batch.depth, batch.depth_per_px, Augmentation(hole_share=0.3), keys(16)) == 0
    assert (lost | (batch.depth > 0)).all()
    assert 0.35 < lost.float().mean() < 0.45


def test_zooming_in_makes_a_pixel_smaller():
    how = only(zoom=0.2)
    batch = batch_of(64)
    warped = warp(batch, how, keys(64))
    zoom = batch.depth_per_px / warped.depth_per_px
    step_across = (warped.rgb[:, 0, 20, 24] - warped.rgb[:, 0, 20, 16]) / 8  # the ramp rises by 2 per pixel before
    assert torch.allclose(step_across, 2 / zoom, atol=0.15)


def test_depth_noise_is_in_crop_pixels():
    batch = batch_of(64)
    how = only(depth_noise_px=0.5)
    change = disturb_depth(batch.depth, batch.depth_per_px, how, keys(64)) - batch.depth
    assert change[batch.depth > 0].std().item() == pytest.approx(0.5 * 1.8, rel=0.03)
    how = only(depth_tilt=0.1)
    change = (disturb_depth(batch.depth, batch.depth_per_px, how, keys(64)) - batch.depth) / 1.8
    slopes = (change[:, 0, 20, 30] - change[:, 0, 20, 10]) / 20
    assert slopes.std().item() == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize(
    "how", [EVERYTHING, dataclasses.replace(EVERYTHING, pose_deg=0), only(erase=0.5, erase_size=0.3)]
)
def test_what_the_network_does_not_see_is_left_alone_and_what_it_sees_is_the_same(how):
    batch, k = batch_of(16), keys(16)
    both, colour, depth = (augment(batch, how, k, modality) for modality in ("rgbd", "rgb", "depth"))
    assert torch.equal(colour.rgb, both.rgb)
    assert not torch.equal(colour.rgb, batch.rgb)
    assert torch.equal(depth.rgb, batch.rgb)
    assert torch.equal(depth.depth, both.depth)
    assert not torch.equal(depth.depth, batch.depth)
    if not how.pose_deg:  # a pose is rendered from depth, so depth has to be turned even for colour alone
        assert torch.equal(colour.depth, batch.depth)
    where = (tiny_pack(), np.arange(20), np.arange(20), 8, 0, 0, "cpu", how)
    for (x, _), (y, _) in zip(train_batches(*where), train_batches(*where, modality="depth"), strict=True):
        assert torch.equal(x.depth, y.depth)
        assert x.rgb.shape == y.rgb.shape
        assert not torch.equal(x.rgb, y.rgb)


def test_relief_is_another_unit_and_not_another_depth():
    batch = batch_of(4000, size=4)
    changed = augment(batch, only(relief=0.3), keys(4000))
    assert torch.equal(changed.depth, batch.depth)
    assert torch.equal(changed.rgb, batch.rgb)
    factor = (batch.depth_per_px / changed.depth_per_px).log()
    assert factor.mean().item() == pytest.approx(0, abs=0.02)
    assert factor.std().item() == pytest.approx(0.3, rel=0.05)
    again = augment(batch, only(relief=0.3), keys(4000, epoch=1))
    assert not torch.allclose(again.depth_per_px, changed.depth_per_px)  # drawn anew in every epoch
    one = batch_of(1)
    deeper = augment(one, only(relief=0.3), keys(1))
    flat, steep = (abs(encode_normals(b.depth, b.depth_per_px)[0, 0, 20, 20].item()) for b in (one, deeper))
    assert (steep > flat) == (deeper.depth_per_px < one.depth_per_px).item()


def test_colour_changes_are_exposure_contrast_saturation_and_balance():
    n = 5000
    rgb = torch.full((n, 3, 2, 2), 100.0)
    rgb[:, 0] += 30
    rgb[:, :, 0] -= 40  # the upper row is darker than the lower
    gain = shift_colour(rgb, only(brightness=0.2), keys(n)) / rgb
    assert torch.allclose(gain, gain[:, :1, :1, :1].expand_as(gain), atol=1e-4)
    assert gain.log()[:, 0, 0, 0].mean().item() == pytest.approx(0, abs=0.01)
    assert gain.log()[:, 0, 0, 0].std().item() == pytest.approx(0.2, rel=0.05)
    flat = shift_colour(rgb, only(contrast=0.3), keys(n))
    assert torch.allclose(flat.mean((1, 2, 3)), rgb.mean((1, 2, 3)), atol=1e-2)
    spread = (flat[:, 1, 1, 0] - flat[:, 1, 0, 0]) / 40
    assert spread.log().std().item() == pytest.approx(0.3, rel=0.05)
    pale = shift_colour(rgb, only(saturation=0.5), keys(n))
    assert torch.allclose(pale.mean(1), rgb.mean(1), atol=1e-2)
    chroma = (pale[:, 0] - pale[:, 1])[:, 0, 0] / 30
    assert chroma.log().std().item() == pytest.approx(0.5, rel=0.05)
    tinted = (shift_colour(rgb, only(white_balance=0.1), keys(n)) / rgb)[:, :, 0, 0].log()
    assert tinted.std(0).tolist() == pytest.approx([0.1] * 3, rel=0.05)
    assert (torch.corrcoef(tinted.T) - torch.eye(3)).abs().max() < 0.05


def test_the_order_of_colour_changes_is_saturation_contrast_gain():
    random = np.random.default_rng(0)
    rgb = torch.from_numpy(random.integers(0, 256, (6, 3, 9, 8))).float()
    how, z = only(brightness=0.3, contrast=0.4, saturation=0.5, white_balance=0.2), normal(keys(6), draws.COLOUR, 6)
    x = rgb.numpy().astype(float)
    grey = x.mean(1, keepdims=True)
    e = np.exp(z * [0.3, 0.4, 0.5, 0.2, 0.2, 0.2])[:, :, None, None]
    x = grey + e[:, 2:3] * (x - grey)
    mean = np.rint(grey).mean((2, 3), keepdims=True)
    x = (mean + e[:, 1:2] * (x - mean)) * e[:, :1] * e[:, 3:]
    assert shift_colour(rgb, how, keys(6)).numpy() == pytest.approx(x, abs=1e-2)


def test_the_geometry_has_the_spread_that_was_asked_for():
    n = 4000
    x = torch.arange(4.0).expand(4, 4)
    batch = Batch(torch.stack([x, x.T, x]).expand(n, 3, 4, 4), torch.ones(n, 1, 4, 4), torch.ones(n))
    zoomed = warp(batch, only(zoom=0.2), keys(n)).depth_per_px.log()
    assert zoomed.std().item() == pytest.approx(0.2, rel=0.05)
    shifted = warp(batch, only(shift=0.05), keys(n)).rgb[:, :2, 1, 1] - 1
    assert shifted.std(0).tolist() == pytest.approx([0.05 * 4] * 2, rel=0.05)
    flipped = warp(batch, only(flip=0.3), keys(n))
    assert (flipped.rgb[:, 0, 0, 0] > 2).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(flipped.rgb[:, 1], batch.rgb[:, 1])


def test_misregistration_moves_depth_and_not_colour():
    n, size = 2000, 12
    places = torch.arange(float(size)).expand(size, size)
    batch = Batch(torch.full((n, 3, size, size), 9), (places + 100).expand(n, 1, size, size), torch.ones(n))
    changed = augment(batch, only(misregistration_px=1.5), keys(n))
    assert torch.equal(changed.rgb, batch.rgb.byte())
    moved = changed.depth[:, 0, 6, 6] - 106
    inside = changed.depth[:, 0, 6, 6] > 0
    assert inside.float().mean() > 0.99
    assert moved[inside].std().item() == pytest.approx((1.5**2 + 1 / 12) ** 0.5, rel=0.06)  # and the rounding
    assert set(moved[inside].tolist()) <= set(range(-6, 7))


def test_blur_is_a_gaussian_on_some_of_the_colour_alone():
    n = 400
    batch = Batch(torch.zeros(n, 3, 21, 21, dtype=torch.uint8), torch.ones(n, 1, 21, 21), torch.ones(n))
    batch.rgb[:, :, 10, 10] = 200
    out = blur(batch.rgb, only(blur=0.3, blur_px=2.0), keys(n))
    assert out.sum((2, 3)).numpy() == pytest.approx(200, rel=1e-4)  # light is kept
    changed = (out != batch.rgb).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.06)
    x = torch.arange(21.0) - 10
    spread = (out * x**2).sum((2, 3))[changed, 0] / 200
    assert torch.allclose(spread, (out * x[:, None] ** 2).sum((2, 3))[changed, 2] / 200, rtol=1e-4)
    assert 1.6 < spread.max() ** 0.5 < 2
    assert spread.sqrt().mean().item() == pytest.approx(1, abs=0.15)
    wide = out[spread_of(out, x).argmax(), 0] / 200
    sd = -0.5 / (wide[10, 11] / wide[10, 10]).log()
    assert (wide[10, 13] / wide[10, 10]).log().item() == pytest.approx((-0.5 * 9 / sd).item(), rel=1e-3)
    same = augment(batch, only(blur=1, blur_px=2), keys(n))
    assert torch.equal(same.depth, batch.depth)
    flat = torch.full((3, 3, 9, 9), 77, dtype=torch.uint8)
    assert torch.allclose(blur(flat, only(blur=1, blur_px=2), keys(3)), torch.tensor(77.0), atol=1e-3)  # borders too


def spread_of(image, x):
    return (image * x**2).sum((1, 2, 3))


def test_quantised_depth_has_steps():
    batch = batch_of(50)
    out = disturb_depth(batch.depth, batch.depth_per_px, only(quantisation_px=4), keys(50))
    assert torch.equal(out > 0, batch.depth > 0)
    step = torch.tensor(uniform(keys(50), draws.QUANTISATION, 1)[:, 0] * 4 * 1.8)
    for image, before, by in zip(out.double(), batch.depth, step, strict=True):
        seen = before > 0
        assert (image - before)[seen].abs().max() <= by / 2 + 1e-3
        assert (image[seen] - (image[seen] / by).round() * by).abs().max() < 2e-4
    assert step.mean().item() == pytest.approx(2 * 1.8, rel=0.2)


def test_patches_fall_on_colour_and_depth_independently():
    how = only(erase=0.5, erase_size=0.5)
    changed = augment(batch_of(400), how, keys(400))
    before = batch_of(400)
    no_colour = (changed.rgb != before.rgb).flatten(1).any(1)
    no_depth = ((changed.depth == 0) & (before.depth > 0)).flatten(1).any(1)
    for share in (no_colour, no_depth, no_colour == no_depth):
        assert 0.42 < share.float().mean() < 0.58
    blank = erase(torch.zeros(400, 1, 40, 40), np.ones((400, 1)), how, keys(400), PATCH)
    area = blank.mean((1, 2, 3))
    assert 0.15 < area.max() <= 0.26  # half of the width, squared, and a pixel's rounding
    assert area[area > 0].min() < 0.05
    assert (blank.mean(0)[0] > 0).all()  # no place is spared
    shades = [image[:, (image != was).any(0)] for image, was in zip(changed.rgb, before.rgb, strict=True)]
    shades = [shade for shade in shades if shade.numel()]
    assert all((shade == shade[:, :1]).all() for shade in shades)  # one colour each
    shades = torch.stack([shade[:, 0] for shade in shades]).float()
    assert shades.mean(0).tolist() == pytest.approx([127] * 3, abs=20)
    assert torch.corrcoef(shades.T).fill_diagonal_(0).abs().max() < 0.3


# -- pose


def turned(surface, yaw, pitch, colour=None, aside=(0, 0), reference=800.0, dpp=1.8):
    """(height (H, W) over the median, NaN = no reading, colour (3, H, W)) of one surface after a turn, by `render`."""
    size = surface.shape[-1]
    depth = torch.where(surface.isnan(), 0, reference - surface * dpp)[None, None]
    rgb = torch.zeros(1, 3, size, size) if colour is None else colour[None]
    batch = Batch(rgb, depth, torch.tensor([dpp]))
    x, y = axes(size)
    places = (x.expand(1, size, size), y.expand(1, size, size))
    aside = tuple(torch.full((1, 1, 1), float(v)) for v in aside)
    places, depth = render(batch, places, aside, np.radians([[yaw, pitch]]))
    rgb = augment_module._sample(rgb, places, "bilinear")[0]
    return torch.where(depth > 0, (reference - depth) / dpp, torch.nan)[0, 0], rgb


def axes(size=112):
    x = torch.arange(float(size)) - (size - 1) / 2
    return x, x[:, None]


def rotation(yaw, pitch):
    """What is near (z) goes right, then down; from the axis of each turn, by hand."""
    a, b = np.radians([yaw, pitch])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    return about_x @ about_y


@pytest.mark.parametrize("slopes", [(0, 0), (0.5, -0.4), (0.2, 0.7)])
@pytest.mark.parametrize(("yaw", "pitch"), [(6, 0), (0, -8), (12, 5)])
def test_a_tilted_plane_turned_is_the_plane_tilted_further(slopes, yaw, pitch):
    x, y = axes()
    plane = slopes[0] * x + slopes[1] * y
    z, _ = turned(plane.expand(112, 112), yaw, pitch)
    normal_before = np.array([-slopes[0], -slopes[1], 1]) / np.hypot(np.hypot(*slopes), 1)
    expected = rotation(yaw, pitch) @ normal_before
    inner = z[20:92, 20:92]
    assert not inner.isnan().any()
    depth = (800 - z * 1.8).nan_to_num(0)[None, None]
    found = encode_normals(depth, torch.tensor([1.8]))[0, :, 24:88, 24:88]
    assert found.flatten(1).mean(1).numpy() == pytest.approx(expected, abs=2e-3)
    assert (found - torch.tensor(expected)[:, None, None]).abs().max() < 0.02
    assert not np.allclose(expected, normal_before, atol=0.05)


@pytest.mark.parametrize(("yaw", "pitch"), [(5, 0), (0, -8), (10, 6), (-20, 0)])
def test_a_sphere_turned_is_the_sphere_about_its_moved_centre(yaw, pitch):
    x, y = axes()
    ball = (60**2 - x**2 - y**2).clamp_min(0).sqrt()
    ball[ball == 0] = torch.nan
    middle = ball[28:84, 28:84].nanmedian()
    z, colour = turned(
        ball - middle, yaw, pitch, colour=torch.stack([x.expand(112, 112), y.expand(112, 112), ball * 0])
    )
    centre = rotation(yaw, pitch) @ np.array([0, 0, -middle])
    away = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    expected = centre[2] + (60**2 - away).clamp_min(0).sqrt()
    front = away < 45**2
    assert (~z[front].isnan()).float().mean() > (0.99 if abs(yaw) < 15 else 0.9)
    error = (z - expected)[front & ~z.isnan()].abs()
    assert error.mean() < 0.05
    assert error.quantile(0.99) < (0.3 if abs(yaw) < 15 else 0.7)
    assert z[away > 62**2].isnan().all()  # round is round from every side
    # colour is stuck to the surface: where it comes from, turned by hand, is where it is seen
    front = away < 30**2
    on_ball = torch.stack([colour[0], colour[1], (60**2 - colour[0] ** 2 - colour[1] ** 2).sqrt() - middle])[:, front]
    seen = torch.tensor(rotation(yaw, pitch)).float() @ on_ball
    assert (seen[0] - x.expand(112, 112)[front]).abs().max() < 0.5
    assert (seen[1] - y.expand(112, 112)[front]).abs().max() < 0.5


def test_marks_on_colour_and_depth_stay_together_when_the_head_turns():
    x, y = axes()
    ball = (80**2 - x**2 - y**2).sqrt() - 60
    mark = ((x - 12).abs() < 6) & ((y + 9).abs() < 6)
    colour = torch.where(mark, 255.0, 0.0).expand(3, 112, 112)
    marked = torch.where(mark, torch.nan, ball)
    for yaw, pitch in ((14, 0), (0, 14), (-10, 8)):
        z, rgb = turned(marked, yaw, pitch, colour)
        hole, inside = z[16:-16, 16:-16].isnan(), rgb[0, 16:-16, 16:-16]
        assert hole[inside > 250].all()  # holes stay holes
        assert not hole[inside < 5].any()
        assert hole.sum() > 100
    z, rgb = turned(marked, 14, 0, colour, aside=(3, 0))  # depth lies 3 px beside the colour
    aside = z[16:-16, 16 - 3 : -16 - 3].isnan()
    assert aside[rgb[0, 16:-16, 16:-16] > 250].all()


def test_what_was_hidden_has_no_depth_and_nothing_is_invented():
    x, y = axes()
    box = torch.where((x.abs() < 20) & (y.abs() < 30), 0.0, -40.0)  # before a wall; the median lies on the box
    z, _ = turned(box, 12, 0)
    angle = np.radians(12)
    front, wall = (-x.expand(112, 112) * np.tan(angle) + h / np.cos(angle) for h in (0, -40))
    off = torch.minimum((z - front).abs(), (z - wall).abs())
    assert off[~z.isnan()].max() < 1.5
    row = z[40:72]
    gap = (-40 * np.sin(angle) - 20 * np.cos(angle), -20 * np.cos(angle))  # the wall went left from behind the box
    opened = (x > gap[0] + 1) & (x < gap[1] - 1)
    assert opened.sum() == 6
    assert row[:, opened].isnan().float().mean() > 0.8
    elsewhere = (x < gap[0] - 3) | ((x > gap[1] + 3) & (x < 17)) | ((x > 23) & (x < 46))
    assert not row[:, elsewhere].isnan().any()
    assert (row - torch.where(x.abs() < 19.5, front, wall)[40:72])[:, elsewhere].abs().max() < 1.5


def test_without_a_face_the_picture_turns_as_a_board_and_the_wall_keeps_its_depth():
    colour = axes()[0].expand(3, 112, 112)
    z, rgb = turned(torch.full((112, 112), torch.nan), 20, 0, colour)
    assert z.isnan().all()
    shrunk = axes()[0] / np.cos(np.radians(20))
    assert torch.allclose(rgb[0, 50, 10:100], shrunk[10:100], atol=1e-3)
    x, y = axes()
    behind = torch.where(x**2 + y**2 < 40**2, 0.0, -200.0)
    z, _ = turned(behind, 8, 8)
    assert torch.allclose(z[:10, 30:80], torch.tensor(-200.0), atol=1e-3)


def test_a_drawn_pose_moves_colour_and_depth_as_render_does():
    x, y = axes(48)
    hill = -0.05 * (x**2 + y**2)
    mark = (x.abs() < 4) & (y.abs() < 4)  # on the top, nearer than the median
    depth = torch.where(mark, 0, 800 - hill * 2).expand(9, 1, 48, 48)
    batch = Batch((mark * 255).byte().expand(9, 3, 48, 48), depth, torch.full((9,), 2.0))
    out = warp(batch, only(pose_deg=5), keys(9))
    inside, hole = out.rgb[:, :1, 12:36, 12:36], out.depth[:, :, 12:36, 12:36] == 0
    assert hole[inside > 250].all()
    assert not hole[inside < 5].any()
    middle = (inside * x[12:36]).sum((1, 2, 3)) / inside.sum((1, 2, 3))
    yaw = normal(keys(9), draws.POSE, 2)[:, 0]
    height = 0.05 * 85 - 0.05 * 16  # over the median of x^2 + y^2 in the central half; the hole is filled from its rim
    assert middle.numpy() == pytest.approx(height * np.sin(np.radians(5 * yaw)), abs=0.1)
    assert middle.std() > 0.2


def test_pose_is_drawn_for_each_pair_and_its_spread_is_in_degrees():
    n, size = 300, 32
    batch = Batch(
        torch.zeros(n, 3, size, size, dtype=torch.uint8), torch.full((n, 1, size, size), 800.0), torch.full((n,), 2.0)
    )
    out = warp(batch, only(pose_deg=4), keys(n)).depth[:, 0]
    yaw = torch.atan((out[:, 16, 20] - out[:, 16, 12]) / 8 / 2).rad2deg()
    pitch = torch.atan((out[:, 20, 16] - out[:, 12, 16]) / 8 / 2).rad2deg()
    assert yaw.std().item() == pytest.approx(4, rel=0.12)
    assert pitch.std().item() == pytest.approx(4, rel=0.12)
    assert abs(torch.corrcoef(torch.stack([yaw, pitch]))[0, 1]) < 0.2
