"""What becomes of a batch that failed, so that one input at fault takes none of its neighbours down. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.errors import NotReady, WorkerLost
from launcher.scheduling.queue import Piece

# An input that was lost with so many workers is given up. The first time, others of its batch may have been the cause.
MAX_LOSSES = 2


def another_try(pieces: Sequence[Piece], error: Exception) -> list[list[Piece]]:
    """The batches to run instead of the one of ``pieces`` that ended with ``error``; none where its input is to be given up.

    A batch that was not begun goes on as it is. One that a worker was lost with is run input by input: each further loss
    costs a worker, and so the culprit costs one and not one per halving. One that was refused costs nothing but its
    time, and is halved.
    """
    if isinstance(error, NotReady):
        return [list(pieces)]
    if isinstance(error, WorkerLost):
        # All of a batch have as many: who was lost once goes alone.
        given_up = pieces[0].losses + 1 == MAX_LOSSES
        return [] if given_up else [[single] for piece in pieces for single in _singles(piece)]
    return _halves(pieces)


def _singles(piece: Piece) -> list[Piece]:
    return [Piece(piece.job, index, index + 1, piece.losses + 1) for index in range(piece.start, piece.stop)]


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
            first.append(Piece(piece.job, piece.start, cut, piece.losses))
        if cut < piece.stop:
            second.append(Piece(piece.job, cut, piece.stop, piece.losses))
    return [first, second]
