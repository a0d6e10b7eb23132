//! Codebooks in the forms that they are looked up in, made when the program is compiled.
//!
//! Values are kept plus 128, as unsigned bytes. A sign bit chooses the other value of a code: its negative, or, in
//! the 1-bit formats, the one that is shifted up instead of down.

use super::grids_table as table;

/// Entries of eight values with 2-bit codes, in `N` parts of 256.
#[repr(C, align(64))]
pub(crate) struct Octets<const N: usize> {
    /// Codes of each entry's first four values, lowest bits first.
    pub(crate) low: [[u8; 256]; N],
    /// Codes of each entry's other values.
    pub(crate) high: [[u8; 256]; N],
    /// The value of a code in bits 0 and 1 with its sign in bit 2, whatever the bits above.
    pub(crate) values: [u8; 64],
    words: [[u64; 256]; N],
    sign: Sign,
}

/// Entries of four values with 3-bit codes, in `N` parts of 256.
#[repr(C, align(64))]
pub(crate) struct Quads<const N: usize> {
    /// Codes of each entry's first two values, in bits 0 to 2 and 4 to 6.
    pub(crate) low: [[u8; 256]; N],
    /// Codes of each entry's other values.
    pub(crate) high: [[u8; 256]; N],
    /// The value of a code in bits 0 to 2 with its sign in bit 3, whatever the bits above.
    pub(crate) values: [u8; 64],
    words: [[u32; 256]; N],
    sign: Sign,
}

/// What a sign bit does to a value, as bytes of a word: invert these bits, then add this.
struct Sign {
    flip: u64,
    add: u64,
}

/// Of bytes that stand for `v + 128` this makes `-v + 128`.
const NEGATE: Sign = Sign { flip: u64::MAX, add: 0x0101_0101_0101_0101 };
/// An eighth down becomes an eighth up.
const SHIFT_UP: Sign = Sign { flip: 0, add: 0x0202_0202_0202_0202 };

impl Sign {
    /// Applies the signs whose bytes of `mask` are all ones. No byte's sum carries into the next: no value is -128.
    const fn apply(&self, word: u64, mask: u64) -> u64 {
        (word ^ (mask & self.flip)) + (mask & self.add)
    }
}

impl<const N: usize> Octets<N> {
    const fn new(packed: &[u16], meaning: [i8; 4], sign: Sign) -> Self {
        let mut values = [0; 64];
        let mut i = 0;
        while i < 64 {
            let mask = if i & 4 == 0 { 0 } else { u64::MAX };
            values[i] = sign.apply(0x0101_0101_0101_0101 * (meaning[i & 3] as u8 ^ 128) as u64, mask) as u8;
            i += 1;
        }
        let (mut low, mut high, mut words) = ([[0; 256]; N], [[0; 256]; N], [[0; 256]; N]);
        let mut i = 0;
        while i < 256 * N {
            let (part, index) = (i / 256, i % 256);
            [low[part][index], high[part][index]] = packed[i].to_le_bytes();
            let mut column = 0;
            while column < 8 {
                let code = packed[i] >> (2 * column) & 3;
                words[part][index] |= (values[code as usize] as u64) << (8 * column);
                column += 1;
            }
            i += 1;
        }
        Self { low, high, values, words, sign }
    }

    /// The values of an entry; bit `i` of `signs` is the sign of value `i`.
    #[inline(always)]
    pub(crate) fn entry(&self, part: usize, index: u8, signs: u8) -> u64 {
        let word = self.words[part & (N - 1)][usize::from(index)];
        self.sign.apply(word, BYTES_OF_BITS[usize::from(signs)])
    }
}

impl<const N: usize> Quads<N> {
    const fn new(packed: &[u16], meaning: [i8; 8]) -> Self {
        let mut values = [0; 64];
        let mut i = 0;
        while i < 64 {
            let value = meaning[i & 7];
            values[i] = (if i & 8 == 0 { value } else { -value }) as u8 ^ 128;
            i += 1;
        }
        let (mut low, mut high, mut words) = ([[0; 256]; N], [[0; 256]; N], [[0; 256]; N]);
        let mut i = 0;
        while i < 256 * N {
            let (part, index, entry) = (i / 256, i % 256, packed[i]);
            low[part][index] = (entry & 7 | (entry >> 3 & 7) << 4) as u8;
            high[part][index] = (entry >> 6 & 7 | (entry >> 9 & 7) << 4) as u8;
            let mut column = 0;
            while column < 4 {
                let code = entry >> (3 * column) & 7;
                words[part][index] |= (values[code as usize] as u32) << (8 * column);
                column += 1;
            }
            i += 1;
        }
        Self { low, high, values, words, sign: NEGATE }
    }

    /// The values of an entry; bits 0 to 3 of `signs` are their signs.
    #[inline(always)]
    pub(crate) fn entry(&self, part: usize, index: u8, signs: u8) -> u32 {
        let word = self.words[part & (N - 1)][usize::from(index)];
        self.sign.apply(u64::from(word), BYTES_OF_BITS[usize::from(signs & 15)]) as u32
    }
}

/// For each bit that is set, a byte of ones.
static BYTES_OF_BITS: [u64; 256] = {
    let mut words = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut bit = 0;
        while bit < 8 {
            if i >> bit & 1 == 1 {
                words[i] |= 0xff << (8 * bit);
            }
            bit += 1;
        }
        i += 1;
    }
    words
};

const MAGNITUDES_2_BIT: [i8; 4] = [8, 25, 43, 0];

/// Of `IQ2_XXS`.
pub(crate) static IQ2_XXS: Octets<1> = Octets::new(&table::IQ2_XXS, MAGNITUDES_2_BIT, NEGATE);
/// Of `IQ2_XS`.
pub(crate) static IQ2_XS: Octets<2> = Octets::new(&table::IQ2_XS, MAGNITUDES_2_BIT, NEGATE);
/// Of `IQ2_S`.
pub(crate) static IQ2_S: Octets<4> = Octets::new(&table::IQ2_S, MAGNITUDES_2_BIT, NEGATE);
/// Of `IQ1_S` and `IQ1_M`: eighths of -1, 0 and 1, an eighth down; with the sign bit an eighth up.
pub(crate) static IQ1: Octets<8> = Octets::new(&table::IQ1_S, [-9, -1, 7, 0], SHIFT_UP);
/// Of `IQ3_XXS`.
pub(crate) static IQ3_XXS: Quads<1> = Quads::new(&table::IQ3_XXS, [4, 12, 20, 28, 36, 44, 52, 62]);
/// Of `IQ3_S`.
pub(crate) static IQ3_S: Quads<2> = Quads::new(&table::IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);
/// Eight signs from seven bits.
pub(crate) static SIGNS: [u8; 128] = table::SIGNS;
