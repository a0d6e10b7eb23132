//! Rotations against the definition, in both styles, at large positions and partial widths.

use super::*;

fn inv_freq(dim: usize, theta: f64) -> Vec<f64> {
    (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64)).collect()
}

fn sample(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect()
}

fn reference(
    x: &[f32],
    freqs: &[f64],
    style: RopeStyle,
    factor: f64,
    offset: usize,
    position: u32,
) -> Vec<f64> {
    let mut y: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    for (i, freq) in freqs.iter().enumerate() {
        let (a, b) = match style {
            RopeStyle::HalfSplit => (i, i + freqs.len()),
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
        };
        let (sin, cos) = (f64::from(position) * freq).sin_cos();
        let (x, z) = (y[offset + a], y[offset + b]);
        y[offset + a] = factor * (x * cos - z * sin);
        y[offset + b] = factor * (x * sin + z * cos);
    }
    y
}

#[test]
fn turns_as_defined() {
    let pool = Pool::new(2);
    for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
        for (dim, head_dim, offset, heads) in
            [(64, 64, 0, 3), (64, 192, 128, 2), (20, 32, 0, 1), (256, 256, 0, 2)]
        {
            for factor in [1.0_f32, 1.25] {
                let freqs = inv_freq(dim, 500_000.0);
                let table = RopeTable::new(&freqs, 131_072, factor, style);
                assert_eq!((table.dim(), table.max_positions()), (dim, 131_072));
                let positions = [0, 1, 255, 256, 257, 4095, 100_003, 131_071];
                let x = sample(positions.len() * heads * head_dim);
                let mut y = x.clone();
                table.apply(&pool, &mut y, heads, head_dim, offset, &positions);
                for (index, (x, y)) in x.chunks(head_dim).zip(y.chunks(head_dim)).enumerate() {
                    let want = reference(x, &freqs, style, factor.into(), offset, positions[index / heads]);
                    for (got, want) in y.iter().zip(want) {
                        assert!((f64::from(*got) - want).abs() < 2e-6, "{style:?} {index}: {got} for {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn many_rows_in_parallel_turn_like_each_alone() {
    let table = RopeTable::new(&inv_freq(128, 10_000.0), 5000, 1.0, RopeStyle::HalfSplit);
    let positions: Vec<u32> = (0..300).map(|i| i * 13 % 5000).collect();
    let x = sample(300 * 4 * 128);
    let mut together = x.clone();
    table.apply(&Pool::new(3), &mut together, 4, 128, 0, &positions);
    for (row, position) in positions.iter().enumerate() {
        let mut alone = x[row * 512..(row + 1) * 512].to_vec();
        table.apply(&Pool::new(1), &mut alone, 4, 128, 0, &[*position]);
        assert_eq!(alone, together[row * 512..(row + 1) * 512]);
    }
}

#[test]
#[should_panic(expected = "beyond the table")]
fn a_position_beyond_the_table_is_refused() {
    let table = RopeTable::new(&inv_freq(8, 10_000.0), 10, 1.0, RopeStyle::HalfSplit);
    table.apply(&Pool::new(1), &mut [0.0; 8], 1, 8, 0, &[10]);
}
