"""From the spool to PostgreSQL: a thread copies this worker's slot, and those of workers that did not come back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from include.serving.prediction_log import segments as segment_files
from include.serving.prediction_log.copier import Copier, RefusedLine
from include.serving.prediction_log.segment_reader import Backlog, Batch, SegmentReader

LINGER_SECONDS = 0.3
"""Between batches, once everything is copied: a batch costs a transaction however small it is."""
LONGEST_PAUSE = 1.0
"""Between attempts to reach PostgreSQL."""
ABANDONED_SECONDS = 2.0
"""How often slots of workers that did not come back are looked for."""

log = logging.getLogger("mlops.serving")


class Shipper:
    """The thread that copies this worker's slot, and those that no process has any more.

    Args:
        own: this worker's own slot.
        folder: the spool.
        database_url: the platform's PostgreSQL.
        counted: called with how many rows were copied, and how many PostgreSQL refused.
        alert: called with what an operator should see: the kind of event, and one line.
    """

    def __init__(
        self,
        own: SegmentReader,
        folder: Path,
        database_url: str,
        counted: Callable[[int, int], None],
        alert: Callable[[str, str], None],
    ) -> None:
        self._own, self._folder, self._counted, self._alert = own, folder, counted, alert
        self._sources = [own]
        self._copier = Copier(database_url)
        self._looked = -1e9
        self._end_by: float | None = None
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction-log-drain", daemon=True)
        self.problem: str | None = None
        """Why nothing is copied at the moment."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Copy what is there, and end: when all is copied, at the first error, or after `seconds`."""
        self._end_by = time.monotonic() + seconds
        self._wake.set()
        self._thread.join(seconds + 1)

    def backlog(self) -> Backlog:
        """Of all slots that this worker drains."""
        found = [source.backlog() for source in list(self._sources)]
        return Backlog(sum(b.rows for b in found), sum(b.bytes for b in found), max(b.seconds for b in found))

    # ------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        pause = 0.0
        while True:
            ending = self._end_by  # before the round: what came until now is to be in it
            try:
                copied, behind = self._round()
            except Exception as error:  # noqa: BLE001  whatever it is: the rows stay where they are, and it is said
                copied, behind, pause = False, False, min(LONGEST_PAUSE, 2 * pause or 0.1)
                self._lost(error)
            else:
                pause = 0.0
                self._found()
            if ending is not None and (not copied or time.monotonic() > ending):
                break
            if not behind and ending is None:
                self._wake.wait(pause or LINGER_SECONDS)
        self._disconnect()
        for source in self._sources:
            if source is not self._own:
                source.slot.release()

    def _round(self) -> tuple[bool, bool]:
        """Copy a batch of each slot; returns whether there was any, and whether there is more that should not wait."""
        self._copier.connect()
        self._find_abandoned()
        copied = behind = False
        for source in list(self._sources):
            if source.known is None:
                self._restore(source)
            batch = source.batch()
            if batch is not None:
                self._copy(source, batch)
                copied, behind = True, behind or not source.writes(batch.end.segment)
            elif source is not self._own:
                self._sources.remove(source)
                source.slot.clear()
                source.slot.release()
                log.info("abandoned predictions copied", extra={"fields": {"slot": source.slot.name}})
        return copied, behind

    def _find_abandoned(self) -> None:
        if time.monotonic() - self._looked < ABANDONED_SECONDS:
            return
        self._looked = time.monotonic()
        for slot in segment_files.abandoned_slots(self._folder):
            try:
                self._sources.append(SegmentReader(slot, None))
            except OSError:
                slot.release()
                raise

    def _restore(self, source: SegmentReader) -> None:
        """Take up PostgreSQL's position of a slot."""
        if not source.restore(self._copier.position(source.slot)):
            self._alert(
                "prediction_log_restored",
                f"PostgreSQL has copied more of {source.slot.name} than there is: its folder is an older copy. All that"
                " is in it is copied (again)",
            )

    def _copy(self, source: SegmentReader, batch: Batch) -> None:
        known, source.known = source.known, None  # read again unless this succeeds
        assert known is not None  # noqa: S101
        refused = self._copier.copy(source.slot, known, batch)
        source.known = source.position = batch.end
        self._report(source, batch, refused)

    def _report(self, source: SegmentReader, batch: Batch, refused: Sequence[RefusedLine]) -> None:
        self._counted(batch.rows - len(refused), len(refused))
        if refused:
            text = f"PostgreSQL refused {len(refused)} rows; they are in {source.slot.folder}: {refused[0].reason}"
            self._alert("prediction_log_rejected", text)
        if lost := source.lost(batch):
            text = f"{lost} rows of {source.slot.folder} cannot be read: the disk has lost or changed them"
            self._alert("prediction_log_damaged", text)

    # ------------------------------------------------------------------------------------------- its state

    def _lost(self, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        if reason != self.problem:
            log.error("predictions not copied", extra={"fields": {"reason": reason}})
        self.problem = reason
        self._disconnect()

    def _found(self) -> None:
        if self.problem is not None:
            log.info("predictions copied again", extra={"fields": {"backlog_bytes": self.backlog().bytes}})
        self.problem = None

    def _disconnect(self) -> None:
        self._copier.disconnect()
        for source in self._sources:
            source.known = None
