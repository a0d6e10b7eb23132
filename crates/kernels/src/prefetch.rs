//! How kernels that read weights once ask for them ahead of their use: by which hint, how far ahead, and from how many
//! panels in turn. All choices give the same bits; which is fastest is the processor's affair.
//!
//! On Intel's servers, whose last cache does not hold what the others do, a line asked for with the non-temporal hint
//! goes into the first cache alone, past the prefetcher of the second: a third of the bandwidth is left. One stream of
//! addresses a thread is too few there as well. On AMD's Zen 5 it is the other way round.

mod learn;
#[cfg(test)]
mod same_bits;

pub(crate) use learn::Chooser;
pub use learn::{PrefetchChoice, PrefetchPolicy};

use std::fmt;
use std::sync::OnceLock;

use crate::kernels::PANELS_MAX;
use crate::processor::{Processor, Vendor, processor};
use crate::{KernelError, lanes};

/// Environment variable that fixes how kernels ask for weights: `HINT:BYTES:PANELS`, as [`Prefetch`] is written.
pub const PREFETCH_VARIABLE: &str = "LEVAIN_PREFETCH";

/// Farther ahead would ask for what is evicted before its use.
const DISTANCE_MAX: u32 = 64 << 10;

/// The instruction that asks for a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hint {
    /// Non-temporal: read once (`prefetchnta`, `prfm pldl1strm`).
    Nta,
    /// Into all caches (`prefetcht0`, `prfm pldl1keep`).
    T0,
    /// Into the second cache and beyond (`prefetcht1`, `prfm pldl2keep`).
    T1,
}

/// How weights are asked for. Written `HINT:BYTES:PANELS`, for example `t0:512:8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefetch {
    hint: Hint,
    distance: u32,
    panels: u8,
}

/// Which of the compiled loops a [`Prefetch`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Panel after panel with the non-temporal hint, [`lanes::NTA_AHEAD`] bytes ahead.
    Nta,
    /// Panel after panel into the second cache; products of several rows take [`Way::InTurn`], panel after panel.
    T1,
    /// One or several panels in turn, into all caches.
    InTurn,
}

impl Prefetch {
    const NTA: Self = Self { hint: Hint::Nta, distance: lanes::NTA_AHEAD as u32, panels: 1 };
    const T0_FAR: Self = Self { hint: Hint::T0, distance: 4096, panels: 1 };
    const T0_FOUR: Self = Self { hint: Hint::T0, distance: 1024, panels: 4 };
    const T0_EIGHT: Self = Self { hint: Hint::T0, distance: 512, panels: 8 };
    const T1_FAR: Self = Self { hint: Hint::T1, distance: 4096, panels: 1 };

    /// Those that are tried out at work.
    pub const CANDIDATES: [Self; 5] = [Self::NTA, Self::T0_FAR, Self::T0_FOUR, Self::T0_EIGHT, Self::T1_FAR];

    /// What is likely to be best on a processor: what was measured on its kind, and otherwise what no kind is known to
    /// do badly with. The non-temporal hint is for those alone on which it was measured to win.
    pub(crate) fn guess(processor: &Processor) -> Self {
        match processor.vendor {
            Vendor::Intel => Self::T0_EIGHT,
            Vendor::Amd if processor.is_zen_4_or_5() => Self::NTA,
            Vendor::Amd | Vendor::Other => Self::T0_FOUR,
        }
    }

    /// Reads the form that it is written in.
    ///
    /// # Errors
    /// [`KernelError::UnknownPrefetch`] for anything that there are no kernels for.
    pub fn parse(text: &str) -> Result<Self, KernelError> {
        Self::parts(text).ok_or_else(|| KernelError::UnknownPrefetch { value: text.to_owned() })
    }

    fn parts(text: &str) -> Option<Self> {
        let lower = text.trim().to_ascii_lowercase();
        let mut parts = lower.split(':');
        let hint = match parts.next()? {
            "nta" => Hint::Nta,
            "t0" => Hint::T0,
            "t1" => Hint::T1,
            _ => return None,
        };
        let distance = parts.next()?.parse().ok().filter(|distance| *distance <= DISTANCE_MAX)?;
        let panels = parts.next()?.parse().ok().filter(|panels| (1..=PANELS_MAX).contains(panels))?;
        let read = Self { hint, distance, panels: u8::try_from(panels).ok()? };
        // Loops for other combinations were never the fastest anywhere, and each is compiled for every format.
        let compiled = match hint {
            Hint::Nta => read == Self::NTA,
            Hint::T0 => true,
            Hint::T1 => panels == 1,
        };
        (parts.next().is_none() && compiled).then_some(read)
    }

    /// Panels that are read in turn.
    pub(crate) fn panels(self) -> usize {
        usize::from(self.panels)
    }

    /// How far ahead a line is asked for, in bytes.
    pub(crate) fn distance(self) -> usize {
        self.distance as usize
    }

    pub(crate) fn way(self) -> Way {
        match self.hint {
            Hint::Nta => Way::Nta,
            Hint::T1 => Way::T1,
            Hint::T0 => Way::InTurn,
        }
    }
}

impl fmt::Display for Prefetch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = match self.hint {
            Hint::Nta => "nta",
            Hint::T0 => "t0",
            Hint::T1 => "t1",
        };
        write!(out, "{hint}:{}:{}", self.distance, self.panels)
    }
}

/// Reads `LEVAIN_PREFETCH`; programs call it at start to refuse a value that can't be followed.
///
/// # Errors
/// [`KernelError::UnknownPrefetch`].
pub fn check_prefetch() -> Result<Option<Prefetch>, KernelError> {
    match std::env::var(PREFETCH_VARIABLE) {
        Ok(value) if !value.is_empty() => Prefetch::parse(&value).map(Some),
        Err(std::env::VarError::NotUnicode(value)) => {
            Err(KernelError::UnknownPrefetch { value: value.to_string_lossy().into_owned() })
        }
        _ => Ok(None),
    }
}

/// What `LEVAIN_PREFETCH` fixes, if it does. A value that can't be followed is ignored here; [`check_prefetch`] tells
/// the person who set it.
pub fn fixed_prefetch() -> Option<Prefetch> {
    static FIXED: OnceLock<Option<Prefetch>> = OnceLock::new();
    *FIXED.get_or_init(|| check_prefetch().unwrap_or(None))
}

/// What kernels begin with: what `LEVAIN_PREFETCH` fixes, or what is likely to be best on this processor.
pub fn first_prefetch() -> Prefetch {
    static FIRST: OnceLock<Prefetch> = OnceLock::new();
    *FIRST.get_or_init(|| fixed_prefetch().unwrap_or_else(|| Prefetch::guess(processor())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::tests::of;

    #[test]
    fn what_is_written_is_read() {
        for candidate in Prefetch::CANDIDATES {
            assert_eq!(Prefetch::parse(&candidate.to_string()), Ok(candidate));
        }
        assert_eq!(Prefetch::parse("T0:0:3").map(Prefetch::panels), Ok(3));
        assert_eq!(Prefetch::parse("t1:65536:1").map(Prefetch::distance), Ok(65_536));
    }

    #[test]
    fn what_no_kernel_does_is_refused_with_the_form() {
        for value in [
            "",
            "t0",
            "t0:512",
            "t0:512:8:1",
            "t2:512:8",
            "t0:512:0",
            "t0:512:9",
            "t0:-1:1",
            "t0:65537:1",
            "t0:1e3:4",
            "nta:4096:4",
            "nta:512:1",
            "t1:4096:2",
            "t0:512:256",
            "t0:99999999999999999999:1",
        ] {
            let error = Prefetch::parse(value).unwrap_err();
            assert!(error.to_string().contains("HINT:BYTES:PANELS"), "{value}: {error}");
        }
    }

    #[test]
    fn the_non_temporal_hint_is_guessed_only_where_it_was_measured_to_win() {
        let guess = |vendor, family, model| Prefetch::guess(&of(vendor, family, model)).to_string();
        assert_eq!(guess(Vendor::Intel, 6, 207), "t0:512:8");
        assert_eq!(guess(Vendor::Intel, 19, 1), "t0:512:8");
        assert_eq!(guess(Vendor::Amd, 26, 2), "nta:4096:1");
        assert_eq!(guess(Vendor::Amd, 25, 0x11), "nta:4096:1");
        for (vendor, family, model) in
            [(Vendor::Amd, 23, 0x31), (Vendor::Other, 24, 1), (Vendor::Other, 0, 0)]
        {
            assert_eq!(guess(vendor, family, model), "t0:1024:4");
        }
        assert!(Prefetch::CANDIDATES.contains(&Prefetch::guess(processor())));
    }
}
