//! Passes over a whole row of logits, written in lanes so that the compiler can vectorise them.
//!
//! Sums run in a fixed order, so that the same logits give the same result everywhere.

const LANES: usize = 16;
/// Sums are kept in f32 this long and then added to an f64, so that the error does not grow with the vocabulary.
pub(super) const SUM_BLOCK: usize = 1024;

/// Whether no entry is infinite or not a number.
pub(crate) fn all_finite(logits: &[f32]) -> bool {
    // x·0 is 0 for a finite x and not a number otherwise; one sum carries that to the end.
    let mut lanes = [0.0_f32; LANES];
    let mut chunks = logits.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * 0.0;
        }
    }
    lanes.iter().sum::<f32>() + chunks.remainder().iter().map(|x| x * 0.0).sum::<f32>() == 0.0
}

/// The greatest entry, or −∞ when there is none.
pub(super) fn max(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = logits.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(chunks.remainder()).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// The least entry above −∞, or ∞ where there is none.
pub(super) fn least_finite(logits: &[f32]) -> f32 {
    let mut lanes = [f32::INFINITY; LANES];
    let mut chunks = logits.chunks_exact(LANES);
    let least = |a: f32, b: f32| if b < a && b > f32::NEG_INFINITY { b } else { a };
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = least(*lane, x);
        }
    }
    lanes.iter().chain(chunks.remainder()).fold(f32::INFINITY, |a, &b| least(a, b))
}

/// How many entries are at least `threshold`.
pub(super) fn count_at_least(logits: &[f32], threshold: f32) -> usize {
    let mut lanes = [0_u32; LANES];
    let mut chunks = logits.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += u32::from(x >= threshold);
        }
    }
    let rest = chunks.remainder().iter().filter(|&&x| x >= threshold).count();
    lanes.iter().map(|&lane| lane as usize).sum::<usize>() + rest
}

/// The first index of the greatest entry; `None` when every entry is −∞.
pub(super) fn argmax(logits: &[f32]) -> Option<u32> {
    let greatest = max(logits);
    if greatest == f32::NEG_INFINITY {
        return None;
    }
    logits.iter().position(|&x| x == greatest).map(|index| index as u32)
}

/// ln Σ exp(x).
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let greatest = max(logits);
    let mut sum = 0.0;
    for block in logits.chunks(SUM_BLOCK) {
        sum += sum_exp(block, greatest, 1.0);
    }
    f64::from(greatest) + sum.ln()
}

/// Σ exp((x − `shift`)·`scale`) over at most [`SUM_BLOCK`] entries. `shift` is at least every entry.
pub(super) fn sum_exp(block: &[f32], shift: f32, scale: f32) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let mut chunks = block.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += exp_nonpositive((x - shift) * scale);
        }
    }
    let mut sum: f64 = lanes.iter().map(|&lane| f64::from(lane)).sum();
    for &x in chunks.remainder() {
        sum += f64::from(exp_nonpositive((x - shift) * scale));
    }
    sum
}

/// exp(x) for x ≤ 0, with a relative error below 2⁻²¹; 0 below −87.
///
/// Written out because the library's function does not vectorise: x = n·ln 2 + r with |r| ≤ ln 2 / 2, then the
/// Taylor polynomial of r to the sixth power, then 2ⁿ through the exponent bits.
pub(super) fn exp_nonpositive(x: f32) -> f32 {
    // Adding 1.5·2²³ leaves the rounded integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with few enough bits that n times it is exact.
    let r = clamped - n * 0.693_359_4;
    let r = r + n * 2.121_944_4e-4;
    let mut p = 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    // The low byte and more of `shifted` hold n in two's complement; n ≥ −126, so the exponent stays normal.
    let exponent = (shifted.to_bits() << 23).wrapping_add(127 << 23);
    let value = p * f32::from_bits(exponent);
    if x < -87.0 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_library() {
        let mut x = 0.0_f32;
        while x > -87.0 {
            let (ours, exact) = (f64::from(exp_nonpositive(x)), f64::from(x).exp());
            assert!((ours / exact - 1.0).abs() < 4.8e-7, "{x}: {ours} {exact}");
            x -= 0.003_7;
        }
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(-88.0), 0.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn scans_see_every_entry() {
        for n in [1, 15, 16, 17, 1023, 1025, 3000] {
            for at in [0, n / 2, n - 1] {
                let mut row: Vec<f32> = (0..n).map(|i| -((i % 7) as f32)).collect();
                row[at] = 3.0;
                assert_eq!(argmax(&row), Some(at as u32));
                assert!(all_finite(&row));
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    row[at] = bad;
                    assert!(!all_finite(&row), "{n} {at} {bad}");
                }
            }
        }
        assert_eq!(argmax(&[1.0, 2.0, 2.0]), Some(1));
        assert_eq!(argmax(&[f32::NEG_INFINITY; 4]), None);
    }

    #[test]
    fn log_sum_exp_agrees_with_f64() {
        let row: Vec<f32> = (0..5000).map(|i| ((i * 37) % 1001) as f32 * 0.02 - 10.0).collect();
        let exact = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        assert!((log_sum_exp(&row) - exact).abs() < 1e-6);
    }
}
