//! How the planes of the formats with tables become vectors: the codebook formats, `MXFP4` and `TQ2_0`.
//!
//! See `codebook_pack` for the planes. The scales of some formats stand in their chunks, which follow the head.

use super::formats::{Format, halves, nibbles, pairs};
use crate::DType;
use crate::blocks::E2M1_VALUES;
use crate::codebook::{IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, unit};
use crate::lanes::{Lanes, unrolled};

/// `2v + 1` for 4-bit `v` from bit `at` on.
#[inline(always)]
unsafe fn odd_nibble<S: Lanes>(word: S::I, at: u32) -> S::F {
    // SAFETY: the caller keeps the contract of `Format`.
    unsafe {
        let doubled = if at == 0 { S::shl_i(word, 1) } else { S::shr_i(word, at - 1) };
        S::to_f(S::or_i(S::and_i(doubled, S::splat_i(30)), S::splat_i(1)))
    }
}

/// `2v + 1` for the lowest 3 bits.
#[inline(always)]
unsafe fn odd_of_three<S: Lanes>(v: S::I) -> S::F {
    // SAFETY: the caller keeps the contract of `Format`.
    unsafe { S::to_f(S::or_i(S::and_i(S::shl_i(v, 1), S::splat_i(14)), S::splat_i(1))) }
}

/// A format with a codebook; `q`, `head` and `g` name what `unpack` and `scale` take.
macro_rules! codebook_format {
    (
        $(#[$doc:meta])* $name:ident of $dtype:ident, sixteens $sixteens:literal, head $head_bytes:literal,
        chunk $chunk_bytes:literal, unpack $q:ident => $unpack:block, scale $head:ident, $g:ident => $scale:block
    ) => {
        $(#[$doc])*
        pub(crate) struct $name;
        impl Format for $name {
            const SUPER: bool = true;
            const SIXTEENS: bool = $sixteens;
            const MIN: bool = false;
            const ZERO: u8 = 128;
            const CHUNK_BYTES: usize = $chunk_bytes;
            const HEAD_BYTES: usize = $head_bytes;

            #[inline(always)]
            unsafe fn unpack<S: Lanes>($q: *const u8) -> [S::B; 8] {
                // SAFETY: the caller keeps the contract of `Format`.
                unsafe { $unpack }
            }
            #[inline(always)]
            unsafe fn scale<S: Lanes>($head: *const u8, $g: usize) -> S::F {
                // SAFETY: as above; the block's chunks follow its head.
                unsafe { $scale }
            }
            #[inline(always)]
            unsafe fn d<S: Lanes>(head: *const u8) -> S::F {
                // SAFETY: as above.
                unsafe { S::mul(halves::<S>(head, 0), S::splat_f(const { unit(DType::$dtype) })) }
            }
            #[inline(always)]
            unsafe fn dmin<S: Lanes>(_head: *const u8) -> S::F {
                // SAFETY: as above.
                unsafe { S::splat_f(0.0) }
            }
            #[inline(always)]
            unsafe fn min_pair<S: Lanes>(_head: *const u8, _p: usize) -> S::I {
                // SAFETY: as above.
                unsafe { S::splat_i(0) }
            }
        }
    };
}

codebook_format!(
    /// Octets of 9 codes; per 32 columns a word of four 7-bit sign patterns and the scale.
    Iq2Xxs of IQ2_XXS, sixteens false, head 32, chunk 128,
    unpack q => {
        let signs = S::even_signs(S::fields::<7>(S::load_i(q.add(64).cast())));
        S::octets(&IQ2_XXS, S::load_b(q), S::splat_b(0), signs)
    },
    scale head, g => { odd_nibble::<S>(S::load_i(head.add(32 + 128 * g + 64).cast()), 28) }
);
codebook_format!(
    /// Octets; the ninth bit of their indices beside 7-bit sign patterns.
    Iq2Xs of IQ2_XS, sixteens true, head 160, chunk 128,
    unpack q => {
        let high = S::load_b(q.add(64));
        let part = S::and_b(high, S::splat_b(1));
        let seven = S::and_b(S::shr_b(high, 1), S::splat_b(127));
        S::octets(&IQ2_XS, S::load_b(q), part, S::even_signs(seven))
    },
    scale head, g => { odd_nibble::<S>(S::load_i(head.add(32 + 64 * (g / 8)).cast()), 4 * (g % 8) as u32) }
);
codebook_format!(
    /// Octets with a byte of signs; two high bits of each index.
    Iq2S of IQ2_S, sixteens true, head 160, chunk 144,
    unpack q => {
        let part = S::and_b(S::fields::<2>(S::load_u8(q.add(128))), S::splat_b(3));
        S::octets(&IQ2_S, S::load_b(q), part, S::load_b(q.add(64)))
    },
    scale head, g => { odd_nibble::<S>(S::load_i(head.add(32 + 64 * (g / 8)).cast()), 4 * (g % 8) as u32) }
);
codebook_format!(
    /// Quads; signs and scales as in `IQ2_XXS`.
    Iq3Xxs of IQ3_XXS, sixteens false, head 32, chunk 192,
    unpack q => {
        let signs = S::even_signs(S::fields::<7>(S::load_i(q.add(128).cast())));
        S::quads(&IQ3_XXS, [S::load_b(q), S::load_b(q.add(64))], [S::splat_b(0); 2], signs)
    },
    scale head, g => { odd_nibble::<S>(S::load_i(head.add(32 + 192 * g + 128).cast()), 28) }
);
codebook_format!(
    /// Quads with a byte of signs for two; a high bit of each index.
    Iq3S of IQ3_S, sixteens false, head 96, chunk 208,
    unpack q => {
        let (high, one) = (S::load_u8(q.add(192)), S::splat_b(1));
        let even = S::and_b(S::fields::<2>(high), one);
        let odd = S::and_b(S::fields::<2>(S::shr_i(high, 1)), one);
        S::quads(&IQ3_S, [S::load_b(q), S::load_b(q.add(64))], [even, odd], S::load_b(q.add(128)))
    },
    scale head, g => { odd_nibble::<S>(S::load_i(head.add(32).cast()), 4 * g as u32) }
);
codebook_format!(
    /// Octets; per 32 columns four times three high index bits, the scale, and the sign of the shift.
    Iq1S of IQ1_S, sixteens false, head 32, chunk 96,
    unpack q => {
        let high = S::load_u16(q.add(64).cast());
        let part = S::and_b(S::fields::<3>(high), S::splat_b(7));
        // All ones where the shift is up, which is a bit that is not set.
        let up = S::as_b(S::add_i(S::shr_i(high, 15), S::splat_i(-1)));
        S::octets(&IQ1, S::load_b(q), part, up)
    },
    scale head, g => { odd_of_three::<S>(S::shr_i(S::load_u16(head.add(32 + 96 * g + 64).cast()), 12)) }
);
codebook_format!(
    /// Octets; of each, three high index bits and the sign of the shift. Scales of 3 bits: ten in the word, the
    /// next in the bits left over and the half, five in the half.
    Iq1M of IQ1_M, sixteens true, head 128, chunk 96,
    unpack q => {
        let high = S::fields::<4>(S::load_u16(q.add(64).cast()));
        let down = S::and_b(high, S::splat_b(8));
        let up = S::look_up(&[-1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], down);
        S::octets(&IQ1, S::load_b(q), S::and_b(high, S::splat_b(7)), up)
    },
    scale head, g => {
        let (word, half) = (S::load_i(head.add(32).cast()), S::load_u16(head.add(96).cast()));
        let at = 3 * g as u32;
        odd_of_three::<S>(match g {
            0..10 => S::shr_i(word, at),
            10 => S::or_i(S::shr_i(word, 30), S::shl_i(half, 2)),
            _ => S::shr_i(half, at - 32),
        })
    }
);

/// A block of one scale and no minimum; `$d` and `$scale` take the head.
macro_rules! one_scale {
    (
        $(#[$doc:meta])* $name:ident, super $super:literal, zero $zero:literal, head $head_bytes:literal,
        chunk $chunk_bytes:literal, unpack $q:ident => $unpack:block, scale $head:ident => $scale:block
    ) => {
        $(#[$doc])*
        pub(crate) struct $name;
        impl Format for $name {
            const SUPER: bool = $super;
            const SIXTEENS: bool = false;
            const MIN: bool = false;
            const ZERO: u8 = $zero;
            const CHUNK_BYTES: usize = $chunk_bytes;
            const HEAD_BYTES: usize = $head_bytes;

            #[inline(always)]
            unsafe fn unpack<S: Lanes>($q: *const u8) -> [S::B; 8] {
                // SAFETY: the caller keeps the contract of `Format`.
                unsafe { $unpack }
            }
            #[inline(always)]
            unsafe fn scale<S: Lanes>(head: *const u8, _g: usize) -> S::F {
                // SAFETY: as above.
                unsafe { if $super { S::splat_f(1.0) } else { Self::d::<S>(head) } }
            }
            #[inline(always)]
            unsafe fn d<S: Lanes>($head: *const u8) -> S::F {
                // SAFETY: as above.
                unsafe { $scale }
            }
            #[inline(always)]
            unsafe fn dmin<S: Lanes>(_head: *const u8) -> S::F {
                // SAFETY: as above.
                unsafe { S::splat_f(0.0) }
            }
            #[inline(always)]
            unsafe fn min_pair<S: Lanes>(_head: *const u8, _p: usize) -> S::I {
                // SAFETY: as above.
                unsafe { S::splat_i(0) }
            }
        }
    };
}

/// The table of `MXFP4`, plus 128.
const E2M1_UNSIGNED: [i8; 16] = {
    let mut table = E2M1_VALUES;
    let mut i = 0;
    while i < 16 {
        table[i] ^= -128;
        i += 1;
    }
    table
};

one_scale!(
    /// 4-bit floats under a power of two.
    Mxfp4, super false, zero 128, head 16, chunk 256,
    unpack q => {
        let index = nibbles::<S>(q);
        unrolled!(s => S::look_up(&E2M1_UNSIGNED, index[s]))
    },
    scale head => {
        // 2^(e - 128) may be subnormal: it is made as the product of two powers that are not.
        let e = S::load_u8(head);
        let first = S::add_i(S::shr_i(e, 1), S::splat_i(63));
        let second = S::add_i(S::shr_i(S::add_i(e, S::splat_i(1)), 1), S::splat_i(63));
        S::mul(S::as_f(S::shl_i(first, 23)), S::as_f(S::shl_i(second, 23)))
    }
);
one_scale!(
    /// 2 bits for -1, 0 and 1.
    Tq2, super true, zero 1, head 32, chunk 128,
    unpack q => { pairs::<S>(q, 0) },
    scale head => { halves::<S>(head, 0) }
);
