//! Every instruction set does the same, bit for bit, and the exponentials are as exact as they say.

use super::*;

/// All sets of instructions that this machine has.
pub(crate) fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| crate::cpu_features().supports(*isa)).collect()
}

/// Numbers that have broken kernels before, and ordinary ones.
fn samples() -> Vec<f32> {
    let mut samples = vec![
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        2.5,
        -2.5,
        126.0,
        -126.0,
        127.0,
        128.0,
        -127.0,
        1e-40,
        -1e-40,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        88.0,
        89.0,
        -87.0,
        -87.4,
        -103.0,
        65504.0,
        65536.0,
        1e-8,
    ];
    samples.extend((0..996).map(|i| ((i as f32) * 0.37 - 150.0) * 0.81));
    samples
}

struct Everything<'a>(&'a [f32]);

impl Kernel for Everything<'_> {
    type Output = Vec<u32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<u32> {
        let mut out = Vec::new();
        for (a, b) in self.0.chunks_exact(LANES).zip(self.0.chunks_exact(LANES).rev()) {
            let (a, b) = (s.load_slice(a, 0.0), s.load_slice(b, 0.0));
            let results = [
                s.add(a, b),
                s.sub(a, b),
                s.mul(a, b),
                s.div(a, b),
                s.mul_add(a, b, a),
                s.max(a, b),
                s.min(a, b),
                s.select_less(a, b, a, b),
                s.round(a),
                s.exp2(a),
                s.exp(b),
            ];
            for x in results {
                out.extend(s.to_array(x).map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }));
            }
            out.push(s.sum(s.exp(a)).to_bits() & if s.sum(s.exp(a)).is_nan() { 0 } else { u32::MAX });
            out.push(u32::from(s.any_greater(a, b)));
            let bytes = s.min(s.splat(127.0), s.max(s.splat(-127.0), s.round(a)));
            let mut quants = [0_i8; LANES];
            // SAFETY: the array has 16 values.
            unsafe {
                s.store_i8(quants.as_mut_ptr(), s.select_less(bytes, s.splat(128.0), bytes, s.splat(0.0)))
            };
            out.extend(quants.map(|quant| u32::from(quant.cast_unsigned())));
            let largest = s.largest(s.select_less(a, s.splat(f32::INFINITY), a, s.splat(-1e9)));
            out.push(largest.to_bits());
            let mut half = [0_u16; LANES];
            // SAFETY: the array has 16 values.
            let wide = unsafe {
                s.store_f16(half.as_mut_ptr(), s.min(s.splat(65504.0), a));
                s.load_f16(half.as_ptr())
            };
            out.extend(s.to_array(wide).map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }));
        }
        let mut rows: [S::F; LANES] = std::array::from_fn(|i| s.load_slice(&self.0[i * LANES..], 0.0));
        s.transpose(&mut rows);
        for (i, row) in rows.into_iter().enumerate() {
            for (j, x) in s.to_array(row).into_iter().enumerate() {
                assert_eq!(x.to_bits(), self.0[j * LANES + i].to_bits());
            }
        }
        out
    }
}

#[test]
fn all_instruction_sets_agree_bit_for_bit() {
    let samples = samples();
    let scalar = dispatch_on(Isa::Scalar, Everything(&samples));
    for isa in isas() {
        let other = dispatch_on(isa, Everything(&samples));
        for (i, (a, b)) in scalar.iter().zip(&other).enumerate() {
            assert_eq!(a, b, "{isa}, result {i}");
        }
    }
}

struct Dots<'a>(&'a [u8], &'a [[i16; 4]]);

impl Kernel for Dots<'_> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; LANES] {
        let mut sums = s.zero_sums();
        let bias = 128 * self.1.iter().flatten().map(|q| i32::from(*q)).sum::<i32>();
        for (bytes, q) in self.0.chunks_exact(64).zip(self.1) {
            let q = s.query_quad(*q);
            // SAFETY: the chunk has 64 bytes and the array two words.
            sums = unsafe { s.dot_quads(sums, s.load_quads(bytes.as_ptr()), q.as_ptr()) };
        }
        s.to_array(s.centred_sums(sums, bias))
    }
}

#[test]
fn integer_dots_are_exact_at_the_extremes() {
    for extreme in [32639, -32639, 127, -128, 128, -129, 0, 1] {
        let bytes: Vec<u8> = (0..512).map(|i| if i % 7 == 0 { 255 } else { (i * 31 % 256) as u8 }).collect();
        let q: Vec<[i16; 4]> = (0..8).map(|i| [extreme, i * 1000, -extreme, extreme]).collect();
        let want: [f32; LANES] = std::array::from_fn(|lane| {
            let mut sum = 0_i64;
            for (quad, q) in q.iter().enumerate() {
                for j in 0..4 {
                    sum += (i64::from(bytes[quad * 64 + lane * 4 + j]) - 128) * i64::from(q[j]);
                }
            }
            sum as f32
        });
        for isa in isas() {
            assert_eq!(dispatch_on(isa, Dots(&bytes, &q)), want, "{isa} with {extreme}");
        }
    }
}

struct Exps(f32);

impl Kernel for Exps {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f32) {
        let x = s.splat(self.0);
        (s.to_array(s.exp(x))[0], s.to_array(s.exp2(x))[0])
    }
}

#[test]
fn exponentials_are_within_two_parts_in_ten_million() {
    for i in -87_000..88_000 {
        let x = i as f32 * 0.001 + 0.000_3;
        let (exp, exp2) = dispatch(Exps(x));
        let (want, want2) = (f64::from(x).exp(), f64::from(x).exp2());
        assert!((f64::from(exp) / want - 1.0).abs() < 2e-7, "exp({x}) = {exp}");
        assert!((f64::from(exp2) / want2 - 1.0).abs() < 2e-7, "exp2({x}) = {exp2}");
    }
    assert_eq!(dispatch(Exps(0.0)), (1.0, 1.0));
    assert_eq!(dispatch(Exps(f32::NEG_INFINITY)), (0.0, 0.0));
    assert_eq!(dispatch(Exps(-1e30)), (0.0, 0.0));
    let (exp, exp2) = dispatch(Exps(f32::INFINITY));
    assert!(exp > 1e38 && exp2 > 1e38);
    assert!(dispatch(Exps(f32::NAN)).0.is_nan() && dispatch(Exps(f32::NAN)).1.is_nan());
}
