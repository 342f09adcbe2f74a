"""The room's compiled loops: they walk sparse rows by gene, rank, and sum, without a dense cells x genes matrix."""

import numba
import numpy as np

from state_hf.compiled import kernel

# What the stored values of a row are; see `screen.RowScaling`.
AS_THEY_ARE, COUNTS, LOGS = 0, 1, 2
# A cell's values, most of them one of few, are computed once: how many are remembered (a power of two), and by what
# values are multiplied so that different ones have different places.
SEEN, SPREAD = 256, 40503.0
# Rows of the two sides of a sparse product at a time. Known to the compiler, so that the inner loop is vectorised.
BLOCK_CELLS = 64
PANEL_CELLS = 64


@kernel()
def lower_bound(sorted_values, start, stop, value):
    """First position in [start, stop) whose value is not below `value`."""
    while start < stop:
        middle = (start + stop) // 2
        if sorted_values[middle] < value:
            start = middle + 1
        else:
            stop = middle
    return start


@kernel(parallel=True)
def scan_rows(indptr, data, library, extremes):
    """Sum of each row, and per row: smallest value, largest value, largest fraction, number of non-finite values."""
    for row in numba.prange(len(library)):
        total, low, high, fraction, bad = 0.0, 0.0, 0.0, 0.0, 0.0
        for k in range(indptr[row], indptr[row + 1]):
            value = float(data[k])
            if not np.isfinite(value):
                bad += 1.0
                continue
            total += value
            low = min(low, value)
            high = max(high, value)
            fraction = max(fraction, value - np.trunc(value))
        library[row] = total
        extremes[row, 0], extremes[row, 1], extremes[row, 2], extremes[row, 3] = low, high, fraction, bad


@kernel(parallel=True)
def rows_are_canonical(indptr, indices, canonical):
    """Whether the indices of each row are strictly increasing."""
    for row in numba.prange(len(canonical)):
        ordered = True
        for k in range(indptr[row] + 1, indptr[row + 1]):
            if indices[k] <= indices[k - 1]:
                ordered = False
        canonical[row] = ordered


@kernel(parallel=True)
def count_sparse(indptr, indices, data, codes, n_parts, counts):
    """Add to counts[group, gene] the number of non-zero values. Threads own ranges of genes, so none share a cell."""
    n_genes = counts.shape[1]
    for part in numba.prange(n_parts):
        first, last = n_genes * part // n_parts, n_genes * (part + 1) // n_parts
        for row in range(len(codes)):
            group = codes[row]
            if group < 0:
                continue
            stop = indptr[row + 1]
            k = lower_bound(indices, indptr[row], stop, first)
            while k < stop and indices[k] < last:
                if data[k] != 0:
                    counts[group, indices[k]] += 1
                k += 1


@kernel(parallel=True)
def count_dense(matrix, codes, n_parts, counts):
    """As `count_sparse`, for a dense block."""
    n_genes = counts.shape[1]
    for part in numba.prange(n_parts):
        first, last = n_genes * part // n_parts, n_genes * (part + 1) // n_parts
        for row in range(len(codes)):
            group = codes[row]
            if group < 0:
                continue
            for gene in range(first, last):
                counts[group, gene] += matrix[row, gene] != 0


@kernel()
def _transform(count, scale, row, mode):
    """A value of a row, transformed in the precision of the scales."""
    value = scale.dtype.type(count)
    if mode == 0:
        return value
    if mode == 1:
        return value / scale[row]
    return np.log1p(value / scale[row])


@kernel()
def _gather_row(genes, data, first, kind, total, step, target, logs, seen, cursor, values, sums):
    """Gather some values of one row: count / total * target, or as they are. Returns the sum of squares.

    Equal ratios give equal bits: a quotient is rounded once. `seen` is for what became of the row's latest values, of
    which most are equal: small counts.
    """
    seen[:, 0] = 0.0
    square = 0.0
    for k in range(len(data)):
        stored = float(data[k])
        if stored == 0.0:
            continue
        value = summand = stored
        if kind != AS_THEY_ARE:
            place = np.int64(min(stored, 1e12) * SPREAD) & (SEEN - 1)
            if seen[place, 0] != stored:
                count = np.rint((np.exp(stored) - 1.0) / step) if kind == LOGS else stored
                seen[place, 0] = stored
                seen[place, 1] = count / total * target
                seen[place, 2] = np.log1p(seen[place, 1]) if logs else seen[place, 1]
            value, summand = seen[place, 1], seen[place, 2]
        gene = genes[k] - first
        values[cursor[gene]] = value
        cursor[gene] += 1
        sums[gene] += summand
        square += summand * summand
    return square


@kernel(parallel=True)
def gather_sparse(
    indptr, indices, data, codes, kind, totals, steps, target, logs, first, last, n_parts, cursor, values, sums, squares
):
    """Write the non-zero values of genes [first, last) to values[cursor[group, gene]], advancing the cursors.

    They, or their logarithms, are added to sums[group, gene], and their squares to squares[part, group].
    """
    width = last - first
    for part in numba.prange(n_parts):
        start, end = first + width * part // n_parts, first + width * (part + 1) // n_parts
        seen = np.empty((SEEN, 3))
        for row in range(len(codes)):
            group = codes[row]
            if group < 0:
                continue
            low = lower_bound(indices, indptr[row], indptr[row + 1], start)
            high = lower_bound(indices, low, indptr[row + 1], end)
            how = first, kind, totals[row], steps[row], target, logs, seen
            into = cursor[group], values, sums[group]
            squares[part, group] += _gather_row(indices[low:high], data[low:high], *how, *into)


@kernel(parallel=True)
def gather_dense(matrix, codes, kind, totals, steps, target, logs, first, last, n_parts, cursor, values, sums, squares):
    """As `gather_sparse`, for a dense block."""
    width = last - first
    for part in numba.prange(n_parts):
        start, end = first + width * part // n_parts, first + width * (part + 1) // n_parts
        seen = np.empty((SEEN, 3))
        genes, data = np.empty(end - start + 1, dtype=np.int64), np.empty(end - start + 1, dtype=matrix.dtype)
        for row in range(len(codes)):
            group = codes[row]
            if group < 0:
                continue
            n = 0
            for gene in range(start, end):
                genes[n], data[n] = gene, matrix[row, gene]
                n += data[n] != 0
            how = first, kind, totals[row], steps[row], target, logs, seen
            into = cursor[group], values, sums[group]
            squares[part, group] += _gather_row(genes[:n], data[:n], *how, *into)


@kernel(parallel=True)
def add_sparse_rows(indptr, indices, data, codes, n_parts, sums):
    """Add each row to sums[group]. Threads own ranges of genes, so none share a cell."""
    n_genes = sums.shape[1]
    for part in numba.prange(n_parts):
        first, last = n_genes * part // n_parts, n_genes * (part + 1) // n_parts
        for row in range(len(codes)):
            group = codes[row]
            if group < 0:
                continue
            stop = indptr[row + 1]
            k = lower_bound(indices, indptr[row], stop, first)
            while k < stop and indices[k] < last:
                sums[group, indices[k]] += data[k]
                k += 1


@kernel(parallel=True)
def add_dense_rows(matrix, codes, n_parts, sums):
    """As `add_sparse_rows`, for a dense block."""
    n_genes = sums.shape[1]
    for part in numba.prange(n_parts):
        first, last = n_genes * part // n_parts, n_genes * (part + 1) // n_parts
        for row in range(len(codes)):
            group = codes[row]
            if group < 0:
                continue
            for gene in range(first, last):
                sums[group, gene] += matrix[row, gene]


@kernel(parallel=True)
def leave_one_out_sparse(
    indptr, indices, data, codes, share, slope, sums, shrink, n_parts, first_moment, second_moment
):
    """Correct the leave-one-out moments of unexpressed cells for the values that a block holds.

    Leaving cell i out of its group moves gene g's log profile by log1p(-t) - log1p(-e), with e = `share` of the group's
    counts that the cell holds, t = (e + slope[group] * count) * shrink[group, gene]. The moments come in as if every
    count were 0; each stored count replaces its cell's term.
    """
    n_genes = first_moment.shape[1]
    for part in numba.prange(n_parts):
        first, last = n_genes * part // n_parts, n_genes * (part + 1) // n_parts
        for row in range(len(codes)):
            group = codes[row]
            if group < 0 or share[row] >= 1.0:
                continue
            rest = np.log1p(-share[row])
            stop = indptr[row + 1]
            k = lower_bound(indices, indptr[row], stop, first)
            while k < stop and indices[k] < last:
                gene = indices[k]
                without = np.log1p(-share[row] * shrink[group, gene]) - rest
                taken = (share[row] + slope[group] * data[k]) * shrink[group, gene]
                if taken < 0.5:
                    shifted = np.log1p(-taken) - rest
                else:  # 1 - taken would lose digits where one cell holds nearly all counts of a gene
                    left = 1.0 - share[row] + slope[group] * (sums[group, gene] - data[k])
                    shifted = np.log(left * shrink[group, gene]) - rest
                first_moment[group, gene] += shifted - without
                second_moment[group, gene] += shifted * shifted - without * without
                k += 1


@kernel(parallel=True)
def transform_rows(indptr, data, scale, mode, values):
    """Transform the values of some rows."""
    for row in numba.prange(len(scale)):
        for k in range(indptr[row], indptr[row + 1]):
            values[k] = _transform(data[k], scale, row, mode)


@kernel(parallel=True)
def centred_rows(indptr, indices, values, centre, dense):
    """Write rows minus `centre` into a dense matrix."""
    for row in numba.prange(dense.shape[0]):
        dense[row] = -centre
        for k in range(indptr[row], indptr[row + 1]):
            dense[row, indices[k]] += values[k]


@kernel(parallel=True)
def centred_norms(indptr, indices, values, centre, norms):
    """Squared norm of each row minus `centre`."""
    unexpressed = 0.0
    for gene in range(len(centre)):
        unexpressed += float(centre[gene]) * float(centre[gene])
    for row in numba.prange(len(norms)):
        total = unexpressed
        for k in range(indptr[row], indptr[row + 1]):
            mean = float(centre[indices[k]])
            difference = float(values[k]) - mean
            total += difference * difference - mean * mean
        norms[row] = total


@kernel(parallel=True)
def order_by_gene(indptr, indices, values, starts, n_genes, genes, rows, ordered):
    """Sort the values of each block of BLOCK_CELLS rows by gene."""
    for block in numba.prange(len(starts) - 1):
        first = block * BLOCK_CELLS
        last = min(first + BLOCK_CELLS, len(indptr) - 1)
        place = np.zeros(n_genes + 1, dtype=np.int64)
        for k in range(starts[block], starts[block + 1]):
            place[indices[k] + 1] += 1
        place[0] = starts[block]
        for gene in range(n_genes):
            place[gene + 1] += place[gene]
        for row in range(first, last):
            for k in range(indptr[row], indptr[row + 1]):
                gene = indices[k]
                genes[place[gene]], rows[place[gene]], ordered[place[gene]] = gene, row - first, values[k]
                place[gene] += 1


@kernel(parallel=True)
def fill_panels(indptr, indices, values, centre, panels):
    """Write rows minus `centre` into panels of PANEL_CELLS rows, gene x row within each."""
    n_rows = len(indptr) - 1
    for panel in numba.prange(panels.shape[0]):
        first = panel * PANEL_CELLS
        width = min(PANEL_CELLS, n_rows - first)
        for gene in range(len(centre)):
            panels[panel, gene, :width] = -centre[gene]
        for row in range(width):
            for k in range(indptr[first + row], indptr[first + row + 1]):
                panels[panel, indices[k], row] += values[k]


@kernel(parallel=True, fastmath=True)
def distances_to_panel(starts, genes, rows, values, norms, panel, shift, panel_norms, same_from, sums):
    """Add to `sums` the distances of each sparse row to the dense rows of a panel.

    Only non-zero values are multiplied: x.(y - c) - c.(y - c) is the product of the centred rows, `shift` being
    c.(y - c). A block's products fit the first cache while the panel's rows stream by in the order of the genes.
    `same_from` is the panel's first row where the panel is part of the rows themselves, else -1.
    """
    for block in numba.prange(len(starts) - 1):
        first = block * BLOCK_CELLS
        products = np.zeros((BLOCK_CELLS, PANEL_CELLS), dtype=panel.dtype)
        for k in range(starts[block], starts[block + 1]):
            row, gene, value = rows[k], genes[k], values[k]
            for cell in range(PANEL_CELLS):
                products[row, cell] += value * panel[gene, cell]
        for row in range(min(BLOCK_CELLS, len(norms) - first)):
            total = 0.0
            for cell in range(len(panel_norms)):
                product = products[row, cell] - shift[cell]
                squared = norms[first + row] + panel_norms[cell] - product - product
                if squared > 0 and not (same_from >= 0 and same_from + cell == first + row):
                    total += np.sqrt(squared)
            sums[first + row] += total


@kernel(parallel=True, fastmath=True)
def minkowski_distances(left, right, left_out, squared, distances):
    """Sum over genes of |x - y| or (x - y)^2 for every pair of rows, without each left row's left-out gene."""
    for row in numba.prange(left.shape[0]):
        for other in range(right.shape[0]):
            total = 0.0
            if squared:
                for gene in range(left.shape[1]):
                    difference = left[row, gene] - right[other, gene]
                    total += difference * difference
            else:
                for gene in range(left.shape[1]):
                    total += abs(left[row, gene] - right[other, gene])
            gene = left_out[row]
            if gene >= 0:
                difference = left[row, gene] - right[other, gene]
                total -= difference * difference if squared else abs(difference)
            distances[row, other] = total
