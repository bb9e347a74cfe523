"""Training batches: which pairs, in which order, and how they are changed, all of it a function of numbers.

The order depends on (seed, epoch) alone, how a pair is changed on (seed, epoch, row of the pack) alone, and
neither on a generator's state. So a run that was stopped and resumed sees what an uninterrupted one sees, and
a pair is changed alike in whatever batch, on whichever of several ranks, on a CPU or a GPU it comes up.
Colour and depth are warped by one map; each pair has its own draws.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import torch

from ..base.errors import UserError
from ..data.pack import Batch, Pack, decode
from .augment import Augmentation, Modality, augment
from .draws import ORDER, PICTURES, mix, random_stream, sample_keys


def labelled(pack: Pack, table, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the pack (n,) and labels (n,) int64, positions in `classes`, of a split table."""
    number = {name: label for label, name in enumerate(classes)}
    return pack.rows(table["pair_id"]), np.array([number[name] for name in table["cls_name"]], np.int64)


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order (n,) in which epoch number `epoch` visits n pairs."""
    return np.random.default_rng(random_stream(ORDER, seed, epoch)).permutation(n)


def epoch_batches(n: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The positions of each batch of an epoch: all n, in ceil(n / batch_size) batches of nearly equal size.

    Nothing is dropped, and no batch of one pair is left over, which batch normalisation could not use.
    """
    return np.array_split(epoch_order(n, seed, epoch), max(1, -(-n // batch_size)))


def person_batches(labels: np.ndarray, batch_size: int, per_person: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The positions of each batch of an epoch, P x K: P = batch_size / per_person people with K = per_person pictures.

    ceil(n / batch_size) batches; in each the people differ, and the K pictures of a person follow one
    another. All people come up equally often, to within one, within an epoch and over all epochs so far. So
    do the pictures of a person, over the epochs: K at a time, in an order that changes as soon as all of them
    have come up equally often. Somebody with fewer than K pictures comes up with some of them twice.

    UserError: per_person does not divide batch_size, a batch of fewer than 2 people, or of more than there are.
    """
    people, person, n_pictures = np.unique(labels, return_inverse=True, return_counts=True)
    n_people, steps, wanted = len(people), -(-len(labels) // batch_size), batch_size // per_person
    if batch_size % per_person:
        raise UserError(f"batch_size {batch_size} is not a multiple of per_person {per_person}: change one of them")
    if n_people < 2:
        raise UserError(f"{n_people} person in the training set: pairs of different people need at least 2")
    if not 2 <= wanted <= n_people:
        raise UserError(
            f"batch_size {batch_size} with per_person {per_person} asks for {wanted} people in a batch: at least 2 "
            f"are needed and the training set has {n_people}: change batch_size or per_person"
        )
    random = np.random.default_rng(random_stream(ORDER, seed, epoch))
    visited, due = _visits(n_people, steps * wanted, seed, epoch)
    who, visit = np.empty((2, steps, wanted), np.int64)
    for step in range(steps):
        # those who have most visits left; due numbers stay within one of each other, so nobody is left with
        # more visits than there are batches
        rank = random.random(n_people)
        chosen = np.argpartition(-(due + rank), wanted - 1)[:wanted]
        chosen = chosen[np.argsort(rank[chosen])]  # by chance, not by label: ranks share out a batch in order
        who[step], visit[step] = chosen, visited[chosen]
        visited[chosen] += 1
        due[chosen] -= 1
    pictures = _pictures_in_turn(person, n_pictures, who.ravel(), visit.ravel(), per_person, seed)
    return list(pictures.reshape(steps, batch_size))


def _visits(n_people: int, visits: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each person (n_people,): how often visited before this epoch, and how often to be visited in it."""
    each, extra = divmod(visits, n_people)
    place = np.random.default_rng(random_stream(PICTURES, seed, 0)).permutation(n_people)
    # the extra visits of all epochs go round the people, so many each epoch
    before, after = ((epochs * extra - place + n_people - 1) // n_people for epochs in (epoch, epoch + 1))
    return epoch * each + before, each + after - before


def _pictures_in_turn(person, n_pictures, who, visit, per_person: int, seed: int) -> np.ndarray:
    """(visits, K) positions of the pictures that person who[i] shows at visit number visit[i] of the whole run.

    After `cycle` visits all pictures of a person were shown equally often; then their order is drawn anew.
    """
    cycle = n_pictures // np.gcd(n_pictures, per_person)
    rounds = visit // cycle[who]
    blocks, block = np.unique(rounds * len(n_pictures) + who, return_inverse=True)  # a block: a person in a round
    rounds, owner = np.divmod(blocks, len(n_pictures))
    size = n_pictures[owner]
    start = np.cumsum(size) - size
    first = (np.cumsum(n_pictures) - n_pictures)[owner]
    within = np.arange(size.sum()) - np.repeat(start, size)
    shown = np.argsort(person, kind="stable")[np.repeat(first, size) + within]  # each block's pictures
    chance = mix(np.repeat(rounds, size).astype(np.uint64) + np.uint64(random_stream(PICTURES, seed, 1)))
    chance = mix(chance + shown.astype(np.uint64))
    shown = shown[np.lexsort((chance, np.repeat(np.arange(len(blocks)), size)))]
    turn = (visit % cycle[who])[:, None] * per_person + np.arange(per_person)
    return shown[start[block][:, None] + turn % size[block][:, None]]


def shard(positions: np.ndarray, rank: int, world: int, per_person: int = 0) -> np.ndarray:
    """The part of a global batch that is for rank 0 <= rank < world: together all of it, and nothing twice.

    Parts differ in size by one at most; with per_person K > 0 they are of whole people, K pictures each.
    UserError: fewer pictures (people) in the batch than ranks.
    """
    units = positions.reshape(-1, per_person or 1)
    if len(units) < world:
        what = "people" if per_person else "pairs"
        raise UserError(
            f"a batch of {len(units)} {what} for {world} processes: raise batch_size or use fewer processes"
        )
    return np.array_split(units, world)[rank].ravel()


def train_batches(
    pack: Pack,
    rows: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    device="cpu",
    augmentation: Augmentation | None = None,
    first_step: int = 0,
    per_person: int = 0,
    rank: int = 0,
    world: int = 1,
    ahead: int = 2,
    modality: Modality = "rgbd",
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """(batch, labels (B,) int64) of each step of an epoch from `first_step` on, as `rank` of `world` sees it.

    batch_size: of all ranks together. augmentation None: none. per_person: K of P x K batches (see
    `person_batches`); 0: plain shuffling. ahead: batches that a thread reads beforehand where the pack is not
    on the device; it has no say in what comes out. UserError as of `person_batches` and `shard`.
    """
    if per_person:
        steps = person_batches(labels, batch_size, per_person, seed, epoch)
    else:
        steps = epoch_batches(len(rows), batch_size, seed, epoch)
    turns = np.split(_turns(np.concatenate(steps)), np.cumsum([len(step) for step in steps])[:-1])
    parts = [[shard(x, rank, world, per_person) for x in both] for both in zip(steps, turns, strict=True)][first_step:]
    pinned = torch.device(device).type == "cuda"
    stored = (pack.read(rows[chosen], pinned) for chosen, _ in parts)
    streamed = isinstance(pack.rgb, np.ndarray)
    with closing(prefetch(stored, ahead if streamed else 0)) as ready:
        for (chosen, turn), pairs in zip(parts, ready, strict=True):
            batch = decode(pairs, device)
            if augmentation is not None:
                batch = augment(batch, augmentation, sample_keys(seed, epoch, rows[chosen], turn), modality)
            yield batch, torch.from_numpy(labels[chosen]).to(device, non_blocking=True)


def _turns(positions: np.ndarray) -> np.ndarray:
    """(n,) how often each of `positions` came up before in them."""
    order = np.argsort(positions, kind="stable")
    _, first, counts = np.unique(positions[order], return_index=True, return_counts=True)
    turns = np.empty_like(positions)
    turns[order] = np.arange(len(positions)) - np.repeat(first, counts)
    return turns


def prefetch(items: Iterator, ahead: int) -> Iterator:
    """The same items, up to `ahead` of them made beforehand by one thread; ahead 0: no thread.

    What the thread raises is raised here, at the item that failed. It ends with this iterator, stopped early or not.
    """
    if not ahead:
        yield from items
        return
    end = object()
    with ThreadPoolExecutor(1, "prefetch") as thread:
        try:
            waiting = deque(thread.submit(next, items, end) for _ in range(ahead))
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
