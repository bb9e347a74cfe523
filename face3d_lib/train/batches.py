"""Training batches: which pairs an epoch shows, in which order, and how each of them is changed.

The order depends only on the seed and the epoch, and how a pair is changed only on these two and the pair's row in the
pack; neither depends on a generator's state. A run that was stopped and resumed therefore sees the same batches as a
run that was never stopped, and several processes together see the same batches as one.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

from ..base.errors import UserError
from ..data.pack import Batch, Pack, decode
from .augment import Augmentation, Modality, augment
from .draws import ORDER, PICTURES, mix, random_stream, sample_keys

Item = TypeVar("Item")


def labelled(pack: Pack, table: pd.DataFrame, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of a split table as rows of the pack (n,) and labels (n,) int64, which are positions in `classes`."""
    number = {name: label for label, name in enumerate(classes)}
    return pack.rows(table["pair_id"]), np.array([number[name] for name in table["cls_name"]], np.int64)


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """(n,) int64: the order in which epoch number `epoch` visits n pairs."""
    return np.random.default_rng(random_stream(ORDER, seed, epoch)).permutation(n)


def epoch_batches(n: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The positions, from 0 to n - 1, of the pairs in each batch of an epoch.

    There are ceil(n / batch_size) batches of nearly equal size. No pair is dropped, and no small batch is left over:
    batch normalisation could not use a batch of one pair.
    """
    return np.array_split(epoch_order(n, seed, epoch), max(1, -(-n // batch_size)))


def person_batches(labels: np.ndarray, batch_size: int, per_person: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The positions of the pairs in each batch of an epoch, where a batch shows P people with K pictures of each.

    K is per_person and P is batch_size / per_person. There are ceil(n / batch_size) batches for n labels. The people of
    a batch differ, and the K pictures of a person stand beside each other. All people come up equally often, to within
    one visit, in every epoch and over all epochs so far. The pictures of a person come up K at a time and, over the
    epochs, equally often; their order is drawn anew each time all of them have come up equally often. A person with
    fewer than K pictures comes up with some of them twice.

    UserError: per_person does not divide batch_size, or a batch asks for fewer than 2 people or for more than there
    are.
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
        # The people with the most visits left are chosen. The numbers of visits left then stay within one of each
        # other, and nobody has more visits left than there are batches.
        rank = random.random(n_people)
        chosen = np.argpartition(-(due + rank), wanted - 1)[:wanted]
        chosen = chosen[np.argsort(rank[chosen])]  # in random order, because processes share out a batch from its start
        who[step], visit[step] = chosen, visited[chosen]
        visited[chosen] += 1
        due[chosen] -= 1
    pictures = _pictures_in_turn(person, n_pictures, who.ravel(), visit.ravel(), per_person, seed)
    return list(pictures.reshape(steps, batch_size))


def _visits(n_people: int, visits: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """For each person, (n_people,) int64: the number of visits before this epoch, and the number of visits in it."""
    each, extra = divmod(visits, n_people)
    place = np.random.default_rng(random_stream(PICTURES, seed, 0)).permutation(n_people)
    # Each epoch has `extra` visits beyond an equal number for all; over the epochs they go round the people in turn.
    before, after = ((epochs * extra - place + n_people - 1) // n_people for epochs in (epoch, epoch + 1))
    return epoch * each + before, each + after - before


def _pictures_in_turn(
    person: np.ndarray, n_pictures: np.ndarray, who: np.ndarray, visit: np.ndarray, per_person: int, seed: int
) -> np.ndarray:
    """(visits, K) positions of the pictures that person who[i] shows at visit number visit[i] of the whole run.

    person: (n,) the person of each picture; n_pictures: (n_people,). After `cycle` visits all pictures of a person have
    been shown equally often, and their order is drawn anew.
    """
    cycle = n_pictures // np.gcd(n_pictures, per_person)
    rounds = visit // cycle[who]
    blocks, block = np.unique(rounds * len(n_pictures) + who, return_inverse=True)  # a block is one person in one round
    rounds, owner = np.divmod(blocks, len(n_pictures))
    size = n_pictures[owner]
    start = np.cumsum(size) - size
    first = (np.cumsum(n_pictures) - n_pictures)[owner]
    within = np.arange(size.sum()) - np.repeat(start, size)
    shown = np.argsort(person, kind="stable")[np.repeat(first, size) + within]  # the pictures of each block
    chance = mix(np.repeat(rounds, size).astype(np.uint64) + np.uint64(random_stream(PICTURES, seed, 1)))
    chance = mix(chance + shown.astype(np.uint64))
    shown = shown[np.lexsort((chance, np.repeat(np.arange(len(blocks)), size)))]
    turn = (visit % cycle[who])[:, None] * per_person + np.arange(per_person)
    return shown[start[block][:, None] + turn % size[block][:, None]]


def shard(positions: np.ndarray, rank: int, world: int, per_person: int = 0) -> np.ndarray:
    """The share of process number `rank`, from 0 to world - 1, in a batch; the shares make up the batch exactly.

    The sizes of the shares differ by one pair at most. With per_person K > 0 a share holds whole people, K pictures of
    each. UserError: the batch has fewer pairs (or people) than there are processes.
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
    device: torch.device | str = "cpu",
    augmentation: Augmentation | None = None,
    first_step: int = 0,
    per_person: int = 0,
    rank: int = 0,
    world: int = 1,
    ahead: int = 2,
    modality: Modality = "rgbd",
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """The batch and its labels (B,) int64 for each step of an epoch from `first_step` on.

    batch_size: the number of pairs in a step, over all processes together; process `rank` of `world` gets its share.
    augmentation: None leaves the pairs as they are. per_person: the K of `person_batches`; 0 shuffles pairs instead.
    ahead: how many batches a thread reads in advance while the pack is not on the device; the batches do not depend on
    it. modality: what the network sees; the other modality is not augmented. UserError as in `person_batches` and
    `shard`.
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
    """(n,) int64: how often the same position stands earlier in `positions`."""
    order = np.argsort(positions, kind="stable")
    _, first, counts = np.unique(positions[order], return_index=True, return_counts=True)
    turns = np.empty_like(positions)
    turns[order] = np.arange(len(positions)) - np.repeat(first, counts)
    return turns


def prefetch(items: Iterator[Item], ahead: int) -> Generator[Item, None, None]:
    """The same items, of which a thread makes up to `ahead` in advance; with ahead = 0 there is no thread.

    An exception in the thread is raised here, at the item that failed. The thread ends with this iterator, also when
    the iterator is closed before its end.
    """
    if not ahead:
        yield from items
        return
    end: Any = object()  # no item is this one
    with ThreadPoolExecutor(1, "prefetch") as thread:
        try:
            waiting = deque(thread.submit(next, items, end) for _ in range(ahead))
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
