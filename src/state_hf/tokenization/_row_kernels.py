"""Compiled loops over the cells of a CSR block that check them, and sum the columns of one gene."""

import math

import numpy as np

from state_hf.compiled import kernel


@kernel()
def inspect_cells(start, stop, data, indices, indptr, columns, expressed, invalid, repeated):
    """For cells [start, stop): count expressed known genes, values that are no expression, and columns stored twice."""
    seen = np.full(columns.size, -1, np.int64)
    for cell in range(start, stop):
        for k in range(indptr[cell], indptr[cell + 1]):
            value, column = data[k], indices[k]
            # Written so that NaN fails it.
            if not (value >= 0 and value < np.inf):
                invalid[cell] += 1
            elif value > 0 and columns[column] >= 0:
                expressed[cell] += 1
            if seen[column] == cell:
                repeated[cell] += 1
            seen[column] = cell


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
