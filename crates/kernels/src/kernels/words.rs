//! Products with float weights. A *word* is what 32 bits of a weight and of an activation hold: one f32, or two BF16.
//!
//! Each stretch of columns is summed in two chains, over the even and the odd words, because a single one would wait
//! for itself.
//!
//! With BF16 weights activations are rounded to BF16 too, and a word's odd column comes first, each column multiplied and
//! added with one rounding, as AVX-512's `vdpbf16ps` does. A product of two BF16 has no more digits than f32 holds, so
//! fused multiply-adds of f32 give the same bits, but for numbers below 2^-126, which count as nothing there.

use std::marker::PhantomData;
use std::ops::Range;

use super::direct::ahead_of;
use super::tile::Unpacked;
use super::{PANELS_MAX, Panels, Sums};
use crate::activations::{Tile, WORDS_TOGETHER};
use crate::lanes::{LANES, Lanes, NTA_AHEAD};
use crate::panel::GROUP_WORDS;

/// Columns that share a scale in `F8E4M3` weights.
pub(crate) const F8_BLOCK: usize = 128;

/// What loaded words of formats with scales are divided by.
const SCALE: f32 = 256.0;

/// Words of weights that are multiplied together: 16 KiB of 32 rows, which with a tile of activations and its sums fit
/// into the first-level cache. A whole number of groups.
pub(crate) const STRETCH_WORDS: usize = 128;

/// Bytes of a word of 16 rows, unpacked.
const WORD_BYTES: usize = 4 * LANES;

/// A float format: how words are read and multiplied.
pub(super) trait Words<S: Lanes> {
    /// Bytes of a word of 16 rows, packed.
    const BYTES: usize;
    /// Columns of a word.
    const COLUMNS: usize = 1;
    /// Whether each [`F8_BLOCK`] columns have a scale.
    const SCALED: bool = false;

    /// A word of 16 rows; where there are scales, divided by [`SCALE`].
    ///
    /// # Safety
    /// The processor has the instructions and `from` points to a packed word.
    unsafe fn load(from: *const u8) -> S::I;

    /// Two words, one after the other.
    ///
    /// # Safety
    /// As for [`Words::load`], with two words.
    #[inline(always)]
    unsafe fn load_two(from: *const u8) -> [S::I; 2] {
        // SAFETY: the caller's contract.
        unsafe { [Self::load(from), Self::load(from.add(Self::BYTES))] }
    }

    /// Adds to each lane the products of its word of both.
    ///
    /// # Safety
    /// The processor has the instructions.
    #[inline(always)]
    unsafe fn dot(sum: S::F, w: S::I, x: S::I) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::fma(S::as_f(w), S::as_f(x), sum) }
    }
}

macro_rules! values {
    ($name:ident, $bytes:literal, $from:ident => $load:expr) => {
        pub(super) struct $name;
        impl<S: Lanes> Words<S> for $name {
            const BYTES: usize = $bytes * LANES;

            #[inline(always)]
            unsafe fn load($from: *const u8) -> S::I {
                // SAFETY: the caller's contract.
                unsafe { $load }
            }
        }
    };
}

values!(F32, 4, from => S::load_i(from.cast()));
values!(F16, 2, from => S::as_i(S::load_f16(from.cast())));

/// FP8.
pub(super) struct F8;

impl<S: Lanes> Words<S> for F8 {
    const BYTES: usize = LANES;
    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { S::as_i(S::load_f8_256ths(from)) }
    }

    #[inline(always)]
    unsafe fn load_two(from: *const u8) -> [S::I; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let [a, b] = S::load_two_f8_256ths(from);
            [S::as_i(a), S::as_i(b)]
        }
    }
}

/// BF16, with fused multiply-adds of f32.
pub(super) struct Bf16;

impl<S: Lanes> Words<S> for Bf16 {
    const BYTES: usize = WORD_BYTES;
    const COLUMNS: usize = 2;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { S::load_i(from.cast()) }
    }

    #[inline(always)]
    unsafe fn dot(sum: S::F, w: S::I, x: S::I) -> S::F {
        // SAFETY: the caller's contract.
        unsafe {
            let odd = S::splat_i(0xffff_0000_u32.cast_signed());
            let sum = S::fma(S::as_f(S::and_i(w, odd)), S::as_f(S::and_i(x, odd)), sum);
            S::fma(S::as_f(S::shl_i(w, 16)), S::as_f(S::shl_i(x, 16)), sum)
        }
    }
}

/// BF16, with the instruction for it.
#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
pub(super) struct Bf16Dot;

#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
impl Words<crate::lanes::Avx512> for Bf16Dot {
    const BYTES: usize = WORD_BYTES;
    const COLUMNS: usize = 2;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> std::arch::x86_64::__m512i {
        // SAFETY: the caller's contract.
        unsafe { crate::lanes::Avx512::load_i(from.cast()) }
    }

    #[inline(always)]
    unsafe fn dot(
        sum: std::arch::x86_64::__m512,
        w: std::arch::x86_64::__m512i,
        x: std::arch::x86_64::__m512i,
    ) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps};
        // SAFETY: the caller's contract; both are 64 bytes in which each bit pattern is a value.
        unsafe {
            let pairs = |v: __m512i| std::mem::transmute::<__m512i, __m512bh>(v);
            _mm512_dpbf16_ps(sum, pairs(w), pairs(x))
        }
    }
}

/// Where the words of `P` panels come from.
trait Source<S: Lanes, const P: usize>: Copy {
    /// Word `at` of panel `p`.
    ///
    /// # Safety
    /// The processor has the instructions and the word is there.
    unsafe fn word(&self, p: usize, at: usize) -> S::I;

    /// Words `at` and `at + 1` of panel `p`.
    ///
    /// # Safety
    /// The processor has the instructions and the words are there.
    unsafe fn two(&self, p: usize, at: usize) -> [S::I; 2];
}

/// Unpacked words of two panels, side by side.
#[derive(Clone, Copy)]
struct SideBySide(*const u8);

impl<S: Lanes> Source<S, 2> for SideBySide {
    #[inline(always)]
    unsafe fn word(&self, p: usize, at: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { S::load_i(self.0.add((2 * at + p) * WORD_BYTES).cast()) }
    }

    #[inline(always)]
    unsafe fn two(&self, p: usize, at: usize) -> [S::I; 2] {
        // SAFETY: the caller's contract.
        unsafe { [Source::<S, 2>::word(self, p, at), Source::<S, 2>::word(self, p, at + 1)] }
    }
}

/// The words of a packed panel, asked for so many bytes ahead.
struct Packed<V, const HINT: u8>(*const u8, usize, PhantomData<V>);

impl<V, const HINT: u8> Clone for Packed<V, HINT> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V, const HINT: u8> Copy for Packed<V, HINT> {}

impl<S: Lanes, V: Words<S>, const HINT: u8> Source<S, 1> for Packed<V, HINT> {
    #[inline(always)]
    unsafe fn word(&self, _: usize, at: usize) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { V::load(self.0.add(at * V::BYTES)) }
    }

    #[inline(always)]
    unsafe fn two(&self, _: usize, at: usize) -> [S::I; 2] {
        // SAFETY: the caller's contract; what is asked for ahead may be at any address.
        unsafe {
            let from = self.0.add(at * V::BYTES);
            for line in 0..(2 * V::BYTES).div_ceil(64) {
                S::prefetch::<HINT>(from.wrapping_add(self.1 + 64 * line));
            }
            V::load_two(from)
        }
    }
}

/// `count` words of `P` panels for `N` columns.
///
/// # Safety
/// The processor has `S`'s and `V`'s instructions; `w` has as many words, and `x` points to a tile of `N` columns of
/// them, from a whole number of sixteens on.
#[inline(always)]
unsafe fn chains<S: Lanes, V: Words<S>, W: Source<S, P>, const P: usize, const N: usize>(
    w: W,
    x: *const i32,
    count: usize,
) -> [[S::F; N]; P] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut even = [[S::splat_f(0.0); N]; P];
        let mut odd = even;
        for first in (0..count).step_by(WORDS_TOGETHER) {
            let here = (count - first).min(WORDS_TOGETHER);
            [even, odd] = sixteen::<S, V, W, P, N>(w, x.add(first * N), first, here, [even, odd]);
        }
        for p in 0..P {
            for c in 0..N {
                even[p][c] = S::add(even[p][c], odd[p][c]);
            }
        }
        even
    }
}

/// Adds words `first` to `first + here` of `P` panels, sixteen at most, to the chains of even and odd words.
///
/// # Safety
/// As for [`chains`]; `x` points to the columns' words from `first` on.
#[inline(always)]
unsafe fn sixteen<S: Lanes, V: Words<S>, W: Source<S, P>, const P: usize, const N: usize>(
    w: W,
    x: *const i32,
    first: usize,
    here: usize,
    [mut even, mut odd]: [[[S::F; N]; P]; 2],
) -> [[[S::F; N]; P]; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        for i in (0..here / 2 * 2).step_by(2) {
            for p in 0..P {
                let words = w.two(p, first + i);
                for c in 0..N {
                    let x = x.add(c * WORDS_TOGETHER + i);
                    even[p][c] = V::dot(even[p][c], words[0], S::splat_i(x.read()));
                    odd[p][c] = V::dot(odd[p][c], words[1], S::splat_i(x.add(1).read()));
                }
            }
        }
        if here % 2 == 1 {
            for p in 0..P {
                let word = w.word(p, first + here - 1);
                for c in 0..N {
                    let x = x.add(c * WORDS_TOGETHER + here - 1);
                    even[p][c] = V::dot(even[p][c], word, S::splat_i(x.read()));
                }
            }
        }
        [even, odd]
    }
}

/// The rows of `sums` for `N` columns, panel by panel.
///
/// # Safety
/// As for [`super::direct::product`], with panels and a tile of `V`.
#[inline(always)]
pub(super) unsafe fn direct<S: Lanes, V: Words<S>, const N: usize, const HINT: u8>(
    panels: Panels,
    tile: Tile,
    sums: &mut Sums,
) {
    let words = panels.cols.div_ceil(V::COLUMNS);
    for p in 0..panels.count {
        // SAFETY: the caller's contract.
        unsafe {
            let mut totals = [S::splat_f(0.0); N];
            for first in (0..words).step_by(STRETCH_WORDS) {
                let from = panels.start[p].add(first * V::BYTES);
                let w = Packed::<V, HINT>(from, ahead_of::<HINT>(&panels), PhantomData);
                let count = (words - first).min(STRETCH_WORDS);
                let [part] = chains::<S, V, _, 1, N>(w, tile.q.add(first * N), count);
                let scale = scale::<S, V>(&panels, p, first);
                for c in 0..N {
                    totals[c] = S::fma(scale, part[c], totals[c]);
                }
            }
            for c in 0..N {
                S::store_f(sums[c].as_mut_ptr().add(p * LANES), totals[c]);
            }
        }
    }
}

/// As [`direct`], sixteen words of all panels in turn; see [`super::direct::in_turn`].
///
/// # Safety
/// As for [`direct`].
#[inline(always)]
pub(super) unsafe fn in_turn<S: Lanes, V: Words<S>, const N: usize, const HINT: u8>(
    panels: Panels,
    tile: Tile,
    sums: &mut Sums,
) {
    let words = panels.cols.div_ceil(V::COLUMNS);
    let count = panels.count.min(PANELS_MAX);
    // SAFETY: the caller's contract.
    unsafe {
        let mut totals = [[S::splat_f(0.0); N]; PANELS_MAX];
        for first in (0..words).step_by(STRETCH_WORDS) {
            let mut chains = [[[[S::splat_f(0.0); N]]; 2]; PANELS_MAX];
            let end = words.min(first + STRETCH_WORDS);
            for at in (first..end).step_by(WORDS_TOGETHER) {
                let (x, here) = (tile.q.add(at * N), (end - at).min(WORDS_TOGETHER));
                let ahead = panels.ahead_in_turn(at * V::BYTES);
                for p in 0..count {
                    let w = Packed::<V, HINT>(panels.start[p].add(at * V::BYTES), ahead, PhantomData);
                    chains[p] = sixteen::<S, V, _, 1, N>(w, x, 0, here, chains[p]);
                }
            }
            for p in 0..count {
                let scale = scale::<S, V>(&panels, p, first);
                let [[even], [odd]] = chains[p];
                for c in 0..N {
                    totals[p][c] = S::fma(scale, S::add(even[c], odd[c]), totals[p][c]);
                }
            }
        }
        for p in 0..count {
            for c in 0..N {
                S::store_f(sums[c].as_mut_ptr().add(p * LANES), totals[p][c]);
            }
        }
    }
}

/// What the sums of panel `p`'s stretch from word `first` on are to be multiplied with.
///
/// # Safety
/// The processor has the instructions and the panel has the word.
#[inline(always)]
unsafe fn scale<S: Lanes, V: Words<S>>(panels: &Panels, p: usize, first: usize) -> S::F {
    // SAFETY: the caller's contract.
    unsafe { S::splat_f(if V::SCALED { panels.scales[p].add(first / F8_BLOCK).read() * SCALE } else { 1.0 }) }
}

/// Puts the words of two panels beside each other.
///
/// # Safety
/// As for [`super::tile::unpack`], with panels of `V`.
#[inline(always)]
pub(super) unsafe fn unpack<S: Lanes, V: Words<S>, const HINT: u8>(
    panels: Panels,
    range: Range<usize>,
    to: Unpacked,
) {
    // SAFETY: the caller's contract; every pointer stays within its panel and the stretch.
    unsafe {
        let first = panels.layout.group(range.start).first;
        for half in 0..2 {
            S::store_f(to.scales.add(half * LANES), scale::<S, V>(&panels, half, first));
            for group in range.clone() {
                let group = panels.layout.group(group);
                let from = panels.start[half].add(group.first * V::BYTES);
                let w = Packed::<V, HINT>(from, NTA_AHEAD, PhantomData);
                let to = to.w.add((2 * (group.first - first) + half) * WORD_BYTES);
                for i in (0..group.count / 2 * 2).step_by(2) {
                    let [a, b] = w.two(0, i);
                    S::store_i(to.add(2 * i * WORD_BYTES).cast(), a);
                    S::store_i(to.add((2 * i + 2) * WORD_BYTES).cast(), b);
                }
                if group.count % 2 == 1 {
                    let last = group.count - 1;
                    S::store_i(to.add(2 * last * WORD_BYTES).cast(), w.word(0, last));
                }
            }
        }
    }
}

/// Adds a stretch to `totals`, `[N][32]`, or starts them where it is the first, as [`direct`] does.
///
/// # Safety
/// As for [`super::tile::product`], with words of `V`.
#[inline(always)]
pub(super) unsafe fn product<S: Lanes, V: Words<S>, const N: usize>(
    w: Unpacked,
    cols: usize,
    a: Tile,
    totals: *mut f32,
    first: bool,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let count = cols.div_ceil(V::COLUMNS);
        let parts = chains::<S, V, _, 2, N>(SideBySide(w.w), a.q, count);
        for half in 0..2 {
            let scale = S::load_f(w.scales.add(half * LANES));
            for c in 0..N {
                let total = totals.add((2 * c + half) * LANES);
                let before = if first { S::splat_f(0.0) } else { S::load_f(total) };
                S::store_f(total, S::fma(scale, parts[half][c], before));
            }
        }
    }
}

const _: () = assert!(STRETCH_WORDS.is_multiple_of(GROUP_WORDS), "a whole number of groups");
const _: () = assert!(STRETCH_WORDS == F8_BLOCK, "a stretch has one scale");
const _: () = assert!(STRETCH_WORDS.is_multiple_of(WORDS_TOGETHER), "a whole number of sixteens");
