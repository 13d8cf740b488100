"""Feature versions: built by DVC, pushed whole, recorded, and brought back to the byte.

Each run works in a private workspace below <home>/dvc/work, with copies of dvc.yaml, the model's part of
params.yaml, what is to be read, and the last version's dvc.lock; only the cache is shared. So the user's
checkout is never touched, two models do not meet, and what a killed run leaves behind is no obstacle: a
workspace belongs to the process that holds a lock on its `owner.lock`, which the kernel frees with the process,
and the next run removes those without an owner. Builds of one model queue on a lock in PostgreSQL.

A version is DVC's md5 of the feature folder: the same partitions, features and code give the same version. It
is recorded in `feature_versions` only after the remote holds all of it; a run that failed before that is
resumed from <home>/dvc/pending.

    builder          `build`: from the published partitions to a version, with the workspace's files
    restoration      `restore`: a version's files again
    record           the table `feature_versions`
    dvc_repository   a workspace as a DVC repository; the only caller of DVC
    workspace        private folders, and those that dead processes left
"""

from include.features.versions.builder import FeatureVersion, build
from include.features.versions.record import FeatureVersionError, RecordedVersion, latest, published, recorded
from include.features.versions.restoration import NotEmpty, restore

__all__ = [
    "FeatureVersion",
    "FeatureVersionError",
    "NotEmpty",
    "RecordedVersion",
    "build",
    "latest",
    "published",
    "recorded",
    "restore",
]
