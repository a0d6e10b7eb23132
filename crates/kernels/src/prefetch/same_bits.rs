//! However weights are asked for, results are the same to the bit.

use super::*;
use crate::experts::moe_mlp_on;
use crate::matmul::tests::{Random, assert_same_bits, isas, pack, product_with, weights};
use crate::matmul::{gated_mlp_on, matmul_on};
use crate::stored::tests::{pack_all, stored};
use crate::{DType, ExpertStack, Isa, Matrix, Pool, Product, Routing, Workspace};

/// The candidates, and what else the variable may ask for: odd numbers of panels, no distance and the longest.
fn all() -> Vec<Prefetch> {
    let others = ["t0:0:1", "t0:64:2", "t0:65536:3", "t0:100:5", "t0:512:6", "t0:2048:7", "t1:0:1"];
    Prefetch::CANDIDATES.into_iter().chain(others.map(|other| Prefetch::parse(other).unwrap())).collect()
}

/// Panels that fill no turn up: 13 of them, or 1, the last of them not full.
fn shapes(dtype: DType) -> [(usize, usize); 2] {
    let block = dtype.block_len().max(8);
    [(5, 2 * block), (13 * 16 - 3, if dtype.is_float() { 389 } else { 3 * block })]
}

#[test]
fn of_products_with_every_format_on_every_instruction_set() {
    let pools = [Pool::new(1), Pool::new(3)];
    let mut random = Random(61);
    for dtype in DType::ALL {
        for ((rows, cols), adversarial) in shapes(dtype).into_iter().zip([true, false]) {
            let bytes = weights(dtype, rows, cols, &mut random, adversarial);
            let matrix = pack(dtype, rows, cols, &bytes, &pools[1]);
            let n = 8;
            let x = random.vec(n * cols);
            let plain = PrefetchPolicy::Fixed(Prefetch::NTA);
            let reference: Vec<f32> = (x.chunks_exact(cols))
                .flat_map(|x| product_with(plain, Isa::Scalar, &pools[0], &matrix, x, 1))
                .collect();
            for isa in isas() {
                for prefetch in all() {
                    for (pool, at_once) in [(0, 1), (1, 1), (0, 2), (1, 3), (0, 5), (1, 8)] {
                        let y: Vec<f32> = x
                            .chunks(at_once * cols)
                            .flat_map(|x| {
                                let policy = PrefetchPolicy::Fixed(prefetch);
                                product_with(policy, isa, &pools[pool], &matrix, x, x.len() / cols)
                            })
                            .collect();
                        let what = format!("{dtype} {rows}x{cols} {isa} {prefetch}, {at_once} rows");
                        assert_same_bits(&y, &reference, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn of_weights_that_are_not_packed_yet_or_in_part() {
    let pool = Pool::new(2);
    let mut random = Random(62);
    for dtype in [DType::Q4_K, DType::Q8_0, DType::Q6_K, DType::BF16, DType::F8E4M3] {
        let (rows, cols) = (11 * 16 + 1, 2 * dtype.block_len().max(64));
        let data = weights(dtype, rows, cols, &mut random, false);
        let file = stored(dtype, rows, cols, &data);
        let mut packed = stored(dtype, rows, cols, &data);
        pack_all(&mut packed, &pool);
        for n in [1, 2, 9] {
            let x = random.vec(n * cols);
            let plain = PrefetchPolicy::Fixed(Prefetch::NTA);
            let expected = product_with(plain, Isa::Scalar, &pool, &packed, &x, n);
            for (isa, prefetch) in isas().into_iter().flat_map(|isa| all().into_iter().map(move |p| (isa, p)))
            {
                let y = product_with(PrefetchPolicy::Fixed(prefetch), isa, &pool, &file, &x, n);
                assert_same_bits(&y, &expected, &format!("{dtype} {isa} {prefetch}, {n} rows"));
            }
        }
    }
    // A part of the panels that take turns is packed: 16 MiB of 44.
    let (cols, rows) = (32_768, (44 << 20) / (32_768 / 32 * 34));
    let mut data: Vec<u8> = (0..rows * (cols / 32 * 34)).map(|i| (i / 7) as u8).collect();
    data.chunks_exact_mut(34).for_each(|block| block[..2].copy_from_slice(&[0, 0x2c]));
    let mut matrix = stored(DType::Q8_0, rows, cols, &data);
    let x = random.vec(cols);
    let product = |matrix: &Matrix, prefetch| {
        product_with(PrefetchPolicy::Fixed(prefetch), crate::isa(), &pool, matrix, &x, 1)
    };
    let expected = product(&matrix, Prefetch::NTA);
    matrix.pack_next(&pool).unwrap();
    assert!(matrix.unpacked_bytes() > 0);
    for prefetch in all() {
        assert_same_bits(&product(&matrix, prefetch), &expected, &prefetch.to_string());
    }
}

#[test]
fn of_feed_forward_blocks_and_experts() {
    let pool = Pool::new(2);
    let mut random = Random(63);
    let (cols, width, count, per_row) = (256, 256 + 32, 6, 3);
    let width_k = 256;
    for (first, second) in [(DType::Q8_0, DType::Q5_0), (DType::F16, DType::BF16), (DType::Q4_K, DType::Q6_K)]
    {
        let width = if second == DType::Q6_K { width_k } else { width };
        let mut stack = |dtype, rows, cols| {
            let data = weights(dtype, count * rows, cols, &mut random, false);
            ExpertStack::pack(dtype, count, rows, cols, &data, &pool).unwrap()
        };
        let stacks = [stack(first, width, cols), stack(first, width, cols), stack(second, 150, width)];
        let [gate, up, down] = &stacks;
        for n in [1, 2, 7] {
            let x = random.vec(n * cols);
            let experts: Vec<u32> =
                (0..n).flat_map(|_| [random.next() % 2, 2, 3 + random.next() % 3]).collect();
            let routing = Routing { per_row, experts: &experts, weights: &random.vec(n * per_row) };
            let both = |isa, prefetch| {
                let mut ws = Workspace::default().with_prefetch(PrefetchPolicy::Fixed(prefetch));
                let mut y = vec![f32::NAN; 2 * n * 150];
                let (mixed, single) = y.split_at_mut(n * 150);
                moe_mlp_on(isa, &pool, &mut ws, &x, &routing, [gate, up, down], mixed, false);
                let one = stacks.each_ref().map(|stack| stack.get(2).unwrap());
                gated_mlp_on(isa, &pool, &mut ws, &x, n, one, single, false);
                y
            };
            let expected = both(Isa::Scalar, Prefetch::NTA);
            for (isa, prefetch) in isas().into_iter().flat_map(|isa| all().into_iter().map(move |p| (isa, p)))
            {
                assert_same_bits(
                    &both(isa, prefetch),
                    &expected,
                    &format!("{first} {isa} {prefetch}, {n} rows"),
                );
            }
        }
    }
}

/// The choice changes from product to product while it is learnt, and once it is made.
#[test]
fn while_the_fastest_is_learnt() {
    let pool = Pool::new(2);
    let mut random = Random(64);
    let (rows, cols) = (10 * 16, 512);
    let matrices = [DType::Q4_K, DType::Q8_0, DType::Q8_0, DType::BF16].map(|dtype| {
        let data = weights(dtype, rows, cols, &mut random, false);
        pack(dtype, rows, cols, &data, &pool)
    });
    let x = random.vec(cols);
    let expected = matrices
        .each_ref()
        .map(|w| product_with(PrefetchPolicy::Fixed(Prefetch::NTA), Isa::Scalar, &pool, w, &x, 1));
    let mut ws = Workspace::default().with_prefetch(PrefetchPolicy::LearnFrom(1));
    let mut follower = Workspace::default();
    let mut news = 0;
    for step in 0..60 {
        news += usize::from(ws.begin_step());
        follower.follow_prefetch(&ws);
        for (w, expected) in matrices.iter().zip(&expected) {
            for ws in [&mut ws, &mut follower] {
                let mut y = vec![f32::NAN; rows];
                let product = Product { w, bias: None, y: &mut y, add: false };
                matmul_on(crate::isa(), &pool, ws, &x, 1, &mut [product]);
                assert_same_bits(&y, expected, &format!("{} in step {step}", w.dtype()));
            }
        }
    }
    let chosen = |ws: &Workspace| ws.prefetch_choices().map(|choice| choice.prefetch).collect::<Vec<_>>();
    let learnt: Vec<DType> = ws.prefetch_choices().map(|choice| choice.dtype).collect();
    assert_eq!(learnt, [DType::BF16, DType::Q8_0, DType::Q4_K]);
    assert_eq!(news, 2, "that of the two matrices of one format comes first");
    for choice in ws.prefetch_choices() {
        assert!(Prefetch::CANDIDATES.contains(&choice.prefetch) || choice.prefetch == choice.first);
        assert!(choice.gb_per_s > 0.0 && choice.first_gb_per_s > 0.0, "{choice:?}");
    }
    assert_eq!(chosen(&follower), chosen(&ws));
    assert_eq!(Workspace::default().with_prefetch(PrefetchPolicy::First).prefetch_choices().count(), 0);
}

/// Matrices of the usual size only, one row only, and packed ones only.
#[test]
fn what_says_nothing_is_not_timed() {
    let pool = Pool::new(1);
    let (rows, cols) = (64, 256);
    let data = weights(DType::Q8_0, rows, cols, &mut Random(65), false);
    let packed = pack(DType::Q8_0, rows, cols, &data, &pool);
    let other = pack(DType::F32, 16, cols, &weights(DType::F32, 16, cols, &mut Random(66), false), &pool);
    let file = stored(DType::Q8_0, rows, cols, &data);
    let mut learning = Chooser::new(PrefetchPolicy::LearnFrom(packed.bytes()));
    assert!(learning.sample(1, [&packed].into_iter()).is_some());
    assert!(learning.sample(2, [&packed].into_iter()).is_none());
    assert!(learning.sample(1, [&file].into_iter()).is_none());
    assert!(learning.sample(1, [&packed, &other].into_iter()).is_none());
    assert!(learning.sample(1, [&packed, &packed].into_iter()).is_some());
    assert!(learning.sample(1, [].into_iter()).is_none());
    assert!(
        Chooser::new(PrefetchPolicy::LearnFrom(packed.bytes() + 1))
            .sample(1, [&packed].into_iter())
            .is_none()
    );
    assert!(Chooser::new(PrefetchPolicy::Learn).sample(1, [&packed].into_iter()).is_none());
    assert!(Chooser::new(PrefetchPolicy::First).sample(1, [&packed].into_iter()).is_none());
}
