"""Before the study: the data of one feature version, read, split, fitted, and written once for all workers.

pipeline           the steps in order, from the feature version to the study
rows               a feature version's rows, their target, and a fingerprint of each
target             the target column, or why nothing can be learned from it
suspects           columns that give the target away, or teach nothing
split              which rows are trained on, validated on, and held out
matrices           what estimators are fitted on
request_contract   what a request must carry, and golden rows that show it
holdout            the held-out rows, and the proof that they were not trained on
outlook            what a training would stop at, for `mlops check`
"""

from include.training.preparation.pipeline import Prepared, Training, materialize, prepare
from include.training.preparation.target import Untrainable

__all__ = ["Prepared", "Training", "Untrainable", "materialize", "prepare"]
