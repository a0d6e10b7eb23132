//! Sums and products of sizes that callers give. This crate is compiled without overflow checks, and a size that wraps
//! would pass the checks that keep pointers within their slices.

/// The product of some sizes.
///
/// # Panics
/// If it is more than any slice can have.
pub(crate) fn product<const N: usize>(sizes: [usize; N]) -> usize {
    let product = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    assert!(product.is_some(), "sizes {sizes:?} multiply to more than any slice has");
    product.unwrap_or_default()
}

/// The sum of two sizes.
///
/// # Panics
/// If it is more than any slice can have.
pub(crate) fn sum(a: usize, b: usize) -> usize {
    let sum = a.checked_add(b);
    assert!(sum.is_some(), "sizes {a} and {b} add up to more than any slice has");
    sum.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use crate::kv::{KvCache, KvDType, KvLayout};
    use crate::matmul::tests::{Random, weights};
    use crate::{
        AttentionWorkspace, DType, ExpertStack, KeyValueRows, Pool, RopeStyle, RopeTable, Routing, SeqRows,
        Workspace, attention, attention_over_rows, moe_mlp, vector,
    };

    /// Whether it panics, which is what a safe function may do with sizes that make no sense.
    fn is_refused(f: impl FnOnce()) -> bool {
        catch_unwind(AssertUnwindSafe(f)).is_err()
    }

    const HALF: usize = 1 << (usize::BITS / 2);

    #[test]
    fn sizes_that_wrap_are_refused_where_memory_depends_on_them() {
        let pool = Pool::new(1);
        let table = RopeTable::new(&[1.0, 0.5], 8, 1.0, RopeStyle::HalfSplit);
        let turn = |x: &mut [f32], heads, dim, offset, positions: &[u32]| {
            is_refused(|| table.apply(&pool, x, heads, dim, offset, positions))
        };
        let mut x = [0.0; 8];
        // Heads times dimensions is 2^64, so nothing was left of it, or 2^64 + 8.
        assert!(turn(&mut [], HALF, HALF, 0, &[1, 2]));
        #[cfg(target_pointer_width = "64")]
        assert!(turn(&mut x, 24, 768_614_336_404_564_651, 0, &[1]));
        assert!(turn(&mut x, 1, 8, usize::MAX - 1, &[1]));
        assert!(!turn(&mut x, 1, 8, 4, &[1]));

        let attend = |q: &[f32], n_kv_heads, k_dim, v_dim, first_position, n_heads, out: &mut [f32]| {
            let rows = KeyValueRows { k: &[0.0; 16], v: &[0.0; 16], n_kv_heads, k_dim, v_dim };
            let mut ws = AttentionWorkspace::default();
            is_refused(|| attention_over_rows(&pool, &mut ws, q, &rows, first_position, n_heads, 1.0, out))
        };
        assert!(!attend(&x, 1, 8, 8, 1, 1, &mut [0.0; 8]));
        assert!(attend(&x, 1, 8, 8, usize::MAX, 1, &mut [0.0; 8]));
        assert!(attend(&x, 1, 8, 8, usize::MAX / 8, 1, &mut [0.0; 8]));
        assert!(attend(&x, HALF, HALF, 8, 0, HALF, &mut [0.0; 8]));
        assert!(attend(&x, HALF, 8, HALF, 0, HALF, &mut [0.0; 8]));
    }

    #[test]
    fn rows_that_wrap_are_refused_by_what_takes_their_number() {
        let pool = Pool::new(1);
        let none: &mut [f32] = &mut [];
        assert!(is_refused(|| vector::rms_norm(&pool, &[], HALF * (HALF / 2), &[1.0; 2], 1e-6, none)));
        assert!(is_refused(|| vector::rms_norm_in_place(&pool, none, HALF * (HALF / 2), &[1.0; 2], 1e-6)));
        vector::rms_norm(&pool, &[], 0, &[1.0; 2], 1e-6, none);

        let layout = KvLayout {
            dtype: KvDType::F32,
            n_layers: 1,
            n_kv_heads: 1,
            k_dim: 8,
            v_dim: 8,
            values_in_keys: false,
            block_len: 16,
        };
        let kv = KvCache::new(layout, 2).unwrap();
        let attend = |seqs: &[SeqRows<'_>], q: &[f32], n_heads: usize, out: &mut [f32]| {
            let mut ws = AttentionWorkspace::default();
            is_refused(|| attention(&pool, &mut ws, q, &kv, 0, seqs, n_heads, 1.0, out))
        };
        let (q, mut out) = ([0.5; 16], [0.0; 16]);
        let seq = SeqRows { block_table: &[0, 1], first_row: 0, n_rows: 2, first_position: 3 };
        assert!(!attend(&[seq], &q, 1, &mut out));
        // Their ends are small numbers again.
        for wrong in [
            SeqRows { first_row: usize::MAX, ..seq },
            SeqRows { n_rows: usize::MAX, ..seq },
            SeqRows { first_position: usize::MAX, ..seq },
            SeqRows { first_row: 1, n_rows: usize::MAX, ..seq },
        ] {
            assert!(attend(&[wrong], &q, 1, &mut out), "{wrong:?}");
            assert!(attend(&[seq, wrong], &q, 1, &mut out), "{wrong:?}");
        }
        assert!(attend(&[seq], &q, HALF * (HALF / 8) + 1, &mut out));
    }

    #[test]
    fn the_loop_that_reads_memory_reads_no_more_than_it_is_given() {
        // Whole groups are read, and what is left over is not.
        let bytes = vec![1; 5 * 1024 + 100];
        crate::ceilings::read_all(&Pool::new(2), &bytes, true);
        crate::ceilings::read_all(&Pool::new(2), &bytes[..100], false);
        crate::ceilings::read_all(&Pool::new(2), &[], false);
    }

    #[test]
    fn a_workspace_for_impossible_calls_serves_the_possible_ones() {
        let pool = Pool::new(1);
        let mut random = Random(3);
        let mut stack = |rows, cols| {
            let bytes = weights(DType::Q8_0, 2 * rows, cols, &mut random, false);
            ExpertStack::pack(DType::Q8_0, 2, rows, cols, &bytes, &pool).unwrap()
        };
        let (gate, up, down) = (stack(64, 32), stack(64, 32), stack(32, 64));
        let x = [0.5; 64];
        let routing = Routing { per_row: 1, experts: &[0, 1], weights: &[1.0, 1.0] };
        let answers =
            [Workspace::default(), Workspace::new(usize::MAX / 64 + 1, usize::MAX)].map(|mut ws| {
                let mut y = [0.0; 64];
                moe_mlp(&pool, &mut ws, &x, &routing, [&gate, &up, &down], &mut y, false);
                y.map(f32::to_bits)
            });
        assert_eq!(answers[0], answers[1]);
    }
}
