use super::*;
use crate::matmul::tests::{Random, weights};
use crate::{cpu_features, gated_mlp};

fn stack(
    dtype: DType,
    count: usize,
    rows: usize,
    cols: usize,
    random: &mut Random,
    pool: &Pool,
) -> ExpertStack {
    let bytes = weights(dtype, count * rows, cols, random, false);
    ExpertStack::pack(dtype, count, rows, cols, &bytes, pool).unwrap()
}

#[test]
fn a_mixture_is_the_weighted_sum_of_its_experts_whatever_the_batch() {
    let pool = Pool::new(2);
    let mut random = Random(21);
    let (count, cols, width, per_row, n) = (9, 256, 512, 3, 40);
    for (first, second) in [
        (DType::Q4_K, DType::Q6_K),
        (DType::BF16, DType::BF16),
        (DType::Q8_0, DType::Q5_1),
        (DType::IQ1_S, DType::IQ2_XXS),
        (DType::MXFP4, DType::IQ3_S),
    ] {
        let gate = stack(first, count, width, cols, &mut random, &pool);
        let up = stack(first, count, width, cols, &mut random, &pool);
        let down = stack(second, count, 70, width, &mut random, &pool);
        let x = random.vec(n * cols);
        let weights: Vec<f32> = (0..n * per_row).map(|_| random.normal()).collect();
        // Expert 4 gets every row, expert 8 none, and the others what chance gives them.
        let experts: Vec<u32> = (0..n).flat_map(|_| [random.next() % 4, 4, 5 + random.next() % 3]).collect();
        let routing = Routing { per_row, experts: &experts, weights: &weights };
        let mut ws = Workspace::default();
        let mut all = vec![0.5; n * 70];
        moe_mlp(&pool, &mut ws, &x, &routing, [&gate, &up, &down], &mut all, true);
        let mut one = vec![0.0; 70];
        for row in 0..n {
            let x = &x[row * cols..][..cols];
            let mut expected = vec![0.0_f32; 70];
            for slot in row * per_row..(row + 1) * per_row {
                let e = experts[slot] as usize;
                let [g, u, d] = [&gate, &up, &down].map(|stack| stack.get(e).unwrap());
                gated_mlp(&pool, &mut ws, x, 1, g, u, d, &mut one, false);
                expected.iter_mut().zip(&one).for_each(|(sum, one)| *sum += weights[slot] * one);
            }
            expected.iter_mut().for_each(|sum| *sum += 0.5);
            assert_eq!(expected, all[row * 70..][..70], "{first} row {row}");
        }
        for isa in Isa::ALL.into_iter().filter(|isa| cpu_features().supports(*isa)) {
            for (row, x) in x.chunks_exact(cols).enumerate() {
                // The experts of a row may come in any order.
                let slots = row * per_row..(row + 1) * per_row;
                let (mut experts, mut weights) = (experts[slots.clone()].to_vec(), weights[slots].to_vec());
                experts.rotate_left(row % per_row);
                weights.rotate_left(row % per_row);
                let routing = Routing { per_row, experts: &experts, weights: &weights };
                one.fill(0.5);
                moe_mlp_on(isa, &pool, &mut ws, x, &routing, [&gate, &up, &down], &mut one, true);
                assert_eq!(one, all[row * 70..][..70], "{first} {isa} row {row}");
            }
        }
    }
}

#[test]
fn unequal_experts_are_refused() {
    let pool = Pool::new(1);
    let matrix = |rows| Matrix::pack(DType::F32, rows, 2, &vec![0; rows * 8], &pool).unwrap();
    let error = ExpertStack::new(vec![matrix(2), matrix(2), matrix(3)]).map(|_| ());
    assert_eq!(error, Err(KernelError::UnequalExperts { index: 2 }));
    assert!(ExpertStack::pack(DType::Q4_K, 2, 1, 256, &[0; 287], &pool).is_err());
    assert!(ExpertStack::pack(DType::Q4_K, usize::MAX, 2, 256, &[0; 288], &pool).is_err());
}
