"""Compiled loops over the cells of a CSR block that check them, and sum the columns of one gene."""

import math

import numpy as np

from state_hf.compiled import kernel


@kernel()
def inspect_cells(start, stop, data, indices, indptr, columns, expressed, invalid, repeated):
    """For cells [start, stop): count expressed known genes, values that are no expression, and columns stored twice."""
    seen = np.empty(0, np.int64)
    for cell in range(start, stop):
        values, places = data[indptr[cell] : indptr[cell + 1]], indices[indptr[cell] : indptr[cell + 1]]
        valid, known, rising = 0, 0, 0
        # In one loop each, without branches, the compiler makes vectors of them. NaN is not valid.
        for k in range(values.size):
            valid += (values[k] >= 0) & (values[k] < np.inf)
        for k in range(values.size):
            known += (values[k] > 0) & (values[k] < np.inf) & (columns[np.uint32(places[k])] >= 0)
        for k in range(1, values.size):
            rising += places[k] > places[k - 1]
        expressed[cell] += known
        invalid[cell] += values.size - valid
        if rising + 1 >= values.size:
            continue
        # Columns in any other order may be there twice.
        if seen.size == 0:
            seen = np.full(columns.size, -1, np.int64)
        for k in range(indptr[cell], indptr[cell + 1]):
            repeated[cell] += seen[indices[k]] == cell
            seen[indices[k]] = cell


@kernel()
def sum_columns(start, stop, data, indices, indptr, columns, num_genes, is_counts):
    """For cells [start, stop): add the values of columns of one gene in the first of them, and leave 0 in others."""
    place = np.full(num_genes, -1, np.int64)
    for cell in range(start, stop):
        for k in range(indptr[cell], indptr[cell + 1]):
            gene = columns[indices[k]]
            if gene < 0:
                continue
            first = place[gene]
            if first < indptr[cell]:
                place[gene] = k
            elif is_counts:
                data[first] += data[k]
                data[k] = 0.0
            else:
                data[first] = math.log1p(math.expm1(np.float64(data[first])) + math.expm1(np.float64(data[k])))
                data[k] = 0.0
