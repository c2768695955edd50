"""The store of served batches: rows and results in SQLite, pictures in files beside it.

A change is on disk when the method that made it returns. Times are Unix times: they outlive the process.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from batch.database import Database
from batch.limits import CRASHES, DAY, DAYS_REMEMBERED, GROUP, PAGE_BYTES, TIMEOUTS
from batch.records import ACTIVE, Batch, Outcome, Picture, Result, State, Unit
from service.contract.causes import RowCode

_ACTIVE: Final = "state IN ('queued', 'running')"
#: The states of a row.
WAITING: Final = 0
ANSWERED: Final = 1
FAILED: Final = 2


class Store:
    """Batches in ``folder``. Every method raises Unusable. Safe to call from any thread."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._database = Database(folder)
        self._clock = clock

    def open(self) -> None:
        """Open it, and drop what an interrupted upload has left."""
        self._database.open()
        with self._database.writing() as sql:
            for (number,) in sql.execute("SELECT number FROM batches WHERE state = 'importing'").fetchall():
                _delete_rows(sql, number)
                sql.execute("DELETE FROM batches WHERE number = ?", [number])
            kept = {row[0] for row in sql.execute("SELECT id FROM batches WHERE state != 'expired'")}
        for path in self.folder.iterdir():
            if path.suffix in _SUFFIXES and path.stem not in kept:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        self._database.close()

    @property
    def lost(self) -> bool:
        """Whether its folder or file was deleted or replaced since it was opened."""
        return self._database.lost

    def archive_of(self, batch_id: str) -> Path:
        return self.folder / f"{batch_id}.zip"

    def pictures_of(self, batch_id: str) -> Path:
        return self.folder / f"{batch_id}.pictures"

    def part_of(self, batch_id: str) -> Path:
        """The file that an upload is received into."""
        return self.folder / f"{batch_id}.part"

    def sync_folder(self) -> None:
        """Bring the names of new files to the disk. Raises OSError."""
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    # ---- batches -----------------------------------------------------------------------------------------

    def find(self, batch_id: str) -> Batch | None:
        """Return the batch, or None for an unknown id."""
        return self._one("id = ?", batch_id)

    def by_idempotency(self, key: bytes) -> tuple[Batch, bytes] | None:
        """Return the batch that was accepted with an idempotency key, and the digest of its body."""
        with self._database.reading() as sql:
            row = sql.execute(f"SELECT * FROM batches WHERE idempotency = ? AND {_VISIBLE}", [key]).fetchone()
        return None if row is None else (_batch(row), row["digest"])

    def active(self) -> list[Batch]:
        """Return the batches with rows to judge, the oldest first."""
        with self._database.reading() as sql:
            rows = sql.execute(f"SELECT * FROM batches WHERE {_ACTIVE} ORDER BY number").fetchall()
        return [_batch(row) for row in rows]

    def held(self) -> list[tuple[str, int]]:
        """Return caller and bytes of each batch that is kept."""
        with self._database.reading() as sql:
            rows = sql.execute(f"SELECT caller, bytes FROM batches WHERE {_VISIBLE} AND state != 'expired'")
            return [(row[0], row[1]) for row in rows]

    def counts(self) -> dict[str, int]:
        """Return the number of batches in each state."""
        with self._database.reading() as sql:
            return dict(
                sql.execute(f"SELECT state, count(*) FROM batches WHERE {_VISIBLE} GROUP BY state").fetchall()
            )

    def move(self, number: int, state: State, code: str | None = None) -> bool:
        """End an active batch as cancelled or failed. False if it has ended before."""
        with self._database.writing() as sql:
            changed = sql.execute(
                f"UPDATE batches SET state = ?, code = ? WHERE number = ? AND {_ACTIVE}",
                [state, code, number],
            )
            return changed.rowcount == 1

    def expire(self) -> list[Batch]:
        """Delete the content of batches that have expired, and return these; forget long expired ids."""
        now = self._clock()
        with self._database.reading() as sql:
            rows = sql.execute(
                f"SELECT * FROM batches WHERE expires <= ? AND {_VISIBLE} AND state != 'expired'", [now]
            ).fetchall()
        expired = [_batch(row) for row in rows]
        for batch in expired:
            self._empty(batch)
        with self._database.writing() as sql:
            forgotten = now - DAYS_REMEMBERED * DAY
            sql.execute("DELETE FROM batches WHERE state = 'expired' AND expires <= ?", [forgotten])
        if expired:
            self._database.shrink()
        return expired

    def delete(self, batch: Batch) -> None:
        """Delete the content of a batch now; its id expires when it would have."""
        self._empty(batch)
        self._database.shrink()

    def _empty(self, batch: Batch) -> None:
        for path in (self.archive_of(batch.id), self.pictures_of(batch.id)):
            path.unlink(missing_ok=True)
        with self._database.writing() as sql:
            _delete_rows(sql, batch.number)
            sql.execute(
                "UPDATE batches SET state = 'expired', caller = '', format = '{}', idempotency = NULL, "
                "digest = NULL, bytes = 0 WHERE number = ?",
                [batch.number],
            )

    def _one(self, where: str, value: object) -> Batch | None:
        with self._database.reading() as sql:
            row = sql.execute(f"SELECT * FROM batches WHERE {where} AND {_VISIBLE}", [value]).fetchone()
        return None if row is None else _batch(row)

    # ---- accepting ---------------------------------------------------------------------------------------

    def begin(self, batch_id: str, *, owner: str, caller: str, expires: float) -> int:
        """Begin a batch that is invisible until ``accept``, and return its number."""
        with self._database.writing() as sql:
            made = sql.execute(
                "INSERT INTO batches (id, owner, caller, state, form, format, total, done, failed, bytes, "
                "created, expires) VALUES (?, ?, ?, 'importing', '', '{}', 0, 0, 0, 0, ?, ?)",
                [batch_id, owner, caller, self._clock(), expires],
            )
            assert made.lastrowid is not None
            return made.lastrowid

    def add(self, number: int, rows: Iterable[Sequence[object]], pictures: Iterable[Picture]) -> None:
        """Add rows of ROW and pictures to a batch that has begun."""
        with self._database.writing() as sql:
            sql.executemany(
                f"INSERT INTO rows (batch, {ROW}) VALUES ({number}, {', '.join('?' * len(ROW.split(',')))})",
                rows,
            )
            sql.executemany(
                "INSERT INTO pictures (batch, number, image, offset, length) VALUES (?, ?, ?, ?, ?)",
                [(number, one.number, one.image, one.offset, one.length) for one in pictures],
            )

    def accept(
        self,
        number: int,
        *,
        form: str,
        format: Mapping[str, Any],
        size: int,
        idempotency: bytes | None,
        digest: bytes,
    ) -> bool:
        """Make a complete batch visible. False if another one has the idempotency key."""
        with self._database.writing() as sql:
            counted = sql.execute(
                "SELECT count(*), coalesce(sum(state = 2), 0) FROM rows WHERE batch = ?", [number]
            ).fetchone()
            state = State.DONE if counted[0] == counted[1] else State.QUEUED
            try:
                sql.execute(
                    "UPDATE batches SET state = ?, form = ?, format = ?, total = ?, failed = ?, bytes = ?, "
                    "idempotency = ?, digest = ? WHERE number = ?",
                    [state, form, json.dumps(format), *counted, size, idempotency, digest, number],
                )
            except sqlite3.IntegrityError:
                return False
        return True

    def discard(self, number: int) -> None:
        """Delete a batch that was not accepted."""
        with self._database.writing() as sql:
            _delete_rows(sql, number)
            sql.execute("DELETE FROM batches WHERE number = ?", [number])

    # ---- judging -----------------------------------------------------------------------------------------

    def next_unit(self, number: int, flying: Sequence[int] = ()) -> Unit | None:
        """Return the next rows of a batch to judge together, without the positions that are ``flying``.

        Rows that failed before, or that the process has ended with, are judged alone."""
        with self._database.reading() as sql:
            rows = sql.execute(
                "SELECT unit, position, picture, premise, text, crashes, timeouts FROM rows "
                "INDEXED BY waiting WHERE batch = ? AND state = 0 ORDER BY unit, position LIMIT ?",
                [number, GROUP + len(flying)],
            ).fetchall()
            rows = [row for row in rows if row["position"] not in flying]
            if not rows:
                return None
            first = rows[0]
            same = [row for row in rows if _likeness(row) == _likeness(first)][:GROUP]
            if first["timeouts"]:
                same = same[:1]
            picture = sql.execute(
                "SELECT number, image, offset, length FROM pictures WHERE batch = ? AND number = ?",
                [number, first["picture"]],
            ).fetchone()
        return Unit(
            number,
            Picture(*picture),
            first["premise"],
            [row["position"] for row in same],
            [row["text"] for row in same],
            first["crashes"],
        )

    def record(self, outcomes: Sequence[Outcome], units: Sequence[Unit]) -> None:
        """Write how rows ended, and count a crash in advance for the rows that are submitted now: it is taken
        back with their outcome. Rows that had ended before are left as they are."""
        with self._database.writing() as sql:
            for outcome in outcomes:
                _record(sql, outcome)
            for unit in units:
                sql.executemany(
                    "UPDATE rows SET crashes = crashes + 1 WHERE batch = ? AND position = ?",
                    [(unit.batch, position) for position in unit.positions],
                )
            touched = {one.batch for one in outcomes} | {one.batch for one in units}
            sql.executemany(
                "UPDATE batches SET state = CASE WHEN done + failed = total THEN 'done' ELSE 'running' END "
                f"WHERE number = ? AND {_ACTIVE}",
                [(number,) for number in touched],
            )

    # ---- reading -----------------------------------------------------------------------------------------

    def results(self, batch: Batch, after: int, most: int) -> list[Result]:
        """Return up to ``most`` finished rows after a position, in order: fewer if they have PAGE_BYTES, and
        none only at the end.

        While rows wait, only those before the first of them are listed, so that a reader who goes on after
        the last one that it got misses none."""
        with self._database.reading() as sql:
            until = None
            if batch.state in ACTIVE:
                until = sql.execute(
                    "SELECT min(position) FROM rows INDEXED BY waiting WHERE batch = ? AND state = 0",
                    [batch.number],
                ).fetchone()[0]
            rows = sql.execute(
                "SELECT rows.*, image FROM rows JOIN pictures ON pictures.batch = rows.batch AND "
                "pictures.number = picture WHERE rows.batch = ? AND position > ? AND position < ? "
                "AND state != 0 ORDER BY position LIMIT ?",
                [batch.number, after, batch.total + 1 if until is None else until, most],
            )
            page: list[sqlite3.Row] = []
            size = 0
            for row in rows:
                page.append(row)
                size += len(row["text"]) + len(row["fields"]) + len(row["image"])
                if size >= PAGE_BYTES:
                    break
            rows.close()
        return [_result(row) for row in page]

    def calibrated(self, number: int) -> bool:
        """Whether any row was judged with a calibration."""
        with self._database.reading() as sql:
            found = sql.execute(
                "SELECT 1 FROM rows WHERE batch = ? AND state = 1 AND instr(answer, 'calibrated') LIMIT 1",
                [number],
            ).fetchone()
        return found is not None

    def picture(self, number: int, position: int) -> tuple[Picture, bytes | None] | None:
        """Return the picture of a row, and its thumbnail if it has been made."""
        with self._database.reading() as sql:
            row = sql.execute(
                "SELECT pictures.* FROM rows JOIN pictures ON pictures.batch = rows.batch AND "
                "pictures.number = picture WHERE rows.batch = ? AND position = ?",
                [number, position],
            ).fetchone()
        if row is None:
            return None
        return Picture(row["number"], row["image"], row["offset"], row["length"]), row["thumbnail"]

    def keep_thumbnail(self, number: int, picture: int, thumbnail: bytes) -> None:
        with self._database.writing() as sql:
            sql.execute(
                "UPDATE pictures SET thumbnail = ? WHERE batch = ? AND number = ?",
                [thumbnail, number, picture],
            )


#: The columns of a row that is added.
ROW: Final = "position, picture, unit, line, id, text, premise, fields, state, code, error"
_THIS: Final = "batch = ? AND position = ? AND state = 0"
_VISIBLE: Final = "state != 'importing'"
_SUFFIXES: Final = (".zip", ".pictures", ".part")


def _record(sql: sqlite3.Connection, outcome: Outcome) -> None:
    where = [outcome.batch, outcome.position]
    if outcome.answer is not None:
        state = ANSWERED
    elif outcome.code is not None and not outcome.may_pass:
        state = FAILED
    elif outcome.may_pass:
        sql.execute(
            f"UPDATE rows SET crashes = 0, timeouts = timeouts + 1 WHERE {_THIS}",
            where,
        )
        timeouts = sql.execute("SELECT timeouts FROM rows WHERE batch = ? AND position = ?", where).fetchone()
        if timeouts is None or timeouts[0] < TIMEOUTS:
            return
        state = FAILED
    else:
        sql.execute(f"UPDATE rows SET crashes = 0 WHERE {_THIS}", where)
        return
    answer = None if outcome.answer is None else json.dumps(outcome.answer)
    changed = sql.execute(
        f"UPDATE rows SET state = ?, answer = ?, code = ?, error = ? WHERE {_THIS} "
        f"AND batch IN (SELECT number FROM batches WHERE {_ACTIVE})",
        [state, answer, outcome.code, outcome.error, *where],
    ).rowcount
    column = "done" if state == ANSWERED else "failed"
    sql.execute(f"UPDATE batches SET {column} = {column} + ? WHERE number = ?", [changed, outcome.batch])


def crashed(unit: Unit) -> list[Outcome]:
    """Return the failures of a unit with which the process has ended CRASHES times; else nothing."""
    if unit.crashes < CRASHES:
        return []
    error = f"The process ended {CRASHES} times while it judged this picture."
    return [Outcome(unit.batch, position, code=RowCode.CRASHED, error=error) for position in unit.positions]


def _likeness(row: sqlite3.Row) -> tuple[object, ...]:
    return row["unit"], row["crashes"], bool(row["timeouts"])


def _delete_rows(sql: sqlite3.Connection, number: int) -> None:
    for table in ("rows", "pictures"):
        sql.execute(f"DELETE FROM {table} WHERE batch = ?", [number])


def _batch(row: sqlite3.Row) -> Batch:
    format = json.loads(row["format"])
    return Batch(
        number=row["number"],
        id=row["id"],
        owner=row["owner"],
        caller=row["caller"],
        state=State(row["state"]),
        code=row["code"],
        total=row["total"],
        done=row["done"],
        failed=row["failed"],
        created=row["created"],
        expires=row["expires"],
        form=row["form"],
        columns=format.get("columns", ()),
        delimiter=format.get("delimiter", ","),
        archive=format.get("archive", False),
        folder=format.get("folder", ""),
    )


def _result(row: sqlite3.Row) -> Result:
    return Result(
        position=row["position"],
        line=row["line"],
        id=row["id"],
        text=row["text"],
        image=row["image"],
        fields=json.loads(row["fields"]),
        answer=None if row["answer"] is None else json.loads(row["answer"]),
        code=row["code"],
        error=row["error"],
    )
