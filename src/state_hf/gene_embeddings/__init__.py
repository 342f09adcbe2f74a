"""Gene tables: embeddings of genes from the sequences of their proteins."""
