from state_hf.metrics.target_genes import target_genes_of


def test_labels_of_one_gene_target_it():
    labels = ["A", "B+ctrl", "ctrl+C", "A+B", "D+", "E"]
    assert target_genes_of(labels, ["A", "B", "C", "D"], control="ctrl") == {"B+ctrl": "B", "ctrl+C": "C"}
    assert target_genes_of(["A", "X"], ["A"], control="ctrl") is None


def test_what_the_user_says_is_found_in_any_spelling():
    given = {"B+A": "A", "C": None, 7: "SEVEN", "unused": "X"}
    found = target_genes_of(["A+B", "C+ctrl", "7", "B+ctrl"], ["A", "B", "C"], given, control="ctrl")
    assert found == {"A+B": "A", "C+ctrl": None, "7": "SEVEN", "B+ctrl": "B"}
    assert target_genes_of(["A"], ["A"], {}, control="ctrl") == {}
