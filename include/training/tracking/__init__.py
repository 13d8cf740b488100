"""The only caller of MLflow: runs, trials, registered versions, aliases.

server        whether MLflow answers, and the client of it
runs          the run of a training, its trials and its result
registry      registered versions: their files, verified, and their aliases
flavour       the served form as a model of MLflow
registration  a candidate becomes a registered version
"""

from include.training.tracking.registration import Candidate, register
from include.training.tracking.registry import (
    CONTENT_HASH,
    EVIDENCE,
    READY,
    SERVED,
    NotRegistered,
    Version,
    aliases,
    download,
    evidence,
    set_alias,
    show_verdict,
    version_info,
    versions,
)
from include.training.tracking.runs import (
    Run,
    Trial,
    attach,
    code_version,
    fail_run,
    log_result,
    log_trials,
    start_run,
)
from include.training.tracking.server import MLflowDown, check

__all__ = [
    "CONTENT_HASH", "EVIDENCE", "READY", "SERVED", "Candidate", "MLflowDown", "NotRegistered", "Run", "Trial",
    "Version", "aliases", "attach", "check", "code_version", "download", "evidence", "fail_run", "log_result",
    "log_trials", "register", "set_alias", "show_verdict", "start_run", "version_info", "versions",
]  # fmt: skip
