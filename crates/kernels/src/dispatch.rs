//! Which instructions the processor has, asked once, and which set of kernels follows from it.

use std::fmt;
use std::sync::OnceLock;

use crate::KernelError;
use crate::processor::{Processor, processor};

/// Environment variable that forces a set of kernels: `scalar`, `neon`, `avx2`, `avxvnni` or `avx512`.
pub const KERNELS_VARIABLE: &str = "LEVAIN_KERNELS";

/// A set of kernels. Results are the same for each; only the speed differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust.
    Scalar,
    /// 128-bit vectors of Arm's 64-bit processors: NEON with dot products, which Armv8.4 and later have.
    Neon,
    /// 256-bit vectors: AVX2, FMA and F16C.
    Avx2,
    /// 256-bit vectors with dot products: AVX2, FMA, F16C and AVX-VNNI.
    AvxVnni,
    /// 512-bit vectors: AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
}

impl Isa {
    /// Every set, each better than those before it.
    pub const ALL: [Self; 5] = [Self::Scalar, Self::Neon, Self::Avx2, Self::AvxVnni, Self::Avx512];

    /// The name that `LEVAIN_KERNELS` takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// Processor features that the kernels ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one bit that the processor reports")]
pub struct CpuFeatures {
    /// 256-bit integer vectors.
    pub avx2: bool,
    /// Fused multiply-add.
    pub fma: bool,
    /// Half-precision conversion.
    pub f16c: bool,
    /// 512-bit vectors: the F, BW, VL and DQ parts together.
    pub avx512: bool,
    /// 8-bit dot products on 512-bit vectors.
    pub avx512_vnni: bool,
    /// BF16 dot products on 512-bit vectors.
    pub avx512_bf16: bool,
    /// Byte permutations on 512-bit vectors.
    pub avx512_vbmi: bool,
    /// 8-bit dot products on 256-bit vectors.
    pub avx_vnni: bool,
    /// 128-bit vectors of 64-bit Arm.
    pub neon: bool,
    /// 8-bit dot products on those.
    pub neon_dotprod: bool,
}

impl CpuFeatures {
    /// The best set of kernels that these features allow.
    #[must_use]
    pub fn best_isa(&self) -> Isa {
        Isa::ALL.into_iter().rfind(|isa| self.supports(*isa)).unwrap_or(Isa::Scalar)
    }

    /// Whether these features allow `isa`.
    #[must_use]
    pub fn supports(&self, isa: Isa) -> bool {
        // Asked before every kernel, so it does not go through the list of names, which allocates.
        let avx2 = self.avx2 && self.fma && self.f16c;
        match isa {
            Isa::Scalar => true,
            Isa::Neon => self.neon && self.neon_dotprod,
            Isa::Avx2 => avx2,
            Isa::AvxVnni => avx2 && self.avx_vnni,
            Isa::Avx512 => avx2 && self.avx512 && self.avx512_vnni,
        }
    }

    /// The features that `isa` needs and this processor lacks.
    fn missing(&self, isa: Isa) -> Vec<&'static str> {
        let avx2 = [(self.avx2, "AVX2"), (self.fma, "FMA"), (self.f16c, "F16C")];
        let avx512 = [(self.avx512, "AVX-512 F/BW/VL/DQ"), (self.avx512_vnni, "AVX-512 VNNI")];
        let neon = [(self.neon, "NEON"), (self.neon_dotprod, "NEON dot products")];
        let needed: Vec<_> = match isa {
            Isa::Scalar => Vec::new(),
            Isa::Neon => neon.to_vec(),
            Isa::Avx2 => avx2.to_vec(),
            Isa::AvxVnni => avx2.iter().chain(&[(self.avx_vnni, "AVX-VNNI")]).copied().collect(),
            Isa::Avx512 => avx2.iter().chain(&avx512).copied().collect(),
        };
        needed.into_iter().filter(|(has, _)| !has).map(|(_, name)| name).collect()
    }

    /// Fuzz targets run no kernels and are built with the plain ones only, which is many times quicker.
    fn detect() -> Self {
        #[cfg(all(target_arch = "x86_64", not(fuzzing)))]
        {
            use std::arch::is_x86_feature_detected as has;
            Self {
                avx2: has!("avx2"),
                fma: has!("fma"),
                f16c: has!("f16c"),
                avx512: has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq"),
                avx512_vnni: has!("avx512vnni"),
                avx512_bf16: has!("avx512bf16"),
                avx512_vbmi: has!("avx512vbmi"),
                avx_vnni: has!("avxvnni"),
                ..Self::default()
            }
        }
        #[cfg(all(target_arch = "aarch64", not(fuzzing)))]
        {
            use std::arch::is_aarch64_feature_detected as has;
            Self { neon: has!("neon"), neon_dotprod: has!("dotprod"), ..Self::default() }
        }
        #[cfg(any(not(any(target_arch = "x86_64", target_arch = "aarch64")), fuzzing))]
        {
            Self::default()
        }
    }
}

/// What this processor has; asked once.
pub fn cpu_features() -> &'static CpuFeatures {
    static FEATURES: OnceLock<CpuFeatures> = OnceLock::new();
    FEATURES.get_or_init(CpuFeatures::detect)
}

/// The set of kernels in use: the best there is, or what `LEVAIN_KERNELS` asks for where the processor has it.
///
/// A variable that can't be followed is ignored here; [`check_isa`] tells the person who set it.
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| check_isa().unwrap_or_else(|_| cpu_features().best_isa()))
}

/// Reads `LEVAIN_KERNELS`; programs call it at start to refuse a value that can't be followed.
///
/// # Errors
/// [`KernelError::UnknownIsa`] or [`KernelError::IsaMissing`].
pub fn check_isa() -> Result<Isa, KernelError> {
    match std::env::var(KERNELS_VARIABLE) {
        Ok(value) if !value.is_empty() => choose(&value, cpu_features()),
        _ => Ok(cpu_features().best_isa()),
    }
}

/// Environment variable that says whether BF16 is multiplied by the instruction for it: `on` or `off`.
pub const BF16_VARIABLE: &str = "LEVAIN_BF16_DOT";

/// Whether kernels for AVX-512 multiply BF16 by the instruction for it (`vdpbf16ps`) and not by two fused multiply-adds of
/// f32, which give the same bits: where it is faster, or where `LEVAIN_BF16_DOT` says so and the processor has it.
pub fn bf16_dot() -> bool {
    static CHOSEN: OnceLock<bool> = OnceLock::new();
    *CHOSEN.get_or_init(|| check_bf16().unwrap_or_else(|_| bf16_dot_wins(processor(), cpu_features())))
}

/// Reads `LEVAIN_BF16_DOT`; programs call it at start to refuse a value that can't be followed.
///
/// # Errors
/// [`KernelError::UnknownSwitch`] or [`KernelError::NoBf16Dot`].
pub fn check_bf16() -> Result<bool, KernelError> {
    match std::env::var(BF16_VARIABLE) {
        Ok(value) if !value.is_empty() => choose_bf16(&value, cpu_features()),
        Err(std::env::VarError::NotUnicode(value)) => {
            Err(KernelError::UnknownSwitch { value: value.to_string_lossy().into_owned() })
        }
        _ => Ok(bf16_dot_wins(processor(), cpu_features())),
    }
}

fn choose_bf16(value: &str, features: &CpuFeatures) -> Result<bool, KernelError> {
    match value.to_ascii_lowercase().as_str() {
        "on" if features.avx512_bf16 => Ok(true),
        "on" => Err(KernelError::NoBf16Dot),
        "off" => Ok(false),
        _ => Err(KernelError::UnknownSwitch { value: value.to_owned() }),
    }
}

/// Intel's Sapphire Rapids takes twice as long for it as for two multiply-adds; AMD's Zen 4 and Zen 5 half as long.
fn bf16_dot_wins(processor: &Processor, features: &CpuFeatures) -> bool {
    features.avx512_bf16 && processor.is_zen_4_or_5()
}

fn choose(value: &str, features: &CpuFeatures) -> Result<Isa, KernelError> {
    let named = Isa::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(value));
    let isa = named.ok_or_else(|| KernelError::UnknownIsa { value: value.to_owned() })?;
    let missing = features.missing(isa);
    if missing.is_empty() {
        return Ok(isa);
    }
    let best = features.best_isa().name();
    Err(KernelError::IsaMissing { wanted: isa.name(), missing: missing.join(", "), best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forced_set_needs_its_features() {
        let none = CpuFeatures::default();
        assert_eq!(choose("scalar", &none), Ok(Isa::Scalar));
        assert_eq!(choose("SSE9", &none), Err(KernelError::UnknownIsa { value: "SSE9".into() }));
        let error = choose("avx512", &CpuFeatures { avx2: true, fma: true, f16c: true, ..none });
        let Err(KernelError::IsaMissing { missing, best, .. }) = error else { panic!("{error:?}") };
        assert_eq!(missing, "AVX-512 F/BW/VL/DQ, AVX-512 VNNI");
        assert_eq!(best, "avx2");
        let error = choose("Neon", &CpuFeatures { neon: true, ..none });
        let Err(KernelError::IsaMissing { missing, best, .. }) = error else { panic!("{error:?}") };
        assert_eq!((missing.as_str(), best), ("NEON dot products", "scalar"));
    }

    #[test]
    fn the_instruction_for_bf16_is_taken_where_it_wins() {
        use crate::processor::Vendor;
        use crate::processor::tests::of;
        let has = CpuFeatures { avx512_bf16: true, ..CpuFeatures::default() };
        for (vendor, family, model, wins) in [
            (Vendor::Amd, 25, 0x11, true),
            (Vendor::Amd, 26, 0x02, true),
            (Vendor::Intel, 6, 143, false),
            (Vendor::Intel, 6, 207, false),
            (Vendor::Other, 0, 0, false),
        ] {
            assert_eq!(bf16_dot_wins(&of(vendor, family, model), &has), wins, "{vendor:?} {family}");
            assert!(!bf16_dot_wins(&of(vendor, family, model), &CpuFeatures::default()));
        }
        assert_eq!(choose_bf16("ON", &has), Ok(true));
        assert_eq!(choose_bf16("off", &has), Ok(false));
        assert_eq!(choose_bf16("on", &CpuFeatures::default()), Err(KernelError::NoBf16Dot));
        let error = choose_bf16("yes", &has).unwrap_err();
        assert!(error.to_string().contains("on or off"), "{error}");
    }

    #[test]
    fn a_set_is_supported_when_nothing_is_missing() {
        let all = CpuFeatures {
            avx2: true,
            fma: true,
            f16c: true,
            avx512: true,
            avx512_vnni: true,
            avx_vnni: true,
            neon: true,
            neon_dotprod: true,
            ..CpuFeatures::default()
        };
        let without: [fn(&mut CpuFeatures); 8] = [
            |f| f.avx2 = false,
            |f| f.fma = false,
            |f| f.f16c = false,
            |f| f.avx512 = false,
            |f| f.avx512_vnni = false,
            |f| f.avx_vnni = false,
            |f| f.neon = false,
            |f| f.neon_dotprod = false,
        ];
        for isa in Isa::ALL {
            assert!(all.supports(isa) && all.missing(isa).is_empty(), "{isa}");
            for take in without {
                let mut features = all;
                take(&mut features);
                assert_eq!(features.supports(isa), features.missing(isa).is_empty(), "{isa} {features:?}");
            }
        }
        assert_eq!(all.best_isa(), Isa::Avx512);
        assert_eq!(CpuFeatures { avx512: false, ..all }.best_isa(), Isa::AvxVnni);
        assert_eq!(CpuFeatures { avx512: false, avx_vnni: false, ..all }.best_isa(), Isa::Avx2);
        assert_eq!(CpuFeatures { fma: false, ..all }.best_isa(), Isa::Neon);
        assert_eq!(CpuFeatures { fma: false, neon: false, ..all }.best_isa(), Isa::Scalar);
    }

    #[test]
    fn every_set_has_a_name_of_its_own() {
        let features = CpuFeatures::default();
        for isa in Isa::ALL {
            let chosen = choose(&isa.name().to_uppercase(), &features);
            match chosen {
                Ok(chosen) => assert_eq!(chosen, isa),
                Err(KernelError::IsaMissing { wanted, .. }) => assert_eq!(wanted, isa.name()),
                Err(other) => panic!("{other}"),
            }
        }
    }
}
