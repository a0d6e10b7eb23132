//! The inner loops, compiled for each instruction set, and the tables that choose among them.

#[expect(clippy::needless_range_loop, reason = "constant ranges unroll; iterators may not be inlined")]
mod direct;
#[expect(clippy::needless_range_loop, reason = "constant ranges unroll; iterators may not be inlined")]
mod tile;
#[expect(clippy::needless_range_loop, reason = "constant ranges unroll; iterators may not be inlined")]
mod words;

use std::ops::Range;

use crate::activations::{Tile, TileOut, quantize};
use crate::lanes::{LANES, Lanes, NTA, Scalar, T0, T1};
use crate::panel::Layout;
use crate::panel::codebook_formats::{Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs, Mxfp4, Tq2};
use crate::panel::formats::{
    Format, Iq4Nl, Iq4Xs, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Q8K,
};
use crate::prefetch::Way;
use crate::{DType, Isa};

pub(crate) use tile::{UNPACKED, Unpacked, stretch_of};
pub(crate) use words::F8_BLOCK;

/// Consecutive panels of a matrix, at most [`PANELS_MAX`].
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    pub(crate) start: [*const u8; PANELS_MAX],
    /// How many there are; beyond, the last one stands in.
    pub(crate) count: usize,
    pub(crate) layout: Layout,
    pub(crate) cols: usize,
    /// `F8E4M3`: the scale of each 128 columns, the same for the rows of a panel.
    pub(crate) scales: [*const f32; PANELS_MAX],
    /// How far ahead of its use a cache line is asked for, in bytes.
    pub(crate) ahead: usize,
}

impl Panels {
    /// How far ahead of byte `at` of each panel a line is asked for where all of them are read side by side: what comes
    /// after their ends is as many panels further on.
    #[inline(always)]
    fn ahead_in_turn(&self, at: usize) -> usize {
        let stride = self.layout.stride;
        if at + self.ahead < stride { self.ahead } else { self.ahead + (self.count - 1) * stride }
    }
}

/// Results of a tile: for each column up to 128 rows.
pub(crate) type Sums = [[f32; PANELS_MAX * LANES]; TILE_MAX];
/// Most panels that a kernel takes in one call.
pub(crate) const PANELS_MAX: usize = 8;
/// Widest tile of any instruction set.
pub(crate) const TILE_MAX: usize = 8;

/// Multiplies panels with a tile of activations, unpacking in registers.
pub(crate) type Direct = unsafe fn(Panels, Tile, &mut Sums);
/// Unpacks some groups of two panels.
pub(crate) type Unpack = unsafe fn(Panels, Range<usize>, Unpacked);
/// Multiplies a stretch of 32 unpacked rows with a tile of activations; see `tile::product`.
pub(crate) type Product32 = unsafe fn(Unpacked, usize, Tile, *mut f32, bool);
/// Stores sums of 32 rows; see `tile::store`.
pub(crate) type Store = unsafe fn(*const f32, usize, *mut f32, usize, Option<&[f32; 2 * LANES]>, bool);

/// The loops for one instruction set. All of them need its instructions, which is what makes them unsafe.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// Widest tile of the general product.
    pub(crate) tile: usize,
    /// Most columns that `direct` takes at once.
    pub(crate) direct_max: usize,
    /// Quantises the rows of a tile; see `activations::quantize`.
    pub(crate) quantize: unsafe fn(&[*const f32], usize, TileOut),
    /// By format, columns and how weights are asked for.
    pub(crate) direct: fn(DType, usize, Way) -> Direct,
    /// By format and how weights are asked for.
    pub(crate) unpack: fn(DType, Way) -> Unpack,
    /// By format and columns.
    pub(crate) product32: fn(DType, usize) -> Product32,
    pub(crate) store: Store,
}

impl Kernels {
    /// The loops for `isa`.
    ///
    /// # Panics
    /// If the processor does not have its instructions.
    pub(crate) fn of(isa: Isa) -> &'static Self {
        assert!(crate::cpu_features().supports(isa), "this processor has no {}", isa.name());
        match isa {
            Isa::Scalar => &scalar::KERNELS,
            #[cfg(all(target_arch = "x86_64", not(fuzzing)))]
            Isa::Avx2 => &avx2::KERNELS,
            #[cfg(all(target_arch = "x86_64", not(fuzzing)))]
            Isa::AvxVnni => &avx_vnni::KERNELS,
            #[cfg(all(target_arch = "x86_64", not(fuzzing)))]
            Isa::Avx512 => match (crate::cpu_features().avx512_vbmi, crate::bf16_dot()) {
                (false, false) => &avx512::KERNELS,
                (true, false) => &avx512_vbmi::KERNELS,
                (false, true) => &avx512_bf16::WITHOUT_VBMI,
                (true, true) => &avx512_bf16::WITH_VBMI,
            },
            #[cfg(all(target_arch = "aarch64", not(fuzzing)))]
            Isa::Neon => &neon::KERNELS,
            #[cfg(any(not(target_arch = "x86_64"), fuzzing))]
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => &scalar::KERNELS,
            #[cfg(any(not(target_arch = "aarch64"), fuzzing))]
            Isa::Neon => &scalar::KERNELS,
        }
    }
}

/// A function for one of the formats with codebooks.
macro_rules! by_codebook {
    ($dtype:expr, $format:ident => $function:expr) => {{
        macro_rules! arm {
            ($kind:ty) => {{
                type $format = $kind;
                $function
            }};
        }
        match $dtype {
            DType::IQ1_S => arm!(Iq1S),
            DType::IQ1_M => arm!(Iq1M),
            DType::IQ2_XXS => arm!(Iq2Xxs),
            DType::IQ2_XS => arm!(Iq2Xs),
            DType::IQ2_S => arm!(Iq2S),
            DType::IQ3_XXS => arm!(Iq3Xxs),
            DType::IQ3_S => arm!(Iq3S),
            _ => unreachable!("asked for formats with codebooks only"),
        }
    }};
}

/// A function for the format, `$name::<Format>`, or with a width too.
macro_rules! by_format {
    ($dtype:expr, $format:ident => $function:expr) => {{
        macro_rules! arm {
            ($kind:ty) => {{
                type $format = $kind;
                $function
            }};
        }
        match $dtype {
            DType::Q4_0 => arm!(Q4_0),
            DType::Q4_1 => arm!(Q4_1),
            DType::Q5_0 => arm!(Q5_0),
            DType::Q5_1 => arm!(Q5_1),
            DType::Q8_0 => arm!(Q8_0),
            DType::Q2_K => arm!(Q2K),
            DType::Q3_K => arm!(Q3K),
            DType::Q4_K => arm!(Q4K),
            DType::Q5_K => arm!(Q5K),
            DType::Q6_K => arm!(Q6K),
            DType::Q8_K => arm!(Q8K),
            DType::IQ4_NL => arm!(Iq4Nl),
            DType::IQ4_XS => arm!(Iq4Xs),
            DType::MXFP4 => arm!(Mxfp4),
            DType::TQ2_0 => arm!(Tq2),
            DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 => unreachable!("not for floats"),
            other => by_codebook!(other, $format => $function),
        }
    }};
}

/// The kernels that depend on the format, and their choice.
macro_rules! kernels_of_formats {
    ($lanes:ty, $by_format:ident, [$($features:literal)?], [$($direct_width:literal)*]) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn direct<F: Format, const N: usize, const HINT: u8>(panels: Panels, tile: Tile, sums: &mut Sums) {
            // SAFETY: the features are those of the lanes; the pointers are the table's caller's to vouch for.
            unsafe { direct::product::<$lanes, F, N, HINT>(panels, tile, sums) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn direct_in_turn<F: Format, const N: usize>(panels: Panels, tile: Tile, sums: &mut Sums) {
            // SAFETY: as above.
            unsafe { direct::in_turn::<$lanes, F, N, T0>(panels, tile, sums) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn unpack<F: Format, const HINT: u8>(panels: Panels, range: Range<usize>, to: Unpacked) {
            // SAFETY: as above.
            unsafe { tile::unpack::<$lanes, F, HINT>(panels, range, to) }
        }

        fn choose_direct(dtype: DType, width: usize, way: Way) -> Direct {
            $by_format!(dtype, Chosen => match (width, way) {
                (1, Way::T1) => direct::<Chosen, 1, T1>,
                $(
                    ($direct_width, Way::Nta) => direct::<Chosen, $direct_width, NTA>,
                    ($direct_width, _) => direct_in_turn::<Chosen, $direct_width>,
                )*
                _ => unreachable!("a width that tiles do not have"),
            })
        }

        fn choose_unpack(dtype: DType, way: Way) -> Unpack {
            $by_format!(dtype, Chosen => match way {
                Way::Nta => unpack::<Chosen, NTA>,
                Way::T1 | Way::InTurn => unpack::<Chosen, T0>,
            })
        }
    };
}

/// The kernels for floats, and their choice.
macro_rules! kernels_of_floats {
    (
        $lanes:ty, [$($dtype:ident: $words:ty)*], [$($features:literal)?], [$($direct_width:literal)*], [$($width:literal)*]
    ) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn words_direct<V: words::Words<$lanes>, const N: usize, const HINT: u8>(
            panels: Panels,
            tile: Tile,
            sums: &mut Sums,
        ) {
            // SAFETY: as for the other formats.
            unsafe { words::direct::<$lanes, V, N, HINT>(panels, tile, sums) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn words_in_turn<V: words::Words<$lanes>, const N: usize>(
            panels: Panels,
            tile: Tile,
            sums: &mut Sums,
        ) {
            // SAFETY: as above.
            unsafe { words::in_turn::<$lanes, V, N, T0>(panels, tile, sums) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn words_unpack<V: words::Words<$lanes>, const HINT: u8>(
            panels: Panels,
            range: Range<usize>,
            to: Unpacked,
        ) {
            // SAFETY: as above.
            unsafe { words::unpack::<$lanes, V, HINT>(panels, range, to) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn words_product<V: words::Words<$lanes>, const N: usize>(
            w: Unpacked,
            cols: usize,
            a: Tile,
            totals: *mut f32,
            first: bool,
        ) {
            // SAFETY: as above.
            unsafe { words::product::<$lanes, V, N>(w, cols, a, totals, first) }
        }

        /// The float formats that these are for.
        fn floats(dtype: DType) -> bool {
            matches!(dtype, $(DType::$dtype)|*)
        }

        fn choose_words_direct(dtype: DType, width: usize, way: Way) -> Direct {
            macro_rules! of {
                ($kind:ty) => {
                    match (width, way) {
                        (1, Way::T1) => words_direct::<$kind, 1, T1>,
                        $(
                            ($direct_width, Way::Nta) => words_direct::<$kind, $direct_width, NTA>,
                            ($direct_width, _) => words_in_turn::<$kind, $direct_width>,
                        )*
                        _ => unreachable!("a width that tiles do not have"),
                    }
                };
            }
            match dtype {
                $(DType::$dtype => of!($words),)*
                _ => unreachable!("for floats only"),
            }
        }

        fn choose_words_unpack(dtype: DType, way: Way) -> Unpack {
            match (dtype, way) {
                $(
                    (DType::$dtype, Way::Nta) => words_unpack::<$words, NTA>,
                    (DType::$dtype, Way::T1 | Way::InTurn) => words_unpack::<$words, T0>,
                )*
                _ => unreachable!("for floats only"),
            }
        }

        fn choose_words_product(dtype: DType, width: usize) -> Product32 {
            macro_rules! of {
                ($kind:ty) => {
                    match width {
                        $($width => words_product::<$kind, $width>,)*
                        _ => unreachable!("a width that tiles do not have"),
                    }
                };
            }
            match dtype {
                $(DType::$dtype => of!($words),)*
                _ => unreachable!("for floats only"),
            }
        }
    };
}

/// Functions that choose among those for floats and others.
macro_rules! floats_or {
    ($direct:expr, $unpack:expr, $product32:expr, $rest:expr) => {
        Kernels {
            direct: |dtype, width, way| match floats(dtype) {
                true => choose_words_direct(dtype, width, way),
                false => $direct(dtype, width, way),
            },
            unpack: |dtype, way| match floats(dtype) {
                true => choose_words_unpack(dtype, way),
                false => $unpack(dtype, way),
            },
            product32: |dtype, width| match floats(dtype) {
                true => choose_words_product(dtype, width),
                false => $product32(dtype, width),
            },
            ..$rest
        }
    };
}

/// The kernels of one instruction set, in a module of its own.
macro_rules! kernels_for {
    ($module:ident, $lanes:ty, [$($features:literal)?], [$($direct_width:literal)*], [$($width:literal)*]) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $features)])?
            unsafe fn quantize_tile(rows: &[*const f32], cols: usize, to: TileOut) {
                // SAFETY: the table's caller keeps the contract of `quantize`.
                unsafe { quantize::<$lanes>(rows, cols, to) }
            }

            kernels_of_formats!($lanes, by_format, [$($features)?], [$($direct_width)*]);
            kernels_of_floats!(
                $lanes,
                [F32: words::F32 F16: words::F16 BF16: words::Bf16 F8E4M3: words::F8],
                [$($features)?],
                [$($direct_width)*],
                [$($width)*]
            );

            $(#[target_feature(enable = $features)])?
            unsafe fn product32<const SUPER: bool, const SIXTEENS: bool, const MIN: bool, const N: usize>(
                w: Unpacked,
                cols: usize,
                a: Tile,
                totals: *mut f32,
                first: bool,
            ) {
                // SAFETY: as above.
                unsafe { tile::product::<$lanes, SUPER, SIXTEENS, MIN, N>(w, cols, a, totals, first) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn store(
                sums: *const f32,
                width: usize,
                y: *mut f32,
                rows: usize,
                bias: Option<&[f32; 2 * LANES]>,
                add: bool,
            ) {
                // SAFETY: as above.
                unsafe { tile::store::<$lanes>(sums, width, y, rows, bias, add) }
            }

            fn choose_product32(dtype: DType, width: usize) -> Product32 {
                macro_rules! shape {
                    ($blocks:literal, $sixteens:literal, $min:literal) => {
                        match width {
                            $($width => product32::<$blocks, $sixteens, $min, $width>,)*
                            _ => unreachable!("a width that tiles do not have"),
                        }
                    };
                }
                match tile::shape(dtype) {
                    (false, _, false) => shape!(false, false, false),
                    (false, _, true) => shape!(false, false, true),
                    (true, false, false) => shape!(true, false, false),
                    (true, false, true) => shape!(true, false, true),
                    (true, true, false) => shape!(true, true, false),
                    (true, true, true) => shape!(true, true, true),
                }
            }

            const OTHERS: Kernels = Kernels {
                tile: <$lanes as Lanes>::TILE,
                direct_max: <$lanes as Lanes>::DIRECT,
                quantize: quantize_tile,
                direct: choose_direct,
                unpack: choose_unpack,
                product32: choose_product32,
                store,
            };
            pub(super) static KERNELS: Kernels =
                floats_or!(choose_direct, choose_unpack, choose_product32, OTHERS);
        }
    };
}

kernels_for!(scalar, Scalar, [], [1], [1]);
#[cfg(all(target_arch = "aarch64", not(fuzzing)))]
kernels_for!(neon, crate::lanes::Neon, ["neon,dotprod"], [1 2], [1 2 3]);
#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
kernels_for!(avx2, crate::lanes::Avx2<false>, ["avx2,fma,f16c"], [1 2], [1 2 3]);
#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
kernels_for!(avx_vnni, crate::lanes::Avx2<true>, ["avx2,fma,f16c,avxvnni"], [1 2], [1 2 3]);
#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
kernels_for!(
    avx512,
    crate::lanes::Avx512,
    ["avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"],
    [1 2 3 4 5 6 7 8],
    [1 2 3 4 5 6]
);

/// AVX-512 with VBMI, which only the codebooks gain by.
#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
mod avx512_vbmi {
    use super::*;

    kernels_of_formats!(
        crate::lanes::Avx512Vbmi,
        by_codebook,
        ["avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi"],
        [1 2 3 4 5 6 7 8]
    );

    fn choose_direct_of_all(dtype: DType, width: usize, way: Way) -> Direct {
        if dtype.has_codebook() {
            choose_direct(dtype, width, way)
        } else {
            (avx512::KERNELS.direct)(dtype, width, way)
        }
    }

    fn choose_unpack_of_all(dtype: DType, way: Way) -> Unpack {
        if dtype.has_codebook() { choose_unpack(dtype, way) } else { (avx512::KERNELS.unpack)(dtype, way) }
    }

    pub(super) static KERNELS: Kernels =
        Kernels { direct: choose_direct_of_all, unpack: choose_unpack_of_all, ..avx512::KERNELS };
}

/// AVX-512 with products of BF16.
#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
mod avx512_bf16 {
    use super::*;

    kernels_of_floats!(
        crate::lanes::Avx512,
        [BF16: words::Bf16Dot],
        ["avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16"],
        [1 2 3 4 5 6 7 8],
        [1 2 3 4 5 6]
    );

    macro_rules! and_the_others {
        ($others:expr) => {
            floats_or!(($others.direct), ($others.unpack), ($others.product32), $others)
        };
    }

    pub(super) static WITHOUT_VBMI: Kernels = and_the_others!(avx512::KERNELS);
    pub(super) static WITH_VBMI: Kernels = and_the_others!(avx512_vbmi::KERNELS);
}
