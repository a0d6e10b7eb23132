//! The loops that are timed, in the widest form the machine has.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "aarch64")]
use crate::lanes::{Lanes, Neon, T0, neon_dot};

/// The sum of the 64-bit words of `bytes`, a multiple of 1024, from an address on a cache line, asking for
/// memory ahead or not.
///
/// # Panics
/// If they are no multiple of 1024.
pub(super) fn read(bytes: &[u8], prefetch: bool) -> u64 {
    assert!(bytes.len().is_multiple_of(1024), "the loops read {} bytes as a multiple of 1024", bytes.len());
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was detected.
            return unsafe {
                if prefetch { read_avx512::<true>(bytes) } else { read_avx512::<false>(bytes) }
            };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was detected.
            return unsafe { if prefetch { read_avx2::<true>(bytes) } else { read_avx2::<false>(bytes) } };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if is_aarch64_feature_detected!("neon") {
        // SAFETY: the feature was detected.
        return unsafe { if prefetch { read_neon::<true>(bytes) } else { read_neon::<false>(bytes) } };
    }
    let _ = prefetch;
    let mut sums = [0_u64; 8];
    for words in bytes.chunks_exact(64) {
        for (sum, word) in sums.iter_mut().zip(words.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// Takes `steps` steps of 8-bit dot products and returns the operations of one step.
pub(super) fn int8(steps: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512f") {
            // SAFETY: the features were detected.
            unsafe { int8_avx512(steps) };
            return CHAINS_512 * 64 * 2;
        }
        if is_x86_feature_detected!("avxvnni") && is_x86_feature_detected!("avx2") {
            // SAFETY: the features were detected.
            unsafe { int8_avx_vnni(steps) };
            return CHAINS_256 * 32 * 2;
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was detected.
            unsafe { int8_avx2(steps) };
            return CHAINS_256 * 32 * 2;
        }
    }
    #[cfg(target_arch = "aarch64")]
    if is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod") {
        // SAFETY: the features were detected.
        unsafe { int8_neon(steps) };
        return CHAINS_128 * 16 * 2;
    }
    let mut sums = [0_i32; 32];
    for step in 0..steps {
        let factor = std::hint::black_box(step as i8);
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum = sum.wrapping_add(i32::from(factor) * i32::from(lane as i8));
        }
    }
    std::hint::black_box(sums);
    32 * 2
}

/// Takes `steps` steps of f32 multiply-adds and returns the operations of one step.
pub(super) fn fma(steps: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was detected.
            unsafe { fma_avx512(steps) };
            return CHAINS_512 * 16 * 2;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were detected.
            unsafe { fma_avx2(steps) };
            return CHAINS_256 * 8 * 2;
        }
    }
    #[cfg(target_arch = "aarch64")]
    if is_aarch64_feature_detected!("neon") {
        // SAFETY: the feature was detected.
        unsafe { fma_neon(steps) };
        return CHAINS_128 * 4 * 2;
    }
    let mut sums = [1.0_f32; 32];
    for step in 0..steps {
        let factor = std::hint::black_box(1.0 + step as f32 * 1e-9);
        for sum in &mut sums {
            *sum = *sum * factor + 1e-9;
        }
    }
    std::hint::black_box(sums);
    32 * 2
}

/// Takes `steps` steps of dot products of BF16, or of f32 multiply-adds where there are none or they are slower, and
/// returns the operations of one step.
pub(super) fn bf16(steps: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if crate::bf16_dot() && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f") {
        // SAFETY: the features were detected.
        unsafe { bf16_avx512(steps) };
        return CHAINS_512 * 32 * 2;
    }
    fma(steps)
}

/// Independent sums, enough to hide the latency of the widest cores and few enough to stay in registers.
#[cfg(target_arch = "x86_64")]
const CHAINS_512: usize = 16;
#[cfg(target_arch = "x86_64")]
const CHAINS_256: usize = 12;
/// Arm's widest cores start four of these a cycle and end them four cycles later.
#[cfg(target_arch = "aarch64")]
const CHAINS_128: usize = 24;
/// Four streams a stripe apart keep more requests to memory in flight than one.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const STREAMS: usize = 4;
/// How far ahead of each stream memory is asked for.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const AHEAD: usize = 1024;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn read_avx512<const PREFETCH: bool>(bytes: &[u8]) -> u64 {
    let stream = bytes.len() / STREAMS;
    let mut sums = [_mm512_setzero_si512(); STREAMS * 2];
    for at in (0..stream).step_by(128) {
        for (s, pair) in sums.chunks_exact_mut(2).enumerate() {
            // SAFETY: `bytes` is a multiple of 1024 long, so each stream is a multiple of 128.
            unsafe {
                let from = bytes.as_ptr().add(s * stream + at);
                if PREFETCH {
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD).cast());
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD + 64).cast());
                }
                pair[0] = _mm512_add_epi64(pair[0], _mm512_loadu_si512(from.cast()));
                pair[1] = _mm512_add_epi64(pair[1], _mm512_loadu_si512(from.add(64).cast()));
            }
        }
    }
    let sum = sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi64(a, b));
    _mm512_reduce_add_epi64(sum).cast_unsigned()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn read_avx2<const PREFETCH: bool>(bytes: &[u8]) -> u64 {
    let stream = bytes.len() / STREAMS;
    let mut sums = [_mm256_setzero_si256(); STREAMS * 2];
    for at in (0..stream).step_by(64) {
        for (s, pair) in sums.chunks_exact_mut(2).enumerate() {
            // SAFETY: `bytes` is a multiple of 1024 long, so each stream is a multiple of 64.
            unsafe {
                let from = bytes.as_ptr().add(s * stream + at);
                if PREFETCH {
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD).cast());
                }
                pair[0] = _mm256_add_epi64(pair[0], _mm256_loadu_si256(from.cast()));
                pair[1] = _mm256_add_epi64(pair[1], _mm256_loadu_si256(from.add(32).cast()));
            }
        }
    }
    let sum = sums.into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_add_epi64(a, b));
    let mut lanes = [0_u64; 4];
    // SAFETY: the array is as long as the vector.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
    lanes.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn int8_avx512(steps: usize) {
    // Sums the compiler knows to be equal would be computed once.
    let mut sums = std::hint::black_box([_mm512_setzero_si512(); CHAINS_512]);
    let (a, b) = (std::hint::black_box(_mm512_set1_epi8(3)), std::hint::black_box(_mm512_set1_epi8(5)));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    std::hint::black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn int8_avx_vnni(steps: usize) {
    let mut sums = std::hint::black_box([_mm256_setzero_si256(); CHAINS_256]);
    let (a, b) = (std::hint::black_box(_mm256_set1_epi8(3)), std::hint::black_box(_mm256_set1_epi8(5)));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
        }
    }
    std::hint::black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn int8_avx2(steps: usize) {
    let mut sums = std::hint::black_box([_mm256_setzero_si256(); CHAINS_256]);
    let ones = std::hint::black_box(_mm256_set1_epi16(1));
    // Operands that differ by chain and by step keep the compiler from computing a product once for all.
    let a = std::hint::black_box([_mm256_set1_epi8(3); CHAINS_256]);
    let mut b = std::hint::black_box(_mm256_set1_epi8(5));
    for _ in 0..steps {
        for (sum, a) in sums.iter_mut().zip(&a) {
            let products = _mm256_madd_epi16(_mm256_maddubs_epi16(*a, b), ones);
            *sum = _mm256_add_epi32(*sum, products);
        }
        b = _mm256_xor_si256(b, ones);
    }
    std::hint::black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn fma_avx512(steps: usize) {
    let mut sums = std::hint::black_box([_mm512_set1_ps(1.0); CHAINS_512]);
    let (a, b) = (std::hint::black_box(_mm512_set1_ps(1.0)), std::hint::black_box(_mm512_set1_ps(1e-9)));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, a, b);
        }
    }
    std::hint::black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_avx512(steps: usize) {
    let mut sums = std::hint::black_box([_mm512_set1_ps(1.0); CHAINS_512]);
    let pairs = std::hint::black_box(_mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-3), _mm512_set1_ps(-1e-3)));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, pairs, pairs);
        }
    }
    std::hint::black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn fma_avx2(steps: usize) {
    let mut sums = std::hint::black_box([_mm256_set1_ps(1.0); CHAINS_256]);
    let (a, b) = (std::hint::black_box(_mm256_set1_ps(1.0)), std::hint::black_box(_mm256_set1_ps(1e-9)));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, a, b);
        }
    }
    std::hint::black_box(sums);
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn read_neon<const PREFETCH: bool>(bytes: &[u8]) -> u64 {
    let stream = bytes.len() / STREAMS;
    let mut sums = [[vdupq_n_u64(0); 4]; STREAMS];
    for at in (0..stream).step_by(64) {
        for (s, sums) in sums.iter_mut().enumerate() {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `bytes` is a multiple of 1024 long, so each stream is a multiple of 64.
                *sum = unsafe {
                    let from = bytes.as_ptr().add(s * stream + at + 16 * i);
                    if PREFETCH && i == 0 {
                        Neon::prefetch::<T0>(from.wrapping_add(AHEAD));
                    }
                    vaddq_u64(*sum, vld1q_u64(from.cast()))
                };
            }
        }
    }
    let sum = sums.as_flattened().iter().fold(vdupq_n_u64(0), |a, b| vaddq_u64(a, *b));
    vgetq_lane_u64::<0>(sum).wrapping_add(vgetq_lane_u64::<1>(sum))
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
unsafe fn int8_neon(steps: usize) {
    // As for the other sets: sums that the compiler does not know to be equal.
    let mut sums = std::hint::black_box([vdupq_n_s32(0); CHAINS_128]);
    let (a, b) = (std::hint::black_box(vdupq_n_s8(3)), std::hint::black_box(vdupq_n_s8(5)));
    for _ in 0..steps {
        for sum in &mut sums {
            // SAFETY: the features are those of this function.
            *sum = unsafe { neon_dot(*sum, a, b) };
        }
    }
    std::hint::black_box(sums);
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn fma_neon(steps: usize) {
    let mut sums = std::hint::black_box([vdupq_n_f32(1.0); CHAINS_128]);
    let (a, b) = (std::hint::black_box(vdupq_n_f32(1.0)), std::hint::black_box(vdupq_n_f32(1e-9)));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = vfmaq_f32(*sum, a, b);
        }
    }
    std::hint::black_box(sums);
}
