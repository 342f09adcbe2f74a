import pytest

from state_hf.data.screens.split_definition import SplitDefinition
from state_hf.data.screens.split_toml import dataset_files, read_split_toml, write_split_toml

README = """
[datasets]
replogle = "/data/replogle/"

[training]
replogle = "train"

[zeroshot]
"replogle.jurkat" = "test"

[fewshot]
[fewshot."replogle.k562"]
val = ["AARS"]
test = ["NUP107"]
"""


def read(tmp_path, text):
    (tmp_path / "split.toml").write_text(text)
    return read_split_toml(tmp_path / "split.toml")


def test_the_readme_example(tmp_path):
    assert read(tmp_path, README) == SplitDefinition(
        datasets={"replogle": "/data/replogle/"},
        training=("replogle",),
        zeroshot={("replogle", "jurkat"): "test"},
        fewshot={("replogle", "k562"): {"val": ["AARS"], "test": ["NUP107"]}},
    )


def test_names_with_dots_spaces_and_quotes_survive(tmp_path):
    definition = SplitDefinition(
        datasets={"a": "x", "a.b": 'folder "one"/\\y'},
        training=("a", "a.b"),
        zeroshot={("a.b", "CD4 T.cell"): "val", ("a", "c.d"): "test"},
        fewshot={("a", "ümlaut"): {"val": [], "test": ["A+B", "tab\there"]}},
        exclude={("a", "c.d"): ["X"]},
    )
    write_split_toml(definition, tmp_path / "written.toml")
    assert read_split_toml(tmp_path / "written.toml") == definition


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[zeroshot]", "[zeroshots]", r"table \[zeroshots\] without meaning; did you mean 'zeroshot'"),
        (
            'replogle = "train"',
            'replogel = "train"',
            r"names 'replogel', which \[datasets\] lacks; did you mean 'replogle'",
        ),
        ('replogle = "train"', 'replogle = "test"', "must be \"train\", and is 'test'"),
        (
            '"replogle.jurkat"',
            '"replogel.jurkat"',
            r"'replogel.jurkat' in \[zeroshot\] starts with no known dataset; did",
        ),
        ('"replogle.jurkat"', '"jurkat"', "not of the form"),
        ('"replogle.jurkat"', "replogle.jurkat", r"put the whole key in quotes"),
        ('"replogle.jurkat" = "test"', '"replogle.jurkat" = "tset"', 'must be "val" or "test", and is \'tset\''),
        ('val = ["AARS"]', 'validation = ["AARS"]', "the entry 'validation'; only val and test"),
        ('val = ["AARS"]', 'val = "AARS"', "must be a list of perturbations"),
        ('"/data/replogle/"', '["/data/replogle/"]', "must be a path in quotes"),
        ("[zeroshot]", "[zeroshot", "is not TOML"),
    ],
)
def test_typos(tmp_path, old, new, message):
    assert old in README
    with pytest.raises(ValueError, match=message):
        read(tmp_path, README.replace(old, new))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_split_toml(tmp_path / "none.toml")


def test_an_object_has_no_place(tmp_path):
    with pytest.raises(ValueError, match="'memory' is not a file"):
        write_split_toml(SplitDefinition(training=("memory",)), tmp_path / "split.toml")


@pytest.fixture
def folder(tmp_path):
    for name in ("a/one.h5ad", "a/two.h5", "a/notes.txt", "b/one.h5ad", "c d/three.h5ad"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("place", "files"),
    [
        ("a", ["a/one.h5ad", "a/two.h5"]),
        ("a/one.h5ad", ["a/one.h5ad"]),
        ("*/one.h5ad", ["a/one.h5ad", "b/one.h5ad"]),
        ("[ab]", ["a/one.h5ad", "a/two.h5", "b/one.h5ad"]),
        ("{a,b}/o*.h5ad", ["a/one.h5ad", "b/one.h5ad"]),
        ("{a/one.h5*,c d}", ["a/one.h5ad", "c d/three.h5ad"]),
        ("{b, a}/one.h5ad", ["b/one.h5ad", "a/one.h5ad"]),
        ("{a,[a]}", ["a/one.h5ad", "a/two.h5"]),
        ("**/*ee.h5ad", ["c d/three.h5ad"]),
    ],
)
def test_places(folder, place, files, monkeypatch):
    definition = SplitDefinition(datasets={"x": place, "unused": "nowhere"}, training=("x",))
    expected = {"x": [folder / file for file in files]}
    assert dataset_files(definition, base=folder) == expected
    monkeypatch.chdir(folder)
    assert {name: [folder / path for path in paths] for name, paths in dataset_files(definition).items()} == expected


def test_places_without_files(folder):
    for place in ("{a,none}", "none", "a/*.zarr"):
        with pytest.raises(FileNotFoundError, match=r"dataset 'x': there are no \.h5ad files at"):
            dataset_files(SplitDefinition(datasets={"x": place}, training=("x",)), base=folder)
    with pytest.raises(ValueError, match="'y' and does not say where"):
        dataset_files(SplitDefinition(datasets={"x": "a"}, training=("y",)), base=folder)
