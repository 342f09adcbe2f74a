import anndata
import datasets
import numpy as np
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from state_hf.data.screens.perturbation_dataset import PerturbationDataset, SetSampler
from state_hf.data.screens.perturbation_screens import open_screens
from state_hf.data.screens.split_definition import SplitDefinition
from state_hf.data.screens.splits import PerturbationSplit


@pytest.fixture(scope="module")
def screens(screen_file):
    return open_screens(screen_file, batch_key="batch")


def same(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def identity(item):
    """A text that only items with the same cells share."""
    return item["control"].numpy().tobytes() + item["target"].numpy().tobytes()


def test_an_item_holds_the_cells_of_its_set(screen, screens):
    dataset = PerturbationDataset(screens, features="obsm/X_pca", targets="X", target_expression="X", set_size=10)
    for index in (0, 7, len(dataset) - 1):
        drawn, item = dataset.sets.draw(index, 0), dataset[index]
        controls, targets = len(drawn.controls), len(drawn.targets)
        assert item["control"].shape == (10, 7)
        assert item["target"].shape == (10, 60)
        np.testing.assert_array_equal(item["control"][:controls], screen.obsm["X_pca"][drawn.controls])
        np.testing.assert_array_equal(item["target"][:targets], screen.X[drawn.targets].toarray())
        assert torch.equal(item["target_expression"], item["target"])
        assert item["cell_mask"].tolist() == [True] * controls + [False] * (10 - controls)
        assert item["target_mask"].tolist() == [True] * targets + [False] * (10 - targets)
        assert not item["target"][targets:].any()
        labels = screen.obs.iloc[drawn.targets]
        assert set(labels["perturbation"]) == {screens.perturbations[item["perturbation_ids"]]}
        assert set(labels["cell_type"]) == {screens.cell_types[item["cell_type_ids"]]}
        batches = [screens.batches[batch] for batch in item["batch_ids"]]
        assert batches[:targets] == labels["batch"].tolist()
        assert set(batches) == set(labels["batch"])


def test_sizes_and_names(screen, screens):
    dataset = PerturbationDataset(screens, features="obsm/X_pca", target_expression="X")
    assert (dataset.input_size, dataset.output_size) == (7, 7)
    assert dataset.feature_names is None
    assert dataset.expression_names == screen.var_names.tolist()
    assert PerturbationDataset(screens).target_names == screen.var_names.tolist()
    assert PerturbationDataset(screens).expression_names is None


def test_items_do_not_depend_on_batches_workers_or_source(screen, screens):
    dataset = PerturbationDataset(screens, set_size=6, seed=3)
    items = [dataset[index] for index in range(len(dataset))]
    in_memory = PerturbationDataset(open_screens(screen, batch_key="batch"), set_size=6, seed=3)
    for workers, batch_size, source in ((0, 5, dataset), (2, 3, dataset), (0, 4, in_memory)):
        loader = DataLoader(source, batch_size=batch_size, num_workers=workers)
        loaded = [
            {name: rows[place] for name, rows in batch.items()}
            for batch in loader
            for place in range(len(batch["control"]))
        ]
        assert len(loaded) == len(items)
        assert all(map(same, loaded, items))


def test_epochs_reach_workers_that_live_on(screens):
    dataset = PerturbationDataset(screens, set_size=6)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=True)
    first = torch.cat([batch["target"] for batch in loader])
    dataset.set_epoch(1)
    second = torch.cat([batch["target"] for batch in loader])
    assert not torch.equal(first, second)
    assert torch.equal(second[0], dataset[0]["target"])


def test_the_sampler_gives_every_set_once_in_an_order_of_the_epoch(screens):
    dataset = PerturbationDataset(screens, set_size=6)
    sampler = SetSampler(dataset)
    first = list(sampler)
    assert sorted(first) == list(range(len(dataset))) != first
    sampler.set_epoch(2)
    assert dataset.epoch == 2
    assert list(sampler) != first


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_the_datasets_view_deals_every_set_to_one_worker_of_one_process(screens, workers, world_size):
    dataset = PerturbationDataset(screens, set_size=6)
    view = dataset.to_iterable_dataset(buffer_sets=4)
    assert isinstance(view, datasets.IterableDataset)
    seen = []
    for rank in range(world_size):
        share = split_dataset_by_node(view, rank=rank, world_size=world_size)
        seen += [identity(item) for item in DataLoader(share, batch_size=None, num_workers=workers)]
    assert sorted(seen) == sorted(identity(dataset[index]) for index in range(len(dataset)))


def test_the_datasets_view_has_the_samplers_order(screens):
    dataset = PerturbationDataset(screens, set_size=6)
    dataset.set_epoch(5)
    view = dataset.to_iterable_dataset(buffer_sets=7)
    assert all(same(item, dataset[index]) for item, index in zip(view, SetSampler(dataset), strict=True))


def test_parts_of_a_split(screen, screens):
    definition = SplitDefinition(training=("screen",), zeroshot={("screen", "type_2"): "test"})
    split = PerturbationSplit(screens, definition)
    types = {part: {int(item["cell_type_ids"]) for item in PerturbationDataset(screens, split=split, part=part)}
             for part in ("train", "test")}  # fmt: skip
    assert types == {"train": {0, 1, 2}, "test": {1}}
    perturbed = PerturbationDataset(screens, split=split, map_controls=False)
    assert {int(item["cell_type_ids"]) for item in perturbed} == {0, 2}
    with pytest.raises(ValueError, match="no set can be made"):
        PerturbationDataset(screens, split=split, part="val")


def test_thinned_counts(screens):
    whole = PerturbationDataset(screens, set_size=8)[0]["target"]
    half = PerturbationDataset(screens, set_size=8, downsample_counts=0.5)[0]["target"]
    assert (half <= whole).all()
    assert 0.4 < half.sum() / whole.sum() < 0.6
    assert torch.equal(half, PerturbationDataset(screens, set_size=8, downsample_counts=0.5)[0]["target"])
    to_depth = PerturbationDataset(screens, set_size=8, downsample_counts=100)[0]
    assert (to_depth["target"].sum(dim=1)[to_depth["target_mask"]] - 100).abs().max() < 60
    far_above = PerturbationDataset(screens, set_size=8, downsample_counts=1e6)[0]["target"]
    assert torch.equal(far_above, whole)


def test_thinning_needs_counts(screen, tmp_path):
    logged = anndata.AnnData(screen.X.log1p(), obs=screen.obs, var=screen.var)
    logged.write_h5ad(tmp_path / "logged.h5ad")
    dataset = PerturbationDataset(open_screens(tmp_path / "logged.h5ad"), downsample_counts=0.5)
    with pytest.raises(ValueError, match=r"X of .*logged\.h5ad does not hold counts"):
        dataset[0]
    with pytest.raises(ValueError, match="downsample_counts must be above 0"):
        PerturbationDataset(open_screens(tmp_path / "logged.h5ad"), downsample_counts=0)


def test_files_with_other_features(screen, screen_file, tmp_path):
    reordered = screen[:, ::-1].copy()
    reordered.write_h5ad(tmp_path / "reordered.h5ad")
    screens = open_screens([screen_file, tmp_path / "reordered.h5ad"])
    with pytest.raises(ValueError, match=r"feature 0 is 'GENE0001' in X of .*screen\.h5ad and 'GENE0060' in X of "):
        PerturbationDataset(screens)
    screen[:, :50].copy().write_h5ad(tmp_path / "fewer.h5ad")
    with pytest.raises(ValueError, match=r"fewer\.h5ad has 50 features and X of .* 60"):
        PerturbationDataset(open_screens([screen_file, tmp_path / "fewer.h5ad"]))
    assert PerturbationDataset(screens, features="obsm/X_pca")[0]["control"].shape == (64, 7)


def test_not_a_number_in_obsm(screen, tmp_path):
    broken = screen.copy()
    broken.obsm["X_pca"][3, 0] = np.nan
    broken.write_h5ad(tmp_path / "broken.h5ad")
    dataset = PerturbationDataset(open_screens(tmp_path / "broken.h5ad"), features="obsm/X_pca")
    with pytest.raises(ValueError, match=r"obsm/X_pca of .*broken\.h5ad has values that are not finite"):
        list(dataset)


def test_constant_genes_are_read_as_they_are(screen):
    constant = anndata.AnnData(screen.X.multiply(0).tocsr(), obs=screen.obs, var=screen.var)
    assert not any(item["target"].any() for item in PerturbationDataset(open_screens(constant)))
