"""scikit-learn's own checks of estimators, and its tools, on a classifier of features."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pictures.picture_cases import features

from metajax.pictures import FewShotClassifier

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

# Of arrays of other libraries: it takes what NumPy takes.
NOT_HERE = ("check_array_api_input",)
# Each compiles for many shapes.
LONG = (
    "check_classifier_data_not_an_array",
    "check_classifiers_classes",
    "check_dont_overwrite_attributes",
    "check_dont_overwrite_parameters",
    "check_dtype_object",
    "check_estimators_dtypes",
    "check_estimators_fit_returns_self",
    "check_estimators_nan_inf",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_fit2d_1feature",
    "check_fit_check_is_fitted",
    "check_fit_idempotent",
    "check_fit_score_takes_y",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_pipeline_consistency",
    "check_positive_only_tag_during_fit",
    "check_supervised_y_2d",
)


def _checks() -> list[Any]:
    found = []
    for estimator, check in estimator_checks_generator(FewShotClassifier(network=None)):
        name = getattr(check, "func", check).__name__
        marks = [pytest.mark.slow] if name in LONG else []
        if name not in NOT_HERE:
            found.append(pytest.param(estimator, check, id=name, marks=marks))
    return found


@pytest.mark.parametrize(("estimator", "check"), _checks())
@pytest.mark.filterwarnings("ignore")  # The checks make what is warned of.
def test_scikit_learns_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def test_heads_are_searched_over() -> None:
    items, labels = features()
    search = GridSearchCV(
        FewShotClassifier(network=None), {"head": ["means", "ridge"], "kept": [None]}, cv=2
    )
    search.fit(items, labels)
    assert search.best_score_ > 0.8
    assert search.best_estimator_.get_params()["kept"] is None


def test_it_is_the_end_of_a_pipeline_and_is_pickled() -> None:
    items, labels = features()
    pipeline = make_pipeline(StandardScaler(), FewShotClassifier(network=None)).fit(items, labels)
    again = pickle.loads(pickle.dumps(pipeline))
    assert_array_equal(again.predict_proba(items), pipeline.predict_proba(items))
    assert pipeline.score(items, labels) > 0.9


@pytest.mark.parametrize("method", ["predict", "predict_proba", "answer", "score", "add"])
def test_nothing_answers_before_it_is_fitted(method: str) -> None:
    items, labels = features()
    given = (items, labels) if method in ("score", "add") else (items,)
    with pytest.raises(NotFittedError):
        getattr(FewShotClassifier(network=None), method)(*given)
    for method in ("export", "save"):
        with pytest.raises(NotFittedError):
            getattr(FewShotClassifier(network=None), method)(*(["x"] if method == "save" else []))


def test_features_of_another_width_are_refused() -> None:
    items, labels = features()
    classifier = FewShotClassifier(network=None, head="means").fit(items, labels)
    assert classifier.n_features_in_ == items.shape[1]
    with pytest.raises(ValueError, match="5 features"):
        classifier.predict(np.zeros((2, 5)))
