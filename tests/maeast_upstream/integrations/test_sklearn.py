"""MaeAstVectorizer in scikit-learn's pipelines, with real clips."""

import functools
import pickle
from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch
from processors import HAS_AMX

from maeast_upstream import Readout, load_audio, load_model
from maeast_upstream.integrations.sklearn import MaeAstVectorizer

AUDIO = Path(__file__).parents[2] / "data" / "audio"
PATHS = [str(path) for path in sorted(AUDIO.glob("*.opus"))[::8]]


@pytest.fixture
def encoder(make_encoder):
    return make_encoder(shape={"depth": 2})


@pytest.fixture
def folder(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "small")
    return str(tmp_path / "small")


@pytest.fixture
def vectorizer(folder):
    return MaeAstVectorizer(folder)


def test_paths_give_the_encoder_s_own_vectors(vectorizer, encoder, monkeypatch):
    expected = encoder.embed(PATHS).numpy()
    assert np.array_equal(vectorizer.transform(PATHS), expected)
    monkeypatch.setattr("maeast_upstream.integrations.sklearn.BLOCK_SECONDS", 1.0)
    assert np.array_equal(vectorizer.fit_transform(PATHS, ["a"] * len(PATHS)), expected)


def test_every_form_of_a_column_gives_the_same_vectors(vectorizer):
    pandas = pytest.importorskip("pandas")
    clips = [load_audio(path) for path in PATHS]
    columns = [
        [Path(path) for path in PATHS],
        np.array(PATHS),
        np.array(PATHS, object),
        pandas.Series(PATHS),
        pandas.DataFrame({"path": PATHS}),
        clips,
        [torch.from_numpy(clip) for clip in clips],
        [{"array": clip, "sampling_rate": 16_000} for clip in clips],
        (*PATHS[:2], *clips[2:]),
    ]
    expected = vectorizer.transform(PATHS)
    for column in columns:
        assert np.array_equal(vectorizer.transform(column), expected), type(column)


def test_an_array_has_a_clip_in_each_row(folder, encoder):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 8000)).astype(np.float32)
    assert np.array_equal(MaeAstVectorizer(folder).transform(samples), encoder.embed(samples).numpy())
    resampled = MaeAstVectorizer(folder, sample_rate=8000).transform(samples)
    assert np.array_equal(resampled, encoder.embed(list(samples), sample_rate=8000).numpy())


def test_settings_reach_the_encoder(folder, encoder):
    readout = Readout(layer=1, mel="mean", pool="mean_std")
    vectors = MaeAstVectorizer(folder, readout=readout).transform(PATHS[:2])
    assert np.array_equal(vectors, encoder.embed(PATHS[:2], readout=readout).numpy())
    vectorizer = MaeAstVectorizer(folder)
    exact = vectorizer.transform(PATHS[:2])
    rough = vectorizer.set_params(precision="bf16").transform(PATHS[:2])
    assert not np.array_equal(exact, rough)
    assert np.allclose(exact, rough, atol=0.1)


def test_a_pickle_names_the_checkpoint_and_has_no_weights(vectorizer):
    expected = vectorizer.transform(PATHS[:2])
    data = pickle.dumps(vectorizer)
    assert len(data) < 1000
    assert np.array_equal(pickle.loads(data).transform(PATHS[:2]), expected)


def test_columns_have_names(vectorizer):
    pytest.importorskip("pandas")
    names = vectorizer.get_feature_names_out()
    assert names[0] == "maeastvectorizer0"
    frame = vectorizer.set_output(transform="pandas").transform(PATHS[:2])
    assert list(frame.columns) == list(names)


@pytest.mark.slow
def test_a_pipeline_is_cross_validated_and_searched(folder):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    paths = sorted([*AUDIO.glob("kick*")][:8] + [*AUDIO.glob("six*")][:6])
    labels = [path.name.split("-")[0] for path in paths]
    pipeline = make_pipeline(MaeAstVectorizer(folder), StandardScaler(), LogisticRegression())
    assert cross_val_score(pipeline, np.array(paths), labels, cv=2).mean() > 0.8
    grid = {"maeastvectorizer__readout": [Readout(layer=1), Readout(layer=2)]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(np.array(paths), labels)
    assert list(search.predict(paths)) == labels


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("one.wav", "list of them"),
        (7, "list of them"),
        ([PATHS[0], "missing.wav"], "row 1: missing.wav: no such file"),
        ([PATHS[0], np.full(99, np.nan)], "row 1: NaN"),
        (np.zeros(99), "shape"),
        (np.array([["a.wav", "b.wav"]]), "shape"),
        ([3], "row 0: expected a path"),
    ],
)
def test_what_is_no_audio_is_one_line(vectorizer, given, words):
    with pytest.raises(ValueError, match=words) as raised:
        vectorizer.transform(given)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"checkpoint": "missing"}, "missing"),
        ({"readout": Readout(layer=9)}, "layers are counted from 1 to 2"),
        ({"readout": Readout(hop_ms=7)}, "hop"),
        ({"device": "moon"}, "device"),
        ({"precision": "int4"}, "precision"),
        ({"readout": "last"}, "readout must be a Readout"),
    ],
)
def test_wrong_settings_are_refused_before_audio_is_read(vectorizer, settings, words):
    with pytest.raises(ValueError, match=words):
        vectorizer.set_params(**settings).fit(["missing.wav"])


def test_no_rows_give_no_vectors(vectorizer):
    assert vectorizer.transform([]).shape == (0, len(vectorizer.get_feature_names_out()))


NOT_FOR_AUDIO = {
    **dict.fromkeys(
        [
            "check_n_features_in_after_fitting",
            "check_n_features_in",
            "check_fit1d",
            "check_estimators_empty_data_messages",
            "check_estimators_nan_inf",
            "check_complex_data",
            "check_estimator_sparse_tag",
        ],
        "fit does not read recordings, which have any number of samples",
    ),
    **dict.fromkeys(
        ["check_estimators_dtypes", "check_fit_idempotent"],
        "the samples of the check are beyond full scale, or do not say what full scale is",
    ),
    "check_dtype_object": "objects are paths or recordings",
    "check_fit2d_predict1d": "the message says what a row of audio may be",
}
if HAS_AMX:
    NOT_FOR_AUDIO["check_methods_subset_invariance"] = "numbers near 0 round otherwise in a batch of another size"


@pytest.mark.slow
@pytest.mark.skipif(sklearn.__version__ < "1.6", reason="check_estimator has no expected failures yet")
@pytest.mark.filterwarnings("ignore")
def test_it_passes_scikit_learn_s_own_checks(vectorizer, monkeypatch):
    from sklearn.utils.estimator_checks import check_estimator

    once = functools.cache(load_model)  # the checks make 60 clones
    monkeypatch.setattr("maeast_upstream.integrations.sklearn.load_model", once)
    results = check_estimator(vectorizer, expected_failed_checks=NOT_FOR_AUDIO, on_skip=None)
    passed = [result["check_name"] for result in results if result["status"] == "passed"]
    assert {"check_estimators_pickle", "check_transformer_general", "check_pipeline_consistency"} <= set(passed)
    assert len(passed) > 30
