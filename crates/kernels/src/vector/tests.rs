//! Norms, activations and scans against plain arithmetic in f64.

use super::*;

fn noise(len: usize, scale: f32) -> Vec<f32> {
    let mut state = 0x9e37_79b9_u32 ^ len as u32;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state as f32 / u32::MAX as f32 - 0.5) * scale
        })
        .collect()
}

fn assert_near(got: &[f32], want: impl IntoIterator<Item = f64>, relative: f64) {
    let mut n = 0;
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= relative * want.abs() + 1e-37, "value {index}: {got} for {want}");
        n += 1;
    }
    assert_eq!(n, got.len());
}

#[test]
fn norms_are_right_and_alike_for_any_split() {
    for (n, dim) in [(1, 1), (3, 17), (2, 896), (300, 130), (70, 2048)] {
        let x = noise(n * dim, 6.0);
        let weight = noise(dim, 2.0);
        let mut y = vec![0.0; n * dim];
        rms_norm(&Pool::new(1), &x, n, &weight, 1e-6, &mut y);
        let want = x.chunks(dim).flat_map(|row| {
            let squares: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let scale = 1.0 / (squares / dim as f64 + 1e-6).sqrt();
            row.iter().zip(&weight).map(move |(x, w)| f64::from(*x) * scale * f64::from(*w))
        });
        assert_near(&y, want, 1e-6);
        let mut again = x.clone();
        rms_norm_in_place(&Pool::new(3), &mut again, n, &weight, 1e-6);
        assert_eq!(y, again);
        rms_norm(&Pool::new(1), &x[dim * (n - 1)..], 1, &weight, 1e-6, &mut again[..dim]);
        assert_eq!(again[..dim], y[dim * (n - 1)..]);
    }
}

#[test]
fn silu_and_sigmoid_are_right_to_the_last_digits() {
    for len in [1, 15, 16, 100, 40_000] {
        let mut gate = noise(len, 60.0);
        gate[0] = -87.9;
        let up = noise(len, 4.0);
        let mut y = vec![0.0; len];
        silu_mul(&Pool::new(2), &gate, &up, &mut y);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        assert_near(&y, gate.iter().zip(&up).map(|(g, u)| silu(f64::from(*g)) * f64::from(*u)), 4e-7);
        sigmoid(&mut gate);
        assert!(gate.iter().all(|x| (0.0..=1.0).contains(x)));
    }
    let mut x = [0.0, 1.0, -1.0, 100.0, -100.0, -3e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let gate = x;
    sigmoid(&mut x);
    assert_near(&x[..4], [0.5, 1.0 / (1.0 + (-1.0_f64).exp()), 1.0 / (1.0 + 1.0_f64.exp()), 1.0], 4e-7);
    assert_eq!(x[4..8], [0.0, 0.0, 1.0, 0.0]);
    assert!(x[8].is_nan());
    let mut y = [1.0; 9];
    silu_mul(&Pool::new(1), &gate, &[1.0; 9], &mut y);
    assert_eq!((y[3], y[4], y[5], y[6]), (100.0, 0.0, 0.0, f32::INFINITY));
}

#[test]
fn add_adds() {
    for len in [0, 5, 100_003] {
        let (x, mut y) = (noise(len, 3.0), noise(len, 1.0));
        let want: Vec<f32> = x.iter().zip(&y).map(|(x, y)| y + x).collect();
        add(&Pool::new(2), &mut y, &x);
        assert_eq!(y, want);
    }
}

#[test]
fn softmax_is_a_distribution() {
    for len in [1, 16, 1000, 152_064] {
        let mut x = noise(len, 30.0);
        let largest = x.iter().copied().fold(f32::MIN, f32::max);
        let powers: Vec<f64> = x.iter().map(|x| (f64::from(*x) - f64::from(largest)).exp()).collect();
        let total: f64 = powers.iter().sum();
        let want = total.ln() + f64::from(largest);
        assert!((f64::from(log_sum_exp(&x)) - want).abs() < 1e-6 * want.abs().max(1.0));
        softmax(&mut x);
        assert_near(&x, powers.iter().map(|power| power / total), 2e-6);
    }
    softmax(&mut []);
    assert_eq!(log_sum_exp(&[]), f32::NEG_INFINITY);
    let mut masked = [f32::NEG_INFINITY, 3.0, f32::NEG_INFINITY];
    softmax(&mut masked);
    assert_eq!(masked, [0.0, 1.0, 0.0]);
}

#[test]
fn the_largest_are_found() {
    assert_eq!(argmax(&[]), None);
    assert_eq!(argmax(&[f32::NAN]), None);
    assert_eq!(argmax(&[f32::NEG_INFINITY]), Some(0));
    assert_eq!(argmax(&[1.0, f32::NAN, 7.0, 7.0]), Some(2));
    assert_eq!(max(&[]), f32::NEG_INFINITY);
    for len in [1, 17, 1000, 152_064] {
        let mut x = noise(len, 10.0);
        x[len / 2] = f32::NAN;
        for i in (0..len).step_by(9) {
            // Many equal values.
            x[i] = (x[i] * 2.0).round();
        }
        let mut want: Vec<(u32, f32)> =
            x.iter().enumerate().filter(|(_, x)| !x.is_nan()).map(|(i, x)| (i as u32, *x)).collect();
        want.sort_by(best_first_by_hand);
        assert_eq!(argmax(&x), want.first().map(|(i, _)| *i as usize));
        let mut out = Vec::new();
        for k in [0, 1, 5, 64, 1000, len, usize::MAX] {
            top_k(&x, k, &mut out);
            assert_eq!(out, want[..k.min(want.len())], "{k} of {len}");
        }
    }
    // Every next value is a new record, and none is.
    let rising: Vec<f32> = (0..5000_u16).map(f32::from).collect();
    let falling: Vec<f32> = rising.iter().map(|x| -x).collect();
    let mut out = Vec::new();
    top_k(&rising, 3, &mut out);
    assert_eq!(out, [(4999, 4999.0), (4998, 4998.0), (4997, 4997.0)]);
    top_k(&falling, 2, &mut out);
    assert_eq!(out, [(0, 0.0), (1, -1.0)]);
    top_k(&[f32::NEG_INFINITY; 40], 2, &mut out);
    assert_eq!(out, [(0, f32::NEG_INFINITY), (1, f32::NEG_INFINITY)]);
}

fn best_first_by_hand(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0))
}
