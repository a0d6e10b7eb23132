//! Products of activations with weight matrices.

use crate::call::{Call, PerWorker, TARGETS_MAX, Target, for_each_range};
use crate::kernels::Kernels;
use crate::panel::panels;
use crate::workspace::Workspace;
use crate::{Isa, Matrix, Pool, isa};

/// One weight matrix of a [`matmul`] call and where its result goes.
#[derive(Debug)]
pub struct Product<'a> {
    /// The weights, `[rows, cols]`.
    pub w: &'a Matrix,
    /// Added to each result row, `[rows]`.
    pub bias: Option<&'a [f32]>,
    /// The result, `[n, rows]`.
    pub y: &'a mut [f32],
    /// Whether the result is added to what `y` holds.
    pub add: bool,
}

/// `y[n, rows] = x[n, cols] · wᵀ` for each product; all share `x`, which is quantised once.
///
/// Each result is computed by the same operations in the same order whatever `n` is, wherever its row stands in
/// `x`, however many threads work and whichever instructions they use.
///
/// # Panics
/// When a slice does not have the length that its shape asks for.
pub fn matmul(pool: &Pool, ws: &mut Workspace, x: &[f32], n: usize, products: &mut [Product<'_>]) {
    matmul_on(isa(), pool, ws, x, n, products);
}

/// The gated feed-forward block of Llama and its kin: `y = down · (silu(gate · x) * (up · x))`, or added to `y`.
///
/// `x` is `[n, gate.cols]`, `y` is `[n, down.rows]`.
///
/// # Panics
/// When the shapes do not fit together.
pub fn gated_mlp(
    pool: &Pool,
    ws: &mut Workspace,
    x: &[f32],
    n: usize,
    gate: &Matrix,
    up: &Matrix,
    down: &Matrix,
    y: &mut [f32],
    add: bool,
) {
    gated_mlp_on(isa(), pool, ws, x, n, [gate, up, down], y, add);
}

/// [`matmul`] with a set of kernels that the processor has.
pub(crate) fn matmul_on(
    isa: Isa,
    pool: &Pool,
    ws: &mut Workspace,
    x: &[f32],
    n: usize,
    products: &mut [Product<'_>],
) {
    let Some(cols) = products.first().map(|product| product.w.cols()) else { return };
    assert_eq!(Some(x.len()), n.checked_mul(cols), "x is [n, cols]");
    for product in products.iter() {
        assert_eq!(product.w.cols(), cols, "products of one call share x");
        assert_eq!(Some(product.y.len()), n.checked_mul(product.w.rows()), "y is [n, rows]");
        assert!(product.bias.is_none_or(|bias| bias.len() == product.w.rows()), "a bias for each row");
    }
    if n == 0 {
        return;
    }
    let kernels = Kernels::of(isa);
    ws.reserve_scratch(pool.threads());
    let dtypes = products.iter().map(|product| product.w.dtype());
    ws.inputs.fill(kernels, Some(pool), &|row| &x[row * cols..], n, cols, dtypes);
    let sample = ws.prefetch.sample(n, products.iter().map(|product| product.w));
    let scratch = PerWorker(ws.scratch.as_mut_ptr());
    for products in products.chunks_mut(TARGETS_MAX) {
        let mut targets = [None; TARGETS_MAX];
        for (target, product) in targets.iter_mut().zip(products) {
            let Product { w, bias, ref mut y, add } = *product;
            *target =
                Some(Target { w, bias, y: y.as_mut_ptr(), add, prefetch: ws.prefetch.of(w.dtype(), sample) });
        }
        let turns = turns(pool, targets.iter().flatten());
        let call = Call::new(kernels, &ws.inputs, n, turns);
        // SAFETY: a scratch was reserved for each thread; the lengths of the targets were compared above, and they are
        // borrowed exclusively.
        unsafe { call.run(pool, scratch, &targets) };
    }
    ws.prefetch.end(sample);
}

/// [`gated_mlp`] with a set of kernels that the processor has; the matrices are gate, up and down.
pub(crate) fn gated_mlp_on(
    isa: Isa,
    pool: &Pool,
    ws: &mut Workspace,
    x: &[f32],
    n: usize,
    [gate, up, down]: [&Matrix; 3],
    y: &mut [f32],
    add: bool,
) {
    let (cols, width) = (gate.cols(), gate.rows());
    assert_eq!(Some(x.len()), n.checked_mul(cols), "x is [n, cols]");
    assert_eq!((up.rows(), up.cols()), (width, cols), "gate and up have equal shapes");
    assert_eq!(down.cols(), width, "down takes what gate gives");
    if n == 0 {
        return;
    }
    let kernels = Kernels::of(isa);
    ws.reserve_scratch(pool.threads());
    ws.reserve_hidden(n, width);
    let dtypes = [gate.dtype(), up.dtype()].into_iter();
    ws.inputs.fill(kernels, Some(pool), &|row| &x[row * cols..], n, cols, dtypes);
    let sample = ws.prefetch.sample(n, [gate, up].into_iter());
    let scratch = PerWorker(ws.scratch.as_mut_ptr());
    let hidden = &mut ws.gate[..n * width];
    let targets = [(gate, hidden.as_mut_ptr()), (up, ws.up.as_mut_ptr())];
    let targets = targets.map(|(w, y)| {
        let prefetch = ws.prefetch.of(w.dtype(), sample);
        Target { w, bias: None, y, add: false, prefetch }
    });
    let call = Call::new(kernels, &ws.inputs, n, turns(pool, targets[..1].iter()));
    for_each_range(pool, call.units(width), &|range, worker| {
        // SAFETY: there is a scratch for each worker, and a worker runs one task at a time.
        let scratch = unsafe { scratch.get(worker) };
        // SAFETY: each unit is in one range only; a range writes and then reads its own rows of the two hidden
        // buffers, which hold `n` rows of `width` values.
        unsafe {
            call.gated(isa, &targets, range, scratch);
        }
    });
    ws.prefetch.end(sample);
    // The hidden values are read while the workspace is in use again, so they leave it for the moment.
    let hidden = std::mem::take(&mut ws.gate);
    matmul_on(isa, pool, ws, &hidden[..n * width], n, &mut [Product { w: down, bias: None, y, add }]);
    ws.gate = hidden;
}

/// Panels that take turns in a call that computes these targets together.
fn turns<'a>(pool: &Pool, targets: impl Iterator<Item = &'a Target<'a>> + Clone) -> usize {
    let total = targets.clone().map(|target| panels(target.w.rows())).sum();
    targets.map(|target| Call::turns(pool, target.prefetch, total)).max().unwrap_or(1)
}

#[cfg(test)]
pub(crate) mod tests;
