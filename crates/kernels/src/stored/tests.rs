use std::sync::Mutex;

use super::*;
use crate::matmul::gated_mlp_on;
use crate::matmul::tests::{Random, assert_same_bits, isas, pack, product, shapes, weights};
use crate::{DType, ExpertStack, Matrix, Pool, Product, Routing, Workspace, dequantize_row, matmul, moe_mlp};

/// Bytes in memory, and what was let go of them.
#[derive(Debug)]
struct Bytes {
    bytes: Vec<u8>,
    gone: Mutex<Vec<Range<usize>>>,
}

impl StoredWeights for Bytes {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn let_go(&self, part: Range<usize>) {
        self.gone.lock().unwrap().push(part);
    }
}

fn bytes(bytes: &[u8]) -> Arc<Bytes> {
    Arc::new(Bytes { bytes: bytes.to_vec(), gone: Mutex::default() })
}

pub(crate) fn stored(dtype: DType, rows: usize, cols: usize, data: &[u8]) -> Matrix {
    let count = if dtype == DType::F8E4M3 { rows.div_ceil(128) * cols.div_ceil(128) } else { 0 };
    let scales = (0..count).map(|i| 0.5 + i as f32).collect();
    Matrix::stored(dtype, rows, cols, bytes(data), scales).unwrap()
}

pub(crate) fn pack_all(matrix: &mut Matrix, pool: &Pool) {
    while matrix.unpacked_bytes() > 0 {
        matrix.pack_next(pool).unwrap();
    }
}

#[test]
fn products_and_rows_are_the_same_before_and_after_packing() {
    let pool = Pool::new(3);
    let mut random = Random(41);
    for dtype in DType::ALL {
        for (rows, cols) in shapes(dtype) {
            let data = weights(dtype, rows, cols, &mut random, dtype != DType::F8E4M3);
            let packed = pack(dtype, rows, cols, &data, &pool);
            let mut matrix = stored(dtype, rows, cols, &data);
            assert_eq!((matrix.unpacked_bytes(), matrix.bytes()), (data.len(), packed.bytes()));
            let (mut ours, mut theirs) = (vec![0.0; cols], vec![0.0; cols]);
            for row in 0..rows {
                matrix.row_to_f32(row, &mut ours);
                packed.row_to_f32(row, &mut theirs);
                assert_same_bits(&ours, &theirs, dtype.name());
            }
            for n in [1, 3, 9, 40] {
                let x = random.vec(n * cols);
                for isa in isas() {
                    let expected = product(isa, &pool, &packed, &x, n);
                    assert_same_bits(&product(isa, &pool, &matrix, &x, n), &expected, dtype.name());
                }
            }
            pack_all(&mut matrix, &pool);
            assert_eq!(matrix.unpacked_bytes(), 0);
            let x = random.vec(cols);
            let isa = crate::isa();
            let expected = product(isa, &pool, &packed, &x, 1);
            assert_same_bits(&product(isa, &pool, &matrix, &x, 1), &expected, dtype.name());
        }
    }
}

#[test]
fn feed_forward_blocks_are_the_same_whichever_of_their_matrices_are_packed() {
    let pool = Pool::new(2);
    let mut random = Random(42);
    let (cols, width) = (512, 300);
    // Formats of different sizes, so that their panels have no size in common.
    let kinds = [(DType::Q4_K, width, cols), (DType::Q8_0, width, cols), (DType::BF16, cols, width)];
    let data = kinds.map(|(dtype, rows, cols)| weights(dtype, rows, cols, &mut random, false));
    let matrices = |which: usize| -> [Matrix; 3] {
        std::array::from_fn(|i| {
            let (dtype, rows, cols) = kinds[i];
            let mut matrix = stored(dtype, rows, cols, &data[i]);
            if which & 1 << i != 0 {
                pack_all(&mut matrix, &pool);
            }
            matrix
        })
    };
    for isa in isas() {
        for n in [1, 2, 50, 700] {
            let x = random.vec(n * cols);
            let mut ws = Workspace::default();
            let mut expected = vec![f32::NAN; n * cols];
            let [gate, up, down] = &matrices(7);
            gated_mlp_on(isa, &pool, &mut ws, &x, n, [gate, up, down], &mut expected, false);
            for which in [0, 1, 2, 5] {
                let [gate, up, down] = &matrices(which);
                let mut y = vec![f32::NAN; n * cols];
                gated_mlp_on(isa, &pool, &mut ws, &x, n, [gate, up, down], &mut y, false);
                assert_same_bits(&y, &expected, &format!("{isa}, {n} rows, packed {which:b}"));
            }
            assert_eq!(ws.take_failure(), None);
        }
    }
}

#[test]
fn experts_are_the_same_whichever_of_them_are_packed() {
    let pool = Pool::new(2);
    let mut random = Random(43);
    let (count, cols, width, n) = (5, 256, 96, 20);
    let shapes = [(width, cols), (width, cols), (cols, width)];
    let data: Vec<Vec<Vec<u8>>> = (shapes.iter())
        .map(|&(rows, cols)| {
            (0..count).map(|_| weights(DType::Q8_0, rows, cols, &mut random, false)).collect()
        })
        .collect();
    let stacks = |packed: &dyn Fn(usize) -> bool| -> [ExpertStack; 3] {
        std::array::from_fn(|i| {
            let (rows, cols) = shapes[i];
            let experts = data[i].iter().enumerate().map(|(expert, data)| {
                let mut matrix = stored(DType::Q8_0, rows, cols, data);
                if packed(expert) {
                    pack_all(&mut matrix, &pool);
                }
                matrix
            });
            ExpertStack::new(experts.collect()).unwrap()
        })
    };
    let x = random.vec(n * cols);
    let experts: Vec<u32> = (0..n).flat_map(|_| [random.next() % 2, 2 + random.next() % 3]).collect();
    let weights: Vec<f32> = random.vec(2 * n);
    let routing = Routing { per_row: 2, experts: &experts, weights: &weights };
    let mut ws = Workspace::default();
    let mut mixture = |stacks: [ExpertStack; 3]| {
        let mut y = vec![f32::NAN; n * cols];
        let [gate, up, down] = &stacks;
        moe_mlp(&pool, &mut ws, &x, &routing, [gate, up, down], &mut y, false);
        y
    };
    let expected = mixture(stacks(&|_| true));
    assert_same_bits(&mixture(stacks(&|_| false)), &expected, "none packed");
    let mut some = stacks(&|expert| expert == 3);
    assert_same_bits(&mixture(stacks(&|expert| expert == 3)), &expected, "one packed");
    for stack in &mut some {
        stack.iter_mut().for_each(|matrix| pack_all(matrix, &pool));
    }
    assert_same_bits(&mixture(some), &expected, "packed one by one");
}

#[test]
fn large_weights_are_packed_in_parts_that_cover_them() {
    let pool = Pool::new(2);
    let (cols, bytes_a_row) = (32_768, 32_768 / 32 * 34);
    // More than two parts, and the last panel is not full.
    let rows = (40 << 20) / bytes_a_row + 3;
    let mut data: Vec<u8> = (0..rows * bytes_a_row).map(|i| (i / 7) as u8).collect();
    for block in data.chunks_exact_mut(34) {
        block[..2].copy_from_slice(&[0, 0x2c]);
    }
    let x = Random(44).vec(cols);
    let whole = pack(DType::Q8_0, rows, cols, &data, &pool);
    let expected = product(crate::isa(), &pool, &whole, &x, 1);
    let file = bytes(&data);
    let mut matrix = Matrix::stored(DType::Q8_0, rows, cols, file.clone(), Vec::new()).unwrap();
    let (mut parts, mut gone) = (0, 0);
    while matrix.unpacked_bytes() > 0 {
        matrix.pack_next(&pool).unwrap();
        parts += 1;
        for part in file.gone.lock().unwrap().drain(..) {
            assert_eq!(part.start, gone, "one after the other");
            gone = part.end;
        }
        assert_eq!(matrix.unpacked_bytes(), data.len() - gone);
        assert_same_bits(&product(crate::isa(), &pool, &matrix, &x, 1), &expected, "packed in part");
    }
    assert_eq!((parts, gone), (3, data.len()));
    let (mut out, mut expected) = (vec![0.0; cols], vec![0.0; cols]);
    for (row, bytes) in data.chunks_exact(bytes_a_row).enumerate() {
        matrix.row_to_f32(row, &mut out);
        dequantize_row(DType::Q8_0, bytes, &mut expected).unwrap();
        assert_eq!(out, expected, "row {row}");
    }
    // The row that an error names counts from the first part.
    data[(rows - 2) * bytes_a_row + 1] = 0x7c;
    let error = Matrix::pack(DType::Q8_0, rows, cols, &data, &pool).unwrap_err();
    assert!(matches!(error, KernelError::NotFinite { row, .. } if row == rows - 2), "{error}");
    let mut matrix = Matrix::stored(DType::Q8_0, rows, cols, bytes(&data), Vec::new()).unwrap();
    let error = std::iter::repeat_with(|| matrix.pack_next(&pool)).find_map(Result::err).unwrap();
    assert!(matches!(error, KernelError::NotFinite { row, .. } if row == rows - 2), "{error}");
}

#[test]
fn a_product_with_weights_that_are_no_numbers_is_known_to_be_void() {
    let pool = Pool::new(2);
    for (dtype, at, value) in [(DType::Q4_0, 1, 0x7c), (DType::MXFP4, 0, 0xff), (DType::F8E4M3, 7, 0xff)] {
        let (rows, cols) = (70, 256);
        let mut data = weights(dtype, rows, cols, &mut Random(45), false);
        let row_bytes = data.len() / rows;
        data[37 * row_bytes + at] = value;
        let mut matrix = stored(dtype, rows, cols, &data);
        for n in [1, 20] {
            let x = Random(46).vec(n * cols);
            let mut ws = Workspace::default();
            let mut y = vec![0.0; n * rows];
            let product = Product { w: &matrix, bias: None, y: &mut y, add: false };
            matmul(&pool, &mut ws, &x, n, &mut [product]);
            assert_eq!(ws.take_failure(), Some(KernelError::NotFinite { dtype, row: 37 }));
            assert_eq!(ws.take_failure(), None, "told once");
        }
        assert_eq!(matrix.pack_next(&pool), Err(KernelError::NotFinite { dtype, row: 37 }));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let data = vec![0; DType::Q4_0.row_bytes(64).unwrap() * 3];
    let make = |rows, cols, scales| Matrix::stored(DType::Q4_0, rows, cols, bytes(&data), scales);
    assert!(make(3, 64, Vec::new()).is_ok());
    assert!(matches!(make(3, 64, vec![1.0]), Err(KernelError::BadScales { .. })));
    assert!(matches!(make(4, 64, Vec::new()), Err(KernelError::WrongLength { .. })));
    assert!(matches!(make(0, 64, Vec::new()), Err(KernelError::BadShape { .. })));
    assert!(matches!(make(3, 63, Vec::new()), Err(KernelError::PartialBlock { .. })));
    let f8 = |scales| Matrix::stored(DType::F8E4M3, 3, 36, bytes(&data), scales);
    assert!(f8(vec![1.0]).is_ok());
    for scales in [Vec::new(), vec![1.0, 1.0], vec![f32::NAN]] {
        assert!(matches!(f8(scales), Err(KernelError::BadScales { .. })));
    }
}
