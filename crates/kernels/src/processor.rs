//! Which processor this is: what is best is not always told by its features.

use std::fmt;
use std::sync::OnceLock;

/// Who made a processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Vendor {
    /// AMD.
    Amd,
    /// Intel.
    Intel,
    /// Somebody else, or one that does not tell.
    #[default]
    Other,
}

/// A processor, as it describes itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processor {
    /// Who made it.
    pub vendor: Vendor,
    /// The family, as the maker counts: 25 is AMD's Zen 3 and Zen 4, 26 is Zen 5, 6 is nearly everything of Intel's.
    pub family: u32,
    /// The model within its family.
    pub model: u32,
    /// What it is sold as; empty where it does not tell.
    pub name: String,
}

impl Processor {
    /// AMD's Zen 4 and Zen 5, which share family 25 with Zen 3.
    pub(crate) fn is_zen_4_or_5(&self) -> bool {
        let zen_4 = self.family == 25 && matches!(self.model, 0x10..=0x1f | 0x60..=0x7f | 0xa0..=0xaf);
        self.vendor == Vendor::Amd && (zen_4 || self.family == 26)
    }

    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            Self::from_cpuid(|leaf| {
                let registers = std::arch::x86_64::__cpuid(leaf);
                [registers.eax, registers.ebx, registers.ecx, registers.edx]
            })
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            Self { name: std::env::consts::ARCH.to_owned(), ..Self::default() }
        }
    }

    /// Reads a description in the form of x86's CPUID: registers A to D for each leaf.
    #[cfg(any(target_arch = "x86_64", test))]
    fn from_cpuid(leaf: impl Fn(u32) -> [u32; 4]) -> Self {
        let bytes =
            |registers: &[u32]| -> Vec<u8> { registers.iter().flat_map(|r| r.to_le_bytes()).collect() };
        let [highest, b, c, d] = leaf(0);
        let vendor = match bytes(&[b, d, c]).as_slice() {
            b"AuthenticAMD" => Vendor::Amd,
            b"GenuineIntel" => Vendor::Intel,
            _ => Vendor::Other,
        };
        let [signature, ..] = if highest >= 1 { leaf(1) } else { [0; 4] };
        let (base_family, base_model) = (signature >> 8 & 15, signature >> 4 & 15);
        // The longer fields count only where the shorter ones ask for them.
        let family = if base_family == 15 { 15 + (signature >> 20 & 255) } else { base_family };
        let model = match base_family {
            6 | 15 => (signature >> 16 & 15) << 4 | base_model,
            _ => base_model,
        };
        let mut name = Vec::new();
        if leaf(0x8000_0000)[0] >= 0x8000_0004 {
            (0x8000_0002..=0x8000_0004).for_each(|part| name.extend(bytes(&leaf(part))));
        }
        let name = String::from_utf8_lossy(&name);
        // Some fill it up with blanks, at either end and between words.
        let name = name.trim_end_matches('\0').split_whitespace().collect::<Vec<_>>().join(" ");
        Self { vendor, family, model, name }
    }
}

impl fmt::Display for Processor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "unknown processor" } else { &self.name };
        match self.family {
            0 => out.write_str(name),
            family => write!(out, "{name} (family {family}, model {})", self.model),
        }
    }
}

/// The processor that this program runs on; asked once.
pub fn processor() -> &'static Processor {
    static PROCESSOR: OnceLock<Processor> = OnceLock::new();
    PROCESSOR.get_or_init(Processor::detect)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One that tells its maker, family and model only.
    pub(crate) fn of(vendor: Vendor, family: u32, model: u32) -> Processor {
        Processor { vendor, family, model, name: String::new() }
    }

    /// A CPUID with this signature in leaf 1.
    fn cpuid(vendor: &[u8; 12], signature: u32, name: &str) -> Processor {
        let word = |bytes: &[u8], at: usize| -> u32 {
            let mut word = [0; 4];
            let from = bytes.get(at..).unwrap_or_default();
            let len = from.len().min(4);
            word[..len].copy_from_slice(&from[..len]);
            u32::from_le_bytes(word)
        };
        Processor::from_cpuid(|leaf| match leaf {
            0 => [13, word(vendor, 0), word(vendor, 8), word(vendor, 4)],
            1 => [signature, 0, 0, 0],
            0x8000_0000 => [if name.is_empty() { 0x8000_0001 } else { 0x8000_0008 }, 0, 0, 0],
            0x8000_0002..=0x8000_0004 => {
                let at = 16 * (leaf - 0x8000_0002) as usize;
                [0, 4, 8, 12].map(|register| word(name.as_bytes(), at + register))
            }
            _ => panic!("leaf {leaf:x} was not offered"),
        })
    }

    #[test]
    fn families_and_models_are_the_makers() {
        let zen_3 = cpuid(b"AuthenticAMD", 0x00a0_0f11, "AMD EPYC   7763 64-Core Processor");
        assert_eq!((zen_3.vendor, zen_3.family, zen_3.model), (Vendor::Amd, 25, 1));
        assert_eq!(zen_3.to_string(), "AMD EPYC 7763 64-Core Processor (family 25, model 1)");
        let rapids = cpuid(b"GenuineIntel", 0x000c_06f2, "");
        assert_eq!((rapids.vendor, rapids.family, rapids.model), (Vendor::Intel, 6, 207));
        assert_eq!(rapids.to_string(), "unknown processor (family 6, model 207)");
        let zen_5 = cpuid(b"AuthenticAMD", 0x00b0_0f21, "");
        assert_eq!((zen_5.family, zen_5.model), (26, 2));
        assert_eq!(cpuid(b"HygonGenuine", 0x0090_0f12, "").vendor, Vendor::Other);
    }

    #[test]
    fn zen_3_is_not_taken_for_its_successor() {
        for (family, model, is) in
            [(25, 0x01, false), (25, 0x21, false), (25, 0x50, false), (25, 0x44, false), (23, 0x31, false)]
                .into_iter()
                .chain([
                    (25, 0x11, true),
                    (25, 0x61, true),
                    (25, 0x74, true),
                    (25, 0xa0, true),
                    (26, 0x44, true),
                ])
        {
            assert_eq!(of(Vendor::Amd, family, model).is_zen_4_or_5(), is, "{family} {model:x}");
            assert!(!of(Vendor::Intel, family, model).is_zen_4_or_5());
        }
    }

    #[test]
    fn this_processor_has_a_name() {
        assert!(!processor().to_string().is_empty());
    }
}
