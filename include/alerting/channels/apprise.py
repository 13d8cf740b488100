"""Notifications through Apprise: a webhook, mail, Slack and some hundred others, one channel for each URL.

`MLOPS_ALERT_URLS` has the URLs, with spaces between them: `json://host:8080/path`, `mailto://user:password@host`
(https://appriseit.com). A URL is a secret as a whole, its host among it: no word of one reaches a log or the page.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from include.alerting.alert import Alert
from include.alerting.channels import Channel
from include.settings import Environment

SECONDS = 60.0
"""One notification takes no longer; a service that has not answered by then may get it twice."""
LONGEST_VALUE = 300
"""Characters of a detail."""


class NotDelivered(RuntimeError):
    """A service did not accept a notification; the message has no part of its URL."""


@dataclass(frozen=True)
class Notification:
    """One service. It gets one alert at a time, so that none that it accepted is repeated for the next one's sake."""

    url: str = field(repr=False)
    batch: int = 1
    history: bool = False
    longest_wait: float = 300.0

    @property
    def name(self) -> str:
        """The URL's scheme and six digits of its hash: `slack-3fa2c1`."""
        scheme = re.match(r"[a-z0-9]{1,20}(?=://)", self.url.lower())
        return f"{scheme[0] if scheme else 'invalid'}-{hashlib.sha256(self.url.encode()).hexdigest()[:6]}"

    def deliver(self, alerts: Sequence[Alert]) -> None:
        """Notify the service.

        Raises:
            NotDelivered: it cannot be reached, refuses, takes too long, or the URL is none that Apprise understands.
        """
        import apprise  # takes two seconds, which only those who have a URL pay

        logging.getLogger("apprise").propagate = False  # its lines name hosts
        services = apprise.Apprise()
        if not services.add(self.url):
            raise NotDelivered("Apprise does not understand this URL of MLOPS_ALERT_URLS")
        for alert in alerts:
            result = services.notify(
                title=f"{alert.event}: {alert.message}"[:LONGEST_VALUE],
                body=_body(alert),
                body_format=apprise.NotifyFormat.TEXT,
                notify_type=apprise.NotifyType.WARNING,
                timeout=SECONDS,
            )
            if not result:
                raise NotDelivered(self._reason(result))

    def _reason(self, result: Any) -> str:
        words = " ".join(str(entry.message) for entry in result.logs()) or f"Apprise: {result.status.name.lower()}"
        secrets = {part for part in re.split(r"[^\w.-]+", f"{self.url} {unquote(self.url)}") if len(part) > 1}
        for secret in sorted(secrets - {self.url.partition("://")[0]}, key=len, reverse=True):
            words = re.sub(re.escape(secret), "…", words, flags=re.IGNORECASE)
        return words


def _body(alert: Alert) -> str:
    details = {"at": alert.at.isoformat(timespec="seconds"), "alert": alert.id, **alert.details}
    return "\n".join([alert.message, "", *(f"{name}: {_short(value)}" for name, value in details.items())])


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


def declared(environment: Environment) -> list[Channel]:
    """A channel for each URL; the same URL twice is one."""
    return [Notification(url) for url in dict.fromkeys(environment.alert_urls.get_secret_value().split())]
