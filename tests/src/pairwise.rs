//! Few test cells that still put every value of a factor beside every value of every other one.

/// Every combination of factor values; `sizes[i]` is the number of values of factor i.
pub fn product(sizes: &[usize]) -> Vec<Vec<usize>> {
    sizes.iter().fold(vec![Vec::new()], |rows, size| {
        rows.iter().flat_map(|row| (0..*size).map(move |value| [row.as_slice(), &[value]].concat())).collect()
    })
}

/// Rows that cover every pair of values of two factors, chosen greedily and always alike.
pub fn pairwise(sizes: &[usize]) -> Vec<Vec<usize>> {
    let candidates = product(sizes);
    let mut open: Vec<Pair> = candidates.iter().flat_map(|row| pairs(row)).collect();
    open.sort_unstable();
    open.dedup();
    let mut rows = Vec::new();
    while !open.is_empty() {
        let gain = |row: &Vec<usize>| pairs(row).filter(|pair| open.binary_search(pair).is_ok()).count();
        // The first of the best: `max_by_key` would take the last.
        let Some(best) = candidates.iter().rev().max_by_key(|row| gain(row)) else {
            break;
        };
        open.retain(|pair| !pairs(best).any(|covered| covered == *pair));
        rows.push(best.clone());
    }
    rows
}

/// Factor i has value a while factor j has value b.
type Pair = (usize, usize, usize, usize);

fn pairs(row: &[usize]) -> impl Iterator<Item = Pair> + '_ {
    let later = move |i: usize| (i + 1..row.len()).map(move |j| (i, row[i], j, row[j]));
    (0..row.len()).flat_map(later)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_covered_by_far_fewer_rows() {
        let sizes = [4, 4, 2, 2, 2, 3];
        let rows = pairwise(&sizes);
        let covered: Vec<Pair> = rows.iter().flat_map(|row| pairs(row)).collect();
        for pair in product(&sizes).iter().flat_map(|row| pairs(row)) {
            assert!(covered.contains(&pair), "{pair:?} is in no row");
        }
        assert!(rows.len() >= 16 && rows.len() <= 24, "{} rows", rows.len());
    }

    #[test]
    fn the_product_has_every_row_once() {
        let mut rows = product(&[2, 3]);
        assert_eq!(rows.len(), 6);
        rows.dedup();
        assert_eq!(rows.len(), 6);
    }

    #[test]
    fn the_choice_is_always_the_same() {
        assert_eq!(pairwise(&[3, 3, 2]), pairwise(&[3, 3, 2]));
    }
}
