//! Which instructions the processor has, asked once, and which set of kernels follows from it.

use std::fmt;
use std::sync::OnceLock;

use crate::KernelError;

/// Environment variable that forces a set of kernels: `scalar`, `avx2` or `avx512`.
pub const KERNELS_VARIABLE: &str = "LEVAIN_KERNELS";

/// A set of kernels. Results are the same for each; only the speed differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust.
    Scalar,
    /// 256-bit vectors: AVX2, FMA and F16C.
    Avx2,
    /// 512-bit vectors: AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
}

impl Isa {
    /// The name that `LEVAIN_KERNELS` takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
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
}

impl CpuFeatures {
    /// The best set of kernels that these features allow.
    #[must_use]
    pub fn best_isa(&self) -> Isa {
        // Asked before every kernel, so it does not go through the list of names, which allocates.
        let avx2 = self.avx2 && self.fma && self.f16c;
        match (avx2, self.avx512 && self.avx512_vnni) {
            (true, true) => Isa::Avx512,
            (true, false) => Isa::Avx2,
            (false, _) => Isa::Scalar,
        }
    }

    /// The features that `isa` needs and this processor lacks.
    fn missing(&self, isa: Isa) -> Vec<&'static str> {
        let avx2 = [(self.avx2, "AVX2"), (self.fma, "FMA"), (self.f16c, "F16C")];
        let avx512 = [(self.avx512, "AVX-512 F/BW/VL/DQ"), (self.avx512_vnni, "AVX-512 VNNI")];
        let needed: Vec<_> = match isa {
            Isa::Scalar => Vec::new(),
            Isa::Avx2 => avx2.to_vec(),
            Isa::Avx512 => avx2.iter().chain(&avx512).copied().collect(),
        };
        needed.into_iter().filter(|(has, _)| !has).map(|(_, name)| name).collect()
    }

    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
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
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
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

fn choose(value: &str, features: &CpuFeatures) -> Result<Isa, KernelError> {
    let isa = match value.to_ascii_lowercase().as_str() {
        "scalar" => Isa::Scalar,
        "avx2" => Isa::Avx2,
        "avx512" => Isa::Avx512,
        _ => return Err(KernelError::UnknownIsa { value: value.to_owned() }),
    };
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
    }
}
