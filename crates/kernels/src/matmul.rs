//! Products of activations with weight matrices.

use crate::{Matrix, Pool};

/// Scratch memory that products reuse; it grows to what the largest call needs and then stays.
#[derive(Debug, Default)]
pub struct Workspace {
    row: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Workspace {
    /// Scratch for inputs of up to `max_rows` rows of `max_cols` values.
    #[must_use]
    pub fn new(max_rows: usize, max_cols: usize) -> Self {
        let _ = max_rows;
        Self { row: vec![0.0; max_cols], gate: Vec::new(), up: Vec::new() }
    }
}

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
/// Each result is the same whatever `n` is, wherever its row stands in `x` and however many threads work.
///
/// # Panics
/// When a slice does not have the length its shape asks for.
pub fn matmul(pool: &Pool, ws: &mut Workspace, x: &[f32], n: usize, products: &mut [Product<'_>]) {
    let _ = pool;
    for product in products {
        let (rows, cols) = (product.w.rows(), product.w.cols());
        assert_eq!(x.len(), n * cols, "x is [n, cols]");
        assert_eq!(product.y.len(), n * rows, "y is [n, rows]");
        ws.row.resize(cols, 0.0);
        for row in 0..rows {
            product.w.row_to_f32(row, &mut ws.row);
            for (x, y) in x.chunks_exact(cols).zip(product.y.chunks_exact_mut(rows)) {
                let mut sum: f32 = x.iter().zip(&ws.row).fold(0.0, |sum, (x, w)| x.mul_add(*w, sum));
                if let Some(bias) = product.bias {
                    sum += bias[row];
                }
                if product.add {
                    sum += y[row];
                }
                y[row] = sum;
            }
        }
    }
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
    let width = gate.rows();
    assert_eq!(up.rows(), width, "gate and up have equal shapes");
    assert_eq!(down.cols(), width, "down takes what gate gives");
    let (mut g, mut u) = (std::mem::take(&mut ws.gate), std::mem::take(&mut ws.up));
    g.resize(n * width, 0.0);
    u.resize(n * width, 0.0);
    matmul(
        pool,
        ws,
        x,
        n,
        &mut [
            Product { w: gate, bias: None, y: &mut g, add: false },
            Product { w: up, bias: None, y: &mut u, add: false },
        ],
    );
    for (g, u) in g.iter_mut().zip(&u) {
        *g = *g / (1.0 + (-*g).exp()) * u;
    }
    matmul(pool, ws, &g, n, &mut [Product { w: down, bias: None, y, add }]);
    (ws.gate, ws.up) = (g, u);
}
