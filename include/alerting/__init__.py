"""Alerts: what an operator should see, written to a file first and delivered to every channel from there.

    alert        the record, and how a line of the file is parsed
    journal      send: one JSON line in <home>/logs/alerts.jsonl, with no database, no network and no waiting
    place        how far one channel has read the journal: what makes it a durable queue for each channel
    delivery     a thread for each channel: in order, at least once, with a retry schedule; what is not delivered yet
    channels/    one file for each kind of destination: postgresql, apprise
    table        the alerts in PostgreSQL: listed, acknowledged, deleted after their time

Code that raises an alert imports `send` from here, and nothing heavier than the standard library with it: no channel
ever runs in the process, the thread, the lock or the transaction of the code that raises an alert.
"""

from include.alerting.journal import send, write, write_waiting

__all__ = ["send", "write", "write_waiting"]
