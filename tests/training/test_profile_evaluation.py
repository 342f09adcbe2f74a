"""A profile of the challenge metrics on the validation cells while a model trains."""

import anndata
import numpy as np
import pytest
from tests.training.test_state_transition_trainer import make_trainer

from state_hf import PerturbationDataset, evaluate_predictions
from state_hf.training.profile_evaluation import ProfileEvaluation


@pytest.fixture(scope="module")
def dataset(split):
    return PerturbationDataset(split.screens, split=split, part="val", set_size=8)


def test_it_is_what_the_evaluation_pipeline_gives(dataset, screen_path):
    # All cells: 80 perturbed and 24 controls of one cell type.
    evaluation = ProfileEvaluation(dataset, "vcc2025", cells=400, seed=0)
    own = evaluation(lambda sets: sets["control"].numpy() * 1.5)
    cells, predicted = anndata.read_h5ad(screen_path), []
    cells = cells[(cells.obs["cell_type"] == "type_2").to_numpy()]
    for item in (dataset[index] for index in range(len(dataset))):
        name = dataset.screens.perturbations[int(item["perturbation_ids"])]
        if name != dataset.screens.control:
            values = item["control"][item["cell_mask"]].numpy() * 1.5
            predicted.append(anndata.AnnData(values, obs={"perturbation": [name] * len(values)}, var=cells.var))
    controls = cells[(cells.obs["perturbation"] == dataset.screens.control).to_numpy()].to_memory()
    controls.X = np.asarray(controls.X.todense())
    prediction = anndata.concat([controls, *predicted], index_unique="-")
    result = evaluate_predictions(prediction, cells.to_memory(), "vcc2025", baseline="mean")
    for name, value in result.to_dict().items():
        if f"vcc2025_{name}" in own:
            assert own[f"vcc2025_{name}"] == pytest.approx(value, abs=1e-6), name
    assert {"vcc2025_mae", "vcc2025_pds", "vcc2025_des", "vcc2025_overall_score"} <= own.keys()


def test_the_sample_is_within_its_budget_and_the_same_for_a_seed(dataset):
    seen = []

    def predict(sets):
        seen.extend(sets["perturbation_ids"].tolist())
        return sets["control"].numpy()

    evaluations = [ProfileEvaluation(dataset, "vcc2025", cells=40, seed=seed) for seed in (0, 0, 1)]
    one, same, other = (evaluation(predict) for evaluation in evaluations)
    assert one == same
    assert one != other
    (context,) = evaluations[0]._contexts.values()
    assert context.reference.n_cells.tolist() == [7, 7, 7, 7, 10]
    assert dataset.screens.control_id not in seen


def test_the_trainer_reports_it_and_chooses_by_it(tmp_path, split, vocabulary):
    trainer = make_trainer(
        tmp_path, split, vocabulary, evaluation_profile="vcc2025", evaluation_cells=60, eval_strategy="steps",
        eval_steps=3, load_best_model_at_end=True, metric_for_best_model="eval_vcc2025_overall_score",
    )  # fmt: skip
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == 2
    assert all(0 <= entry["eval_vcc2025_pds"] <= 1 for entry in evaluations)
    best = max(evaluations, key=lambda entry: entry["eval_vcc2025_overall_score"])
    assert trainer.state.best_metric == best["eval_vcc2025_overall_score"]


def test_what_does_not_fit_is_found_before_the_training(tmp_path, split, vocabulary, dataset):
    with pytest.raises(ValueError, match="scores counts"):
        make_trainer(tmp_path, split, vocabulary, evaluation_profile="vcc2026")
    decoder = {"gene_decoder": "negative_binomial", "gene_dim": 20, "gene_decoder_hidden_sizes": [8]}
    with pytest.raises(ValueError, match="predicts mean counts"):
        make_trainer(tmp_path, split, vocabulary, evaluation_profile="vcc2025", fields=decoder)
    with pytest.raises(ValueError, match=r"too few for 4 groups.*at least 11"):
        ProfileEvaluation(dataset, "vcc2025", cells=9, seed=0)
