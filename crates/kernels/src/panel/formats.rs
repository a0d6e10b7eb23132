//! How each quantised format's planes and heads become vectors.

use crate::blocks::IQ4_VALUES;
use crate::lanes::{LANES, Lanes, unrolled};

/// A quantised format as the products see it: 16 rows at a time.
///
/// # Safety
/// As for [`Lanes`]: methods need the instructions of `S`, `q` points to a whole chunk, and `head` to a whole head
/// that lies in its panel.
pub(crate) trait Format: 'static {
    /// Whether blocks hold 256 columns, with integer scales under those of the block; otherwise 32.
    const SUPER: bool;
    /// Whether 16 columns share a scale; otherwise 32.
    const SIXTEENS: bool;
    /// Whether a minimum is subtracted (`SUPER`) or an offset added.
    const MIN: bool;
    /// What quants hold for the value 0; a power of two, or 0 with `MIN`.
    const ZERO: u8;
    /// Bytes of a chunk, for 16 rows.
    const CHUNK_BYTES: usize;
    /// Bytes of a head, for 16 rows.
    const HEAD_BYTES: usize;

    /// The weights of a chunk, columns `4s` to `4s + 3` of each row in vector `s`.
    unsafe fn unpack<S: Lanes>(q: *const u8) -> [S::B; 8];
    /// The scale of group `g`: an integer where there is one for the block too.
    unsafe fn scale<S: Lanes>(head: *const u8, g: usize) -> S::F;
    /// The scale of a block of 256.
    unsafe fn d<S: Lanes>(head: *const u8) -> S::F;
    /// The scale of the minima of a block of 256, or the offset of a block of 32.
    unsafe fn dmin<S: Lanes>(head: *const u8) -> S::F;
    /// The minima of groups `2p` and `2p + 1`, as the halves of each integer.
    unsafe fn min_pair<S: Lanes>(head: *const u8, p: usize) -> S::I;
}

#[inline(always)]
pub(super) unsafe fn nibbles<S: Lanes>(q: *const u8) -> [S::B; 8] {
    // SAFETY: the caller keeps the contract of `Format`.
    unsafe {
        let low = S::splat_b(15);
        let v = [S::load_b(q), S::load_b(q.add(64)), S::load_b(q.add(128)), S::load_b(q.add(192))];
        unrolled!(s => S::and_b(if s.is_multiple_of(2) { v[s / 2] } else { S::shr_b(v[s / 2], 4) }, low))
    }
}

/// Bits `WIDTH * j` onwards of a plane's bytes, moved to bit `to`.
#[inline(always)]
unsafe fn field<S: Lanes>(v: S::B, from: u32, to: u32, mask: S::B) -> S::B {
    // SAFETY: the caller keeps the contract of `Format`.
    unsafe {
        let moved = if from > to {
            S::shr_b(v, from - to)
        } else if from < to {
            S::shl_b(v, to - from)
        } else {
            v
        };
        S::and_b(moved, mask)
    }
}

/// ORs bit `s` of the plane's bytes into vector `s`, at bit `to`.
#[inline(always)]
unsafe fn or_bits<S: Lanes>(w: [S::B; 8], plane: *const u8, to: u32) -> [S::B; 8] {
    // SAFETY: the caller keeps the contract of `Format`.
    unsafe {
        let (v, mask) = (S::load_b(plane), S::splat_b(1 << to));
        unrolled!(s => S::or_b(w[s], field::<S>(v, s as u32, to, mask)))
    }
}

/// The 2-bit fields of two vectors, at bit `to`.
#[inline(always)]
pub(super) unsafe fn pairs<S: Lanes>(plane: *const u8, to: u32) -> [S::B; 8] {
    // SAFETY: the caller keeps the contract of `Format`.
    unsafe {
        let (v, mask) = ([S::load_b(plane), S::load_b(plane.add(64))], S::splat_b(3 << to));
        unrolled!(s => field::<S>(v[s / 4], 2 * (s % 4) as u32, to, mask))
    }
}

#[inline(always)]
pub(super) unsafe fn halves<S: Lanes>(head: *const u8, at: usize) -> S::F {
    // SAFETY: the caller keeps the contract of `Format`.
    unsafe { S::load_f16(head.add(at).cast()) }
}

/// The `i`th of sixteen 6-bit values, as packed in three words.
#[inline(always)]
unsafe fn six<S: Lanes>(words: *const u8, i: usize) -> S::I {
    // SAFETY: the caller keeps the contract of `Format`.
    unsafe {
        if i < 15 {
            let word = S::load_i(words.add(64 * (i / 5)).cast());
            return S::and_i(S::shr_i(word, 6 * (i % 5) as u32), S::splat_i(63));
        }
        let first = S::shr_i(S::load_i(words.cast()), 30);
        let second = S::shl_i(S::shr_i(S::load_i(words.add(64).cast()), 30), 2);
        let third = S::shl_i(S::shr_i(S::load_i(words.add(128).cast()), 30), 4);
        S::or_i(first, S::or_i(second, third))
    }
}

/// What formats without minima, or without block scales, never call.
macro_rules! no_min {
    () => {
        #[inline(always)]
        unsafe fn dmin<S: Lanes>(_head: *const u8) -> S::F {
            // SAFETY: the caller keeps the contract of `Format`.
            unsafe { S::splat_f(0.0) }
        }
        #[inline(always)]
        unsafe fn min_pair<S: Lanes>(_head: *const u8, _p: usize) -> S::I {
            // SAFETY: as above.
            unsafe { S::splat_i(0) }
        }
    };
}

/// Formats of 32 columns: a half for the scale, and one for the offset where there is one.
macro_rules! block_of_32 {
    ($(#[$doc:meta])* $name:ident, zero $zero:literal, min $min:literal, $unpack:ident, $bytes:literal) => {
        $(#[$doc])*
        pub(crate) struct $name;
        impl Format for $name {
            const SUPER: bool = false;
            const SIXTEENS: bool = false;
            const MIN: bool = $min;
            const ZERO: u8 = $zero;
            const CHUNK_BYTES: usize = $bytes;
            const HEAD_BYTES: usize = if $min { 64 } else { 32 };

            #[inline(always)]
            unsafe fn unpack<S: Lanes>(q: *const u8) -> [S::B; 8] {
                // SAFETY: the caller keeps the contract of `Format`.
                unsafe { $unpack::<S>(q) }
            }
            #[inline(always)]
            unsafe fn scale<S: Lanes>(head: *const u8, _g: usize) -> S::F {
                // SAFETY: as above.
                unsafe { halves::<S>(head, 0) }
            }
            #[inline(always)]
            unsafe fn d<S: Lanes>(_head: *const u8) -> S::F {
                // SAFETY: as above.
                unsafe { S::splat_f(1.0) }
            }
            #[inline(always)]
            unsafe fn dmin<S: Lanes>(head: *const u8) -> S::F {
                // SAFETY: as above; heads of formats with an offset have 64 bytes.
                unsafe { if $min { halves::<S>(head, 32) } else { S::splat_f(0.0) } }
            }
            #[inline(always)]
            unsafe fn min_pair<S: Lanes>(_head: *const u8, _p: usize) -> S::I {
                // SAFETY: as above.
                unsafe { S::splat_i(0) }
            }
        }
    };
}

#[inline(always)]
unsafe fn five<S: Lanes>(q: *const u8) -> [S::B; 8] {
    // SAFETY: the caller keeps the contract of `Format`.
    unsafe { or_bits::<S>(nibbles::<S>(q), q.add(256), 4) }
}

#[inline(always)]
unsafe fn bytes<S: Lanes>(q: *const u8) -> [S::B; 8] {
    // SAFETY: the caller keeps the contract of `Format`.
    unsafe { unrolled!(s => S::load_b(q.add(64 * s))) }
}

/// The table of the IQ4 formats, plus 128.
const IQ4_UNSIGNED: [i8; 16] = {
    let mut table = IQ4_VALUES;
    let mut i = 0;
    while i < 16 {
        table[i] ^= -128;
        i += 1;
    }
    table
};

#[inline(always)]
unsafe fn iq4<S: Lanes>(q: *const u8) -> [S::B; 8] {
    // SAFETY: the caller keeps the contract of `Format`.
    unsafe {
        let index = nibbles::<S>(q);
        unrolled!(s => S::look_up(&IQ4_UNSIGNED, index[s]))
    }
}

block_of_32!(
    /// 4 bits.
    Q4_0, zero 8, min false, nibbles, 256
);
block_of_32!(
    /// 4 bits with an offset.
    Q4_1, zero 0, min true, nibbles, 256
);
block_of_32!(
    /// 5 bits.
    Q5_0, zero 16, min false, five, 320
);
block_of_32!(
    /// 5 bits with an offset.
    Q5_1, zero 0, min true, five, 320
);
block_of_32!(
    /// 8 bits.
    Q8_0, zero 128, min false, bytes, 512
);
block_of_32!(
    /// 4-bit table.
    Iq4Nl, zero 128, min false, iq4, 256
);

/// `Q4_K` and `Q5_K`: d, dmin, then 6-bit scales and minima.
macro_rules! with_minima {
    ($(#[$doc:meta])* $name:ident, $unpack:ident, $bytes:literal) => {
        $(#[$doc])*
        pub(crate) struct $name;
        impl Format for $name {
            const SUPER: bool = true;
            const SIXTEENS: bool = false;
            const MIN: bool = true;
            const ZERO: u8 = 0;
            const CHUNK_BYTES: usize = $bytes;
            const HEAD_BYTES: usize = 256;

            #[inline(always)]
            unsafe fn unpack<S: Lanes>(q: *const u8) -> [S::B; 8] {
                // SAFETY: the caller keeps the contract of `Format`.
                unsafe { $unpack::<S>(q) }
            }
            #[inline(always)]
            unsafe fn scale<S: Lanes>(head: *const u8, g: usize) -> S::F {
                // SAFETY: as above.
                unsafe { S::to_f(six::<S>(head.add(64), g)) }
            }
            #[inline(always)]
            unsafe fn d<S: Lanes>(head: *const u8) -> S::F {
                // SAFETY: as above.
                unsafe { halves::<S>(head, 0) }
            }
            #[inline(always)]
            unsafe fn dmin<S: Lanes>(head: *const u8) -> S::F {
                // SAFETY: as above.
                unsafe { halves::<S>(head, 32) }
            }
            #[inline(always)]
            unsafe fn min_pair<S: Lanes>(head: *const u8, p: usize) -> S::I {
                // SAFETY: as above.
                unsafe {
                    let high = S::shl_i(six::<S>(head.add(64), 9 + 2 * p), 16);
                    S::or_i(six::<S>(head.add(64), 8 + 2 * p), high)
                }
            }
        }
    };
}

with_minima!(
    /// 4 bits, scales and minima per 32.
    Q4K, nibbles, 256
);
with_minima!(
    /// 5 bits, scales and minima per 32.
    Q5K, five, 320
);

/// 2 bits, scales and minima per 16.
pub(crate) struct Q2K;
impl Format for Q2K {
    const SUPER: bool = true;
    const SIXTEENS: bool = true;
    const MIN: bool = true;
    const ZERO: u8 = 0;
    const CHUNK_BYTES: usize = 128;
    const HEAD_BYTES: usize = 320;

    #[inline(always)]
    unsafe fn unpack<S: Lanes>(q: *const u8) -> [S::B; 8] {
        // SAFETY: the caller keeps the contract of `Format`.
        unsafe { pairs::<S>(q, 0) }
    }
    #[inline(always)]
    unsafe fn scale<S: Lanes>(head: *const u8, g: usize) -> S::F {
        // SAFETY: as above.
        unsafe { S::to_f(S::and_i(S::load_u8(head.add(64 + LANES * g)), S::splat_i(15))) }
    }
    #[inline(always)]
    unsafe fn d<S: Lanes>(head: *const u8) -> S::F {
        // SAFETY: as above.
        unsafe { halves::<S>(head, 0) }
    }
    #[inline(always)]
    unsafe fn dmin<S: Lanes>(head: *const u8) -> S::F {
        // SAFETY: as above.
        unsafe { halves::<S>(head, 32) }
    }
    #[inline(always)]
    unsafe fn min_pair<S: Lanes>(head: *const u8, p: usize) -> S::I {
        // SAFETY: as above.
        unsafe {
            let at = head.add(64 + LANES * 2 * p);
            let low = S::shr_i(S::load_u8(at), 4);
            let high = S::shr_i(S::load_u8(at.add(LANES)), 4);
            S::or_i(low, S::shl_i(high, 16))
        }
    }
}

/// 3 bits, scales per 16.
pub(crate) struct Q3K;
impl Format for Q3K {
    const SUPER: bool = true;
    const SIXTEENS: bool = true;
    const MIN: bool = false;
    const ZERO: u8 = 4;
    const CHUNK_BYTES: usize = 192;
    const HEAD_BYTES: usize = 224;

    #[inline(always)]
    unsafe fn unpack<S: Lanes>(q: *const u8) -> [S::B; 8] {
        // SAFETY: the caller keeps the contract of `Format`.
        unsafe { or_bits::<S>(pairs::<S>(q, 0), q.add(128), 2) }
    }
    #[inline(always)]
    unsafe fn scale<S: Lanes>(head: *const u8, g: usize) -> S::F {
        // SAFETY: as above.
        unsafe { S::to_f(S::add_i(six::<S>(head.add(32), g), S::splat_i(-32))) }
    }
    #[inline(always)]
    unsafe fn d<S: Lanes>(head: *const u8) -> S::F {
        // SAFETY: as above.
        unsafe { halves::<S>(head, 0) }
    }
    no_min!();
}

/// 6 bits, scales per 16.
pub(crate) struct Q6K;
impl Format for Q6K {
    const SUPER: bool = true;
    const SIXTEENS: bool = true;
    const MIN: bool = false;
    const ZERO: u8 = 32;
    const CHUNK_BYTES: usize = 384;
    const HEAD_BYTES: usize = 288;

    #[inline(always)]
    unsafe fn unpack<S: Lanes>(q: *const u8) -> [S::B; 8] {
        // SAFETY: the caller keeps the contract of `Format`.
        unsafe {
            let (low, high) = (nibbles::<S>(q), pairs::<S>(q.add(256), 4));
            unrolled!(s => S::or_b(low[s], high[s]))
        }
    }
    #[inline(always)]
    unsafe fn scale<S: Lanes>(head: *const u8, g: usize) -> S::F {
        // SAFETY: as above.
        unsafe { S::to_f(S::load_i8(head.add(32 + LANES * g).cast())) }
    }
    #[inline(always)]
    unsafe fn d<S: Lanes>(head: *const u8) -> S::F {
        // SAFETY: as above.
        unsafe { halves::<S>(head, 0) }
    }
    no_min!();
}

/// 8 bits under one f32 scale.
pub(crate) struct Q8K;
impl Format for Q8K {
    const SUPER: bool = true;
    const SIXTEENS: bool = false;
    const MIN: bool = false;
    const ZERO: u8 = 128;
    const CHUNK_BYTES: usize = 512;
    const HEAD_BYTES: usize = 64;

    #[inline(always)]
    unsafe fn unpack<S: Lanes>(q: *const u8) -> [S::B; 8] {
        // SAFETY: the caller keeps the contract of `Format`.
        unsafe { bytes::<S>(q) }
    }
    #[inline(always)]
    unsafe fn scale<S: Lanes>(_head: *const u8, _g: usize) -> S::F {
        // SAFETY: as above.
        unsafe { S::splat_f(1.0) }
    }
    #[inline(always)]
    unsafe fn d<S: Lanes>(head: *const u8) -> S::F {
        // SAFETY: as above.
        unsafe { S::load_f(head.cast()) }
    }
    no_min!();
}

/// 4-bit table, 6-bit scales per 32.
pub(crate) struct Iq4Xs;
impl Format for Iq4Xs {
    const SUPER: bool = true;
    const SIXTEENS: bool = false;
    const MIN: bool = false;
    const ZERO: u8 = 128;
    const CHUNK_BYTES: usize = 256;
    const HEAD_BYTES: usize = 128;

    #[inline(always)]
    unsafe fn unpack<S: Lanes>(q: *const u8) -> [S::B; 8] {
        // SAFETY: the caller keeps the contract of `Format`.
        unsafe { iq4::<S>(q) }
    }
    #[inline(always)]
    unsafe fn scale<S: Lanes>(head: *const u8, g: usize) -> S::F {
        // SAFETY: as above.
        unsafe {
            let word = S::load_i(head.add(32).cast());
            let half = S::load_u16(head.add(96).cast());
            let low = S::splat_i(63);
            let scale = match g {
                0..5 => S::and_i(S::shr_i(word, 6 * g as u32), low),
                5 => S::and_i(half, low),
                6 => S::and_i(S::shr_i(half, 6), low),
                _ => S::or_i(S::shr_i(word, 30), S::shl_i(S::shr_i(half, 12), 2)),
            };
            S::to_f(S::add_i(scale, S::splat_i(-32)))
        }
    }
    #[inline(always)]
    unsafe fn d<S: Lanes>(head: *const u8) -> S::F {
        // SAFETY: as above.
        unsafe { halves::<S>(head, 0) }
    }
    no_min!();
}
