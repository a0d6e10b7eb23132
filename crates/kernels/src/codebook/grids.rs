//! Codebooks, unpacked once on first use.

use std::sync::OnceLock;

use super::grids_table as table;

pub(super) use table::SIGNS as SIGNED;

/// Entries of 4 or 8 values each.
pub(super) struct Grid {
    entry_len: usize,
    values: Vec<i8>,
}

impl Grid {
    /// The values of entry `index`.
    pub(super) fn at(&self, index: usize) -> &[i8] {
        &self.values[index * self.entry_len..][..self.entry_len]
    }

    pub(super) fn iq2_xxs() -> &'static Self {
        static GRID: OnceLock<Grid> = OnceLock::new();
        GRID.get_or_init(|| Self::unpack(&table::IQ2_XXS, 8, &MAGNITUDES_2_BIT))
    }

    pub(super) fn iq2_xs() -> &'static Self {
        static GRID: OnceLock<Grid> = OnceLock::new();
        GRID.get_or_init(|| Self::unpack(&table::IQ2_XS, 8, &MAGNITUDES_2_BIT))
    }

    pub(super) fn iq2_s() -> &'static Self {
        static GRID: OnceLock<Grid> = OnceLock::new();
        GRID.get_or_init(|| Self::unpack(&table::IQ2_S, 8, &MAGNITUDES_2_BIT))
    }

    pub(super) fn iq3_xxs() -> &'static Self {
        static GRID: OnceLock<Grid> = OnceLock::new();
        GRID.get_or_init(|| Self::unpack(&table::IQ3_XXS, 4, &[4, 12, 20, 28, 36, 44, 52, 62]))
    }

    pub(super) fn iq3_s() -> &'static Self {
        static GRID: OnceLock<Grid> = OnceLock::new();
        GRID.get_or_init(|| Self::unpack(&table::IQ3_S, 4, &[1, 3, 5, 7, 9, 11, 13, 15]))
    }

    pub(super) fn iq1() -> &'static Self {
        static GRID: OnceLock<Grid> = OnceLock::new();
        GRID.get_or_init(|| Self::unpack(&table::IQ1_S, 8, &[-1, 0, 1, 0]))
    }

    fn unpack(packed: &[u16], entry_len: usize, meaning: &[i8]) -> Self {
        let bits = if entry_len == 8 { 2 } else { 3 };
        let mask = (1 << bits) - 1;
        let values = packed.iter().flat_map(|entry| (0..entry_len).map(move |i| entry >> (bits * i) & mask));
        Self { entry_len, values: values.map(|code| meaning[usize::from(code)]).collect() }
    }
}

const MAGNITUDES_2_BIT: [i8; 4] = [8, 25, 43, 0];
