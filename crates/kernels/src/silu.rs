//! The activation between the projections of a gated feed-forward block.

use crate::Isa;
use crate::simd::{Kernel, LANES, Simd, dispatch_on};

/// `gate = silu(gate) * up`, with `silu(x) = x / (1 + exp(-x))`.
pub(crate) fn silu_mul(isa: Isa, gate: &mut [f32], up: &[f32]) {
    dispatch_on(isa, SiluMul { gate, up });
}

struct SiluMul<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (gate, up) in self.gate.chunks_mut(LANES).zip(self.up.chunks(LANES)) {
            let (g, u) = (s.load_slice(gate, 0.0), s.load_slice(up, 0.0));
            let e = s.exp(s.sub(s.splat(0.0), g));
            let silu = s.div(g, s.add(s.splat(1.0), e));
            s.store_slice(gate, s.mul(silu, u));
        }
    }
}
