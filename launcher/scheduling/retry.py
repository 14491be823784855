"""What becomes of a batch that failed, so that one input at fault takes none of its neighbours down. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.errors import NotReady, WorkerLost
from launcher.scheduling.queue import Job, Piece


def another_try(pieces: Sequence[Piece], error: Exception) -> list[list[Piece]]:
    """The batches to run instead of the one of ``pieces`` that ended with ``error``; none where its one input is to blame.

    A batch that was not begun goes on as it is. One that a worker was lost with is run input by input: each further loss
    costs a worker, and so the culprit costs one and not one per halving. One that was refused costs nothing but its
    time, and is halved.
    """
    if isinstance(error, NotReady):
        return [list(pieces)]
    if isinstance(error, WorkerLost):
        return [batch for piece in pieces for batch in one_by_one(piece.job, piece.start, piece.stop)]
    return _halves(pieces)


def one_by_one(job: Job, start: int, stop: int) -> list[list[Piece]]:
    return [[Piece(job, index, index + 1)] for index in range(start, stop)]


def _halves(pieces: Sequence[Piece]) -> list[list[Piece]]:
    inputs = sum(piece.stop - piece.start for piece in pieces)
    if inputs == 1:
        return []
    first: list[Piece] = []
    second: list[Piece] = []
    room = inputs // 2
    for piece in pieces:
        cut = min(piece.start + room, piece.stop)
        room -= cut - piece.start
        if cut > piece.start:
            first.append(Piece(piece.job, piece.start, cut))
        if cut < piece.stop:
            second.append(Piece(piece.job, cut, piece.stop))
    return [first, second]
