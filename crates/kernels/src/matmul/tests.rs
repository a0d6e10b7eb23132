//! Products against a plain computation, and bit for bit against each other.

use super::*;
use crate::{DType, KernelError, PrefetchPolicy, cpu_features, dequantize_row, quantize_row};

/// Numbers without a generator's dependency: a linear congruence, upper bits.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// Roughly normal, of standard deviation 1.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.next() as f32 / u32::MAX as f32 - 0.5).sum::<f32>() * 1.732
    }

    pub(crate) fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.normal()).collect()
    }
}

pub(crate) fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| cpu_features().supports(*isa)).collect()
}

/// Puts a half where a block has its scale, and its minimum if it has one; `MXFP4` takes the exponent alone.
fn set_scales(dtype: DType, block: &mut [u8], half: u16) {
    let places: &[usize] = match dtype {
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q2_K => &[80, 82],
        DType::Q3_K => &[108],
        DType::Q6_K => &[208],
        DType::TQ2_0 => &[64],
        DType::MXFP4 => {
            block[0] = (half >> 8) as u8 & 0xfe;
            return;
        }
        DType::IQ1_M => {
            for word in 0..4 {
                let byte = &mut block[49 + 2 * word];
                *byte = *byte & 15 | ((half >> (4 * word)) as u8) << 4;
            }
            return;
        }
        _ => &[0],
    };
    for at in places {
        block[*at..*at + 2].copy_from_slice(&half.to_le_bytes());
    }
}

/// Rows in the file's form; adversarial ones are random bytes with scales that are finite.
pub(crate) fn weights(
    dtype: DType,
    rows: usize,
    cols: usize,
    random: &mut Random,
    adversarial: bool,
) -> Vec<u8> {
    let mut bytes = vec![0; dtype.row_bytes(cols).unwrap() * rows];
    if !adversarial || dtype.is_float() {
        let values = random.vec(rows * cols);
        match quantize_row(dtype, &values, &mut bytes) {
            Ok(()) => return bytes,
            Err(error) => assert_eq!(error, KernelError::NoQuantiser { dtype }),
        }
    }
    bytes.iter_mut().for_each(|byte| *byte = random.next() as u8);
    let extremes = [0x7bff_u16, 0xfbff, 0x0001, 0x8001, 0x0000, 0x3c00, 0x2e66];
    for (index, block) in bytes.chunks_exact_mut(dtype.block_bytes()).enumerate() {
        if !adversarial {
            // About 0.01; exponents from 122 to 124 for MXFP4.
            let half = if dtype == DType::MXFP4 { 0x7a00 + (random.next() as u16 & 0x300) } else { 0x2100 };
            set_scales(dtype, block, half | random.next() as u16 & 0x00ff);
            continue;
        }
        match index % 3 {
            0 => block.fill(0xff),
            1 => block.fill(0x80),
            _ => {}
        }
        set_scales(dtype, block, extremes[random.next() as usize % extremes.len()]);
        if dtype == DType::Q8_K {
            block[..4].copy_from_slice(&random.normal().to_le_bytes());
        }
    }
    bytes
}

pub(crate) fn pack(dtype: DType, rows: usize, cols: usize, bytes: &[u8], pool: &Pool) -> Matrix {
    if dtype == DType::F8E4M3 {
        let count = rows.div_ceil(128) * cols.div_ceil(128);
        let scales: Vec<f32> = (0..count).map(|i| 0.5 + i as f32).collect();
        return Matrix::pack_f8(rows, cols, bytes, &scales, pool).unwrap();
    }
    Matrix::pack(dtype, rows, cols, bytes, pool).unwrap()
}

pub(crate) fn product(isa: Isa, pool: &Pool, w: &Matrix, x: &[f32], n: usize) -> Vec<f32> {
    product_with(PrefetchPolicy::First, isa, pool, w, x, n)
}

pub(crate) fn product_with(
    prefetch: PrefetchPolicy,
    isa: Isa,
    pool: &Pool,
    w: &Matrix,
    x: &[f32],
    n: usize,
) -> Vec<f32> {
    let mut y = vec![f32::NAN; n * w.rows()];
    let mut ws = Workspace::default().with_prefetch(prefetch);
    matmul_on(isa, pool, &mut ws, x, n, &mut [Product { w, bias: None, y: &mut y, add: false }]);
    y
}

pub(crate) fn assert_same_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len());
    let differs =
        a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan()));
    assert_eq!(differs, None, "{what}: {:?}", differs.map(|i| (a[i], b[i])));
}

pub(crate) fn shapes(dtype: DType) -> [(usize, usize); 3] {
    let block = dtype.block_len().max(8);
    [(1, block), (33, 2 * block), if dtype.is_float() { (70, 1101) } else { (70, 3 * block) }]
}

#[test]
fn rows_come_back_as_they_went_in() {
    let pool = Pool::new(2);
    let mut random = Random(3);
    for dtype in DType::ALL {
        for (rows, cols) in shapes(dtype) {
            let bytes = weights(dtype, rows, cols, &mut random, dtype != DType::F8E4M3);
            let matrix = pack(dtype, rows, cols, &bytes, &pool);
            let mut ours = vec![0.0; cols];
            let mut theirs = vec![0.0; cols];
            for (row, bytes) in bytes.chunks_exact(bytes.len() / rows).enumerate() {
                matrix.row_to_f32(row, &mut ours);
                dequantize_row(dtype, bytes, &mut theirs).unwrap();
                if dtype == DType::F8E4M3 {
                    theirs.iter_mut().enumerate().for_each(|(i, v)| *v *= 0.5 + (i / 128) as f32);
                }
                assert_same_bits(&ours, &theirs, dtype.name());
            }
        }
    }
}

#[test]
fn weights_packed_over_others_are_as_if_packed_anew() {
    let pool = Pool::new(2);
    let mut random = Random(4);
    for dtype in DType::ALL {
        let (rows, cols) = (37, 2 * dtype.block_len().max(8));
        let other = weights(dtype, rows, cols, &mut random, dtype != DType::F8E4M3);
        let bytes = weights(dtype, rows, cols, &mut random, false);
        let mut matrix = pack(dtype, rows, cols, &other, &pool);
        let scales: &[f32] = if dtype == DType::F8E4M3 { &[2.0] } else { &[] };
        matrix.repack(&bytes, scales, &pool).unwrap();
        let fresh = match dtype {
            DType::F8E4M3 => Matrix::pack_f8(rows, cols, &bytes, scales, &pool).unwrap(),
            _ => Matrix::pack(dtype, rows, cols, &bytes, &pool).unwrap(),
        };
        let x = random.vec(3 * cols);
        let (ours, theirs) = (product(isa(), &pool, &matrix, &x, 3), product(isa(), &pool, &fresh, &x, 3));
        assert_same_bits(&ours, &theirs, dtype.name());
        assert!(matrix.repack(&bytes[1..], scales, &pool).is_err(), "{dtype}");
        assert!(matrix.repack(&bytes, &[1.0, 1.0], &pool).is_err(), "{dtype}");
        assert_same_bits(&product(isa(), &pool, &matrix, &x, 3), &theirs, dtype.name());
    }
}

#[test]
fn products_are_near_the_exact_ones() {
    let pool = Pool::new(2);
    let mut random = Random(5);
    for dtype in DType::ALL {
        let (rows, cols, n) = (37, 512, 9);
        let bytes = weights(dtype, rows, cols, &mut random, false);
        let matrix = pack(dtype, rows, cols, &bytes, &pool);
        let x = random.vec(n * cols);
        let mut row = vec![0.0; cols];
        let mut exact = vec![0.0_f64; n * rows];
        for r in 0..rows {
            matrix.row_to_f32(r, &mut row);
            for c in 0..n {
                exact[c * rows + r] =
                    row.iter().zip(&x[c * cols..]).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            }
        }
        let power: f64 = exact.iter().map(|v| v * v).sum();
        for isa in isas() {
            let y = product(isa, &pool, &matrix, &x, n);
            let error: f64 = y.iter().zip(&exact).map(|(y, e)| (f64::from(*y) - e).powi(2)).sum();
            let relative = (error / power).sqrt();
            // Activations of 8 bits lose half a percent of a group's root mean square, or less.
            let limit = match dtype {
                // Activations lose up to a 512th.
                DType::BF16 => 2e-3,
                dtype if dtype.is_float() => 1e-6,
                _ => 9e-3,
            };
            assert!(relative < limit, "{dtype} {isa}: {relative}");
        }
    }
}

#[test]
fn every_instruction_set_width_and_thread_count_gives_the_same_bits() {
    let pools = [Pool::new(1), Pool::new(3)];
    let mut random = Random(7);
    for dtype in DType::ALL {
        for ((rows, cols), adversarial) in shapes(dtype).into_iter().zip([true, false, true]) {
            let bytes = weights(dtype, rows, cols, &mut random, adversarial);
            let matrix = pack(dtype, rows, cols, &bytes, &pools[1]);
            let n = 13;
            let mut x = random.vec(n * cols);
            // Columns of nothing, of one peak, and of values all at the extremes.
            x[..cols].fill(0.0);
            x[cols] = 1e6;
            x[2 * cols..3 * cols]
                .iter_mut()
                .enumerate()
                .for_each(|(i, x)| *x = if i % 2 == 0 { 3.0 } else { -3.0 });
            let reference: Vec<f32> =
                x.chunks_exact(cols).flat_map(|x| product(Isa::Scalar, &pools[0], &matrix, x, 1)).collect();
            for isa in isas() {
                for pool in &pools {
                    for split in [n, 1, 2, 3, 4, 5, 7] {
                        let y: Vec<f32> = x
                            .chunks(split * cols)
                            .flat_map(|x| product(isa, pool, &matrix, x, x.len() / cols))
                            .collect();
                        assert_same_bits(&y, &reference, &format!("{dtype} {rows}x{cols} {isa} by {split}"));
                    }
                }
            }
        }
    }
}

#[test]
fn products_of_one_call_may_differ_in_everything_but_x() {
    let pool = Pool::new(2);
    let mut random = Random(11);
    let (cols, n) = (512, 7);
    let dtypes = [DType::Q4_K, DType::Q6_K, DType::Q4_0, DType::BF16];
    let matrices: Vec<Matrix> = dtypes
        .into_iter()
        .enumerate()
        .map(|(i, dtype)| {
            let rows = 20 + 30 * i;
            pack(dtype, rows, cols, &weights(dtype, rows, cols, &mut random, false), &pool)
        })
        .collect();
    let x = random.vec(n * cols);
    let bias = random.vec(110);
    let mut results: Vec<Vec<f32>> = matrices.iter().map(|w| vec![2.5; n * w.rows()]).collect();
    let mut products: Vec<Product<'_>> = matrices
        .iter()
        .zip(&mut results)
        .enumerate()
        .map(|(i, (w, y))| Product { w, bias: (i % 2 == 0).then_some(&bias[..w.rows()]), y, add: i > 1 })
        .collect();
    matmul(&pool, &mut Workspace::new(1, 32), &x, n, &mut products);
    for (i, (w, y)) in matrices.iter().zip(&results).enumerate() {
        let plain = product(isa(), &pool, w, &x, n);
        for (at, (y, plain)) in y.iter().zip(&plain).enumerate() {
            let biased = if i % 2 == 0 { plain + bias[at % w.rows()] } else { *plain };
            assert_eq!(*y, if i > 1 { 2.5 + biased } else { biased }, "{}", w.dtype());
        }
    }
}

#[test]
fn a_gated_block_is_its_three_products() {
    let pool = Pool::new(2);
    let mut random = Random(13);
    let (cols, width) = (256, 512);
    for dtype in [DType::F32, DType::Q4_K, DType::Q8_0, DType::IQ2_XS, DType::MXFP4] {
        let mut matrix =
            |rows, cols| pack(dtype, rows, cols, &weights(dtype, rows, cols, &mut random, false), &pool);
        let (gate, up, down) = (matrix(width, cols), matrix(width, cols), matrix(40, width));
        let x = random.vec(9 * cols);
        let mut hidden = product(isa(), &pool, &gate, &x, 9);
        for (hidden, up) in hidden.iter_mut().zip(product(isa(), &pool, &up, &x, 9)) {
            *hidden = *hidden / (1.0 + (-*hidden).exp()) * up;
        }
        let expected = product(isa(), &pool, &down, &hidden, 9);
        let mut ws = Workspace::default();
        let mut all = vec![0.0; 9 * 40];
        gated_mlp(&pool, &mut ws, &x, 9, &gate, &up, &down, &mut all, false);
        for (a, b) in all.iter().zip(&expected) {
            assert!((a - b).abs() <= 0.02 * b.abs().max(10.0), "{dtype}: {a} {b}");
        }
        for isa in isas() {
            let mut single = vec![1.0; 9 * 40];
            for (x, y) in x.chunks_exact(cols).zip(single.chunks_exact_mut(40)) {
                gated_mlp_on(isa, &pool, &mut ws, x, 1, [&gate, &up, &down], y, true);
            }
            let added: Vec<f32> = all.iter().map(|y| 1.0 + y).collect();
            assert_same_bits(&single, &added, &format!("{dtype} {isa}"));
        }
    }
}

#[test]
fn packed_weights_take_no_more_bits_than_the_file_s() {
    let pool = Pool::new(1);
    for dtype in DType::ALL {
        let (rows, cols) = (512, 2048);
        let bytes = vec![0; dtype.row_bytes(cols).unwrap() * rows];
        let matrix = pack(dtype, rows, cols, &bytes, &pool);
        assert!(matrix.bytes() * 100 <= bytes.len() * 103, "{dtype}: {} for {}", matrix.bytes(), bytes.len());
    }
}

#[test]
fn a_nan_activation_shows() {
    let pool = Pool::new(1);
    for dtype in [DType::Q4_K, DType::BF16, DType::F32] {
        let matrix = pack(dtype, 16, 256, &weights(dtype, 16, 256, &mut Random(1), false), &pool);
        for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)] {
            let mut x = vec![1.0; 256];
            x[77] = nan;
            for isa in isas() {
                assert!(product(isa, &pool, &matrix, &x, 1).iter().all(|y| y.is_nan()), "{dtype} {isa}");
            }
        }
    }
}

/// Activations are rounded as the `half` crate rounds them, and BF16 weights are taken as they are.
#[test]
fn bf16_products_are_those_of_rounded_activations() {
    let (pool, mut random) = (Pool::new(1), Random(29));
    let (rows, cols, n) = (19, 1025, 7);
    let bytes = weights(DType::BF16, rows, cols, &mut random, false);
    let matrix = pack(DType::BF16, rows, cols, &bytes, &pool);
    let mut x = random.vec(n * cols);
    // Ties, the largest values, and what becomes infinite.
    for (x, bits) in x.iter_mut().zip([0x3f80_8000, 0x3f81_8000, 0x3f80_7fff, 0xbf80_8001, 0x0000_0000]) {
        *x = f32::from_bits(bits);
    }
    let rounded: Vec<f32> = x.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
    let mut row = vec![0.0; cols];
    let mut expected = vec![0.0; n * rows];
    for r in 0..rows {
        matrix.row_to_f32(r, &mut row);
        for c in 0..n {
            // A stretch of 256 columns at a time, in chains of pairs, the odd column first.
            let stretches = row.chunks(256).zip(rounded[c * cols..][..cols].chunks(256));
            expected[c * rows + r] = stretches.fold(0.0, |total: f32, (w, x)| {
                let mut chains = [0.0_f32; 2];
                for (pair, (w, x)) in w.chunks(2).zip(x.chunks(2)).enumerate() {
                    for (w, x) in w.iter().zip(x).rev() {
                        chains[pair % 2] = w.mul_add(*x, chains[pair % 2]);
                    }
                }
                total + (chains[0] + chains[1])
            });
        }
    }
    for isa in isas() {
        assert_same_bits(&product(isa, &pool, &matrix, &x, n), &expected, isa.name());
    }
    x.fill(f32::MAX);
    assert!(product(isa(), &pool, &matrix, &x, n).iter().all(|y| !y.is_finite()), "they become infinite");
}

#[test]
fn damaged_weights_are_errors() {
    let pool = Pool::new(1);
    assert!(matches!(Matrix::pack(DType::Q4_K, 0, 256, &[], &pool), Err(KernelError::BadShape { .. })));
    assert!(matches!(Matrix::pack(DType::Q4_K, 1, 255, &[], &pool), Err(KernelError::PartialBlock { .. })));
    assert!(matches!(
        Matrix::pack(DType::Q4_K, 1, 256, &[0; 143], &pool),
        Err(KernelError::WrongLength { .. })
    ));
    for dtype in DType::ALL.into_iter().filter(|dtype| !dtype.is_float() && *dtype != DType::Q8_K) {
        let cols = dtype.block_len();
        let mut bytes = weights(dtype, 20, cols, &mut Random(17), true);
        assert!(Matrix::pack(dtype, 20, cols, &bytes, &pool).is_ok());
        assert!(Matrix::pack(dtype, 20, cols, &bytes[1..], &pool).is_err());
        for (half, row) in [(0x7c00, 19), (0xfe01, 17)] {
            let block = &mut bytes[row * dtype.block_bytes()..][..dtype.block_bytes()];
            set_scales(dtype, block, half);
            if dtype == DType::MXFP4 {
                block[0] = 255;
            }
            let error = Matrix::pack(dtype, 20, cols, &bytes, &pool).map(|_| ());
            assert_eq!(error, Err(KernelError::NotFinite { dtype, row }));
        }
    }
    let overflow = Matrix::pack(DType::F32, usize::MAX / 2, 1 << 20, &[], &pool);
    assert!(matches!(overflow, Err(KernelError::BadShape { .. })));
    assert!(matches!(Matrix::pack(DType::F8E4M3, 1, 1, &[0], &pool), Err(KernelError::BadScales { .. })));
    assert!(matches!(Matrix::pack_f8(1, 1, &[0x7f], &[1.0], &pool), Err(KernelError::NotFinite { .. })));
    assert!(matches!(Matrix::pack_f8(1, 1, &[0], &[], &pool), Err(KernelError::BadScales { .. })));
    assert!(matches!(Matrix::pack_f8(1, 1, &[0], &[f32::NAN], &pool), Err(KernelError::BadScales { .. })));
}
