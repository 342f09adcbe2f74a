import anndata
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from state_hf.data.screens.highly_variable import GeneMoments, rank_variable_genes


def moments_of(matrix, block=17):
    moments = GeneMoments(matrix.shape[1])
    for start in range(0, matrix.shape[0], block):
        moments.add(sparse.csr_matrix(matrix[start : start + block]))
    return moments


def test_moments_by_hand():
    moments = moments_of(np.array([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]]), block=2)
    assert moments.mean.tolist() == [3.0, 2.0]
    assert moments.variance.tolist() == pytest.approx([4.0, 12.0])


def against_scanpy(counts, num_genes):
    adata = anndata.AnnData(sparse.csr_matrix(counts, dtype=np.float32))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=num_genes, flavor="seurat")
    normalised = sparse.csr_matrix((np.expm1(adata.X.data), adata.X.indices, adata.X.indptr), shape=adata.shape)
    moments = moments_of(normalised)
    ranking = rank_variable_genes(moments.mean, moments.variance, num_genes=num_genes)
    assert ranking["highly_variable"].tolist() == adata.var["highly_variable"].tolist()
    for column in ("means", "dispersions", "dispersions_norm"):
        np.testing.assert_allclose(ranking[column], adata.var[column], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_genes", [1, 10, 40])
def test_the_same_genes_as_scanpy(screen, num_genes):
    against_scanpy(screen.X, num_genes)


def test_constant_and_unseen_genes_have_no_score(screen):
    counts = screen.X.tolil()
    counts[:, 3] = 0
    counts = counts.tocsr()
    against_scanpy(counts, 20)
    moments = moments_of(counts)
    ranking = rank_variable_genes(moments.mean, moments.variance, num_genes=60)
    assert np.isnan(ranking["dispersions_norm"][3])
    assert ranking["highly_variable"].sum() == 59


def test_the_same_genes_as_scanpy_on_real_cells(shared_data):
    adata = anndata.read_h5ad(shared_data / "scrna_tian2019_scmixology_lung_cell_lines.h5ad")
    against_scanpy(adata.X[:400], 2000)


def test_no_variation_at_all():
    ranking = rank_variable_genes(np.ones(3), np.zeros(3), num_genes=2)
    assert not ranking["highly_variable"].any()
