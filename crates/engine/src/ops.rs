//! The operations that architectures are written in, on the CPU.
//!
//! Rows are tokens of any sequences, in any mix; `n` is their number. Every output row depends on its own input
//! row and on what the cache holds for its sequence, never on the other rows of the call.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use levain_kernels::{
    AttentionWorkspace, ExpertStack, KeyValueRows, KvCache, Matrix, Pool, PrefetchChoice, PrefetchPolicy,
    Product, RopeTable, Routing, SeqRows, Workspace, attention, attention_over_rows, gated_mlp, matmul,
    moe_mlp, vector,
};

use crate::engine::lock;
use crate::error::EngineError;

/// What a step computes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForwardBatch<'a> {
    /// Each row's token.
    pub(crate) tokens: &'a [u32],
    /// Where in the cache each row's keys and values go.
    pub(crate) slots: &'a [u32],
    pub(crate) rows: BatchRows<'a>,
    /// The rows whose results are wanted, where that is not all of them.
    pub(crate) wanted: Option<WantedRows<'a>>,
}

impl ForwardBatch<'_> {
    pub(crate) fn n(&self) -> usize {
        self.tokens.len()
    }
}

/// Rows and the sequences they belong to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchRows<'a> {
    /// Each row's position in its sequence.
    pub(crate) positions: &'a [u32],
    /// Which rows belong to which sequence.
    pub(crate) sequences: &'a [SeqRows<'a>],
    /// For each sequence the positions at which latent attention computes its rows in the expanded form; none where
    /// the list is shorter.
    pub(crate) expanded: &'a [Range<usize>],
}

impl BatchRows<'_> {
    pub(crate) fn n(&self) -> usize {
        self.positions.len()
    }
}

/// Some rows of a step. Of the others the last layer computes keys and values only: nothing comes after it that
/// would need more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WantedRows<'a> {
    /// Their numbers in the step, ascending.
    pub(crate) indices: &'a [usize],
    /// The same rows, numbered from 0.
    pub(crate) rows: BatchRows<'a>,
}

impl WantedRows<'_> {
    /// Moves the wanted rows of `x` `[n, width]` to its beginning.
    pub(crate) fn gather(&self, x: &mut [f32], width: usize) {
        for (to, from) in self.indices.iter().enumerate() {
            x.copy_within(from * width..(from + 1) * width, to * width);
        }
    }

    /// Moves them back to their places. The other rows are no numbers then, so that none can be taken for a result.
    pub(crate) fn scatter(&self, x: &mut [f32], width: usize) {
        let mut end = x.len();
        for (from, to) in self.indices.iter().enumerate().rev() {
            x.copy_within(from * width..(from + 1) * width, to * width);
            x[(to + 1) * width..end].fill(f32::NAN);
            end = to * width;
        }
        x[..end].fill(f32::NAN);
    }
}

/// A weight matrix `[out, in]` with its bias `[out]`, if it has one. Whether and how the matrix is quantised is its own affair.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Matrix,
    pub(crate) bias: Option<Vec<f32>>,
}

/// The gated feed-forward block's three matrices: gate and up `[intermediate, hidden]`, down `[hidden, intermediate]`.
#[derive(Debug)]
pub(crate) struct GatedMlp {
    pub(crate) gate_proj: Matrix,
    pub(crate) up_proj: Matrix,
    pub(crate) down_proj: Matrix,
}

/// The three matrices of all of a layer's experts.
#[derive(Debug)]
pub(crate) struct ExpertStacks {
    pub(crate) gate_proj: ExpertStack,
    pub(crate) up_proj: ExpertStack,
    pub(crate) down_proj: ExpertStack,
}

/// The weight of an RMS norm, and its epsilon.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    pub(crate) weight: Vec<f32>,
    pub(crate) eps: f32,
}

/// Where heads lie in a row: head h begins at `h * stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadRows {
    pub(crate) stride: usize,
}

/// Rows that a thread copies at a time.
const ROWS_A_TASK: usize = 64;

/// The CPU: its threads and their scratch memory.
#[derive(Debug)]
pub(crate) struct Ops {
    pool: Arc<Pool>,
    matmul: Workspace,
    attention: AttentionWorkspace,
    /// One for each thread, for products that are too small to be shared among threads.
    own: Vec<Mutex<OwnScratch>>,
    /// Why the step under way is void.
    failure: Option<EngineError>,
    /// Something was learnt about how to ask for weights, and nobody was told.
    prefetch_news: bool,
    /// Results of such products, one for each head.
    heads: Vec<Mutex<Vec<f32>>>,
}

/// Scratch of one thread.
#[derive(Debug)]
struct OwnScratch {
    matmul: Workspace,
    x: Vec<f32>,
}

impl GatedMlp {
    /// Calls `f` with each matrix, in the order of their use.
    pub(crate) fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Matrix)) {
        let Self { gate_proj, up_proj, down_proj } = self;
        [gate_proj, up_proj, down_proj].into_iter().for_each(f);
    }
}

impl ExpertStacks {
    /// Calls `f` with each matrix of each expert.
    pub(crate) fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Matrix)) {
        let Self { gate_proj, up_proj, down_proj } = self;
        [gate_proj, up_proj, down_proj].into_iter().flat_map(ExpertStack::iter_mut).for_each(f);
    }
}

impl Ops {
    /// Scratch for calls of up to `rows_max` rows of up to `cols_max` values.
    pub(crate) fn new(pool: Arc<Pool>, rows_max: usize, cols_max: usize, prefetch: PrefetchPolicy) -> Self {
        // What is learnt comes from the products that all threads share.
        let own_prefetch = match prefetch {
            PrefetchPolicy::Learn | PrefetchPolicy::LearnFrom(_) => PrefetchPolicy::First,
            prefetch => prefetch,
        };
        let own = || {
            let matmul = Workspace::new(1, 1).with_prefetch(own_prefetch);
            Mutex::new(OwnScratch { matmul, x: Vec::new() })
        };
        Self {
            own: (0..pool.threads()).map(|_| own()).collect(),
            heads: Vec::new(),
            failure: None,
            prefetch_news: false,
            pool,
            matmul: Workspace::new(rows_max, cols_max).with_prefetch(prefetch),
            attention: AttentionWorkspace::new(),
        }
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Tells that a step begins.
    pub(crate) fn begin_step(&mut self) {
        if !self.matmul.begin_step() {
            return;
        }
        for own in &self.own {
            lock(own).matmul.follow_prefetch(&self.matmul);
        }
        self.prefetch_news = true;
        for choice in self.matmul.prefetch_choices() {
            let PrefetchChoice { dtype, prefetch, first, gb_per_s, first_gb_per_s } = choice;
            tracing::info!(
                "prefetch for {dtype}: {prefetch}, {gb_per_s:.1} GB/s; began with {first}, {first_gb_per_s:.1} GB/s"
            );
        }
    }

    /// What was learnt about how to ask for weights, if that is more than the last time.
    pub(crate) fn take_prefetch_news(&mut self) -> Option<Vec<PrefetchChoice>> {
        std::mem::take(&mut self.prefetch_news).then(|| self.matmul.prefetch_choices().collect())
    }

    /// Notes that the step under way is void. It goes on with wrong numbers to its end, where the first failure
    /// is reported.
    pub(crate) fn fail(&mut self, error: EngineError) {
        self.failure.get_or_insert(error);
    }

    pub(crate) fn take_failure(&mut self) -> Option<EngineError> {
        let failure = self.matmul.take_failure().map(EngineError::from);
        self.failure.take().or(failure)
    }

    /// Gives back what only weights need that are not packed yet.
    pub(crate) fn forget_unpacked(&mut self) {
        self.matmul.forget_unpacked();
    }

    /// `x[i] = weight[tokens[i]]`, `[n, hidden]`.
    pub(crate) fn embed(&self, weight: &Matrix, tokens: &[u32], x: &mut [f32]) {
        for (row, &token) in x.chunks_exact_mut(weight.cols()).zip(tokens) {
            weight.row_to_f32(token as usize, row);
        }
    }

    /// `y = norm(x)`, both `[n, dim]`.
    pub(crate) fn norm(&self, norm: &RmsNorm, x: &[f32], n: usize, y: &mut [f32]) {
        vector::rms_norm(&self.pool, x, n, &norm.weight, norm.eps, y);
    }

    /// `y = x · wᵀ + bias` for several matrices of the same `x` `[n, in]`.
    pub(crate) fn linear<const N: usize>(
        &mut self,
        x: &[f32],
        n: usize,
        outputs: [(&Linear, &mut [f32]); N],
    ) {
        let mut products = outputs.map(|(linear, y)| Product {
            w: &linear.weight,
            bias: linear.bias.as_deref(),
            y,
            add: false,
        });
        matmul(&self.pool, &mut self.matmul, x, n, &mut products);
    }

    /// `y += x · wᵀ + bias`.
    pub(crate) fn linear_add(&mut self, linear: &Linear, x: &[f32], n: usize, y: &mut [f32]) {
        let product = Product { w: &linear.weight, bias: linear.bias.as_deref(), y, add: true };
        matmul(&self.pool, &mut self.matmul, x, n, &mut [product]);
    }

    /// `y = x · wᵀ` without a bias.
    pub(crate) fn project(&mut self, weight: &Matrix, x: &[f32], n: usize, y: &mut [f32]) {
        let product = Product { w: weight, bias: None, y, add: false };
        matmul(&self.pool, &mut self.matmul, x, n, &mut [product]);
    }

    /// `y = x · wᵀ` without a bias for each pair of matrix and result; all share `x` `[n, in]`.
    pub(crate) fn project_each<'a>(
        &mut self,
        outputs: impl Iterator<Item = (&'a Matrix, &'a mut [f32])>,
        x: &[f32],
        n: usize,
    ) {
        let product = |(w, y)| Product { w, bias: None, y, add: false };
        let mut products: Vec<Product<'_>> = outputs.map(product).collect();
        matmul(&self.pool, &mut self.matmul, x, n, &mut products);
    }

    /// Fills the rows of two arrays, given with their widths, side by side on all threads.
    pub(crate) fn for_rows(
        &self,
        (a, a_width, b, b_width): (&mut [f32], usize, &mut [f32], usize),
        fill: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        let parts = a.chunks_mut(ROWS_A_TASK * a_width).zip(b.chunks_mut(ROWS_A_TASK * b_width));
        let parts: Vec<_> = parts.map(Mutex::new).collect();
        self.pool.run(parts.len(), &|index| {
            let mut part = lock(&parts[index]);
            let (a, b) = &mut *part;
            for (row, (a, b)) in a.chunks_exact_mut(a_width).zip(b.chunks_exact_mut(b_width)).enumerate() {
                fill(index * ROWS_A_TASK + row, a, b);
            }
        });
    }

    /// `y[i, h] = x[i, h] · weights[h]ᵀ` for each row i and head h: every head has a matrix of its own.
    ///
    /// A head's input is the first `cols` values from its place in `x`; its output goes to its place in `y`. Other
    /// values of `y` are left alone.
    pub(crate) fn linear_per_head(
        &mut self,
        weights: &[Matrix],
        x: &[f32],
        x_heads: HeadRows,
        y: &mut [f32],
        y_heads: HeadRows,
        n: usize,
    ) {
        let (x_len, y_len) = (weights.len() * x_heads.stride, weights.len() * y_heads.stride);
        self.heads.resize_with(self.heads.len().max(weights.len()), Mutex::default);
        let (pool, own, heads) = (&self.pool, &self.own, &self.heads);
        pool.run_on_workers(weights.len(), &|head, worker| {
            let weight = &weights[head];
            let mut scratch = lock(&own[worker]);
            let OwnScratch { matmul: workspace, x: gathered } = &mut *scratch;
            let cols = weight.cols();
            gathered.clear();
            for row in x.chunks_exact(x_len) {
                gathered.extend_from_slice(&row[head * x_heads.stride..][..cols]);
            }
            let mut result = lock(&heads[head]);
            result.resize(n * weight.rows(), 0.0);
            let product = Product { w: weight, bias: None, y: &mut result, add: false };
            // Inside a task the pool runs this on the task's own thread.
            matmul(pool, workspace, gathered, n, &mut [product]);
        });
        for (head, weight) in weights.iter().enumerate() {
            let result = lock(&heads[head]);
            for (row, result) in y.chunks_exact_mut(y_len).zip(result.chunks_exact(weight.rows())) {
                row[head * y_heads.stride..][..weight.rows()].copy_from_slice(result);
            }
        }
    }

    /// `y = down(silu(gate(x)) · up(x))`, both `[n, hidden]`.
    pub(crate) fn gated_mlp(&mut self, mlp: &GatedMlp, x: &[f32], n: usize, y: &mut [f32]) {
        let GatedMlp { gate_proj, up_proj, down_proj } = mlp;
        gated_mlp(&self.pool, &mut self.matmul, x, n, gate_proj, up_proj, down_proj, y, false);
    }

    /// `y += down(silu(gate(x)) · up(x))`, both `[n, hidden]`.
    pub(crate) fn gated_mlp_add(&mut self, mlp: &GatedMlp, x: &[f32], n: usize, y: &mut [f32]) {
        let GatedMlp { gate_proj, up_proj, down_proj } = mlp;
        gated_mlp(&self.pool, &mut self.matmul, x, n, gate_proj, up_proj, down_proj, y, true);
    }

    /// `y[i] += Σ weight · down(silu(gate(x[i])) · up(x[i]))` over the experts of each row i, both `[n, hidden]`.
    pub(crate) fn moe_mlp_add(
        &mut self,
        experts: &ExpertStacks,
        routing: &Routing<'_>,
        x: &[f32],
        y: &mut [f32],
    ) {
        let ExpertStacks { gate_proj, up_proj, down_proj } = experts;
        moe_mlp(&self.pool, &mut self.matmul, x, routing, [gate_proj, up_proj, down_proj], y, true);
    }

    /// Turns dimensions `offset..offset + table.dim()` of each head of `x` `[n, n_heads * head_dim]` by its row's position.
    pub(crate) fn rope(
        &self,
        table: &RopeTable,
        x: &mut [f32],
        n_heads: usize,
        head_dim: usize,
        offset: usize,
        positions: &[u32],
    ) {
        table.apply(&self.pool, x, n_heads, head_dim, offset, positions);
    }

    /// Writes keys and values of a layer into the cache.
    pub(crate) fn append(&self, kv: &mut KvCache, layer: usize, slots: &[u32], k: &[f32], v: &[f32]) {
        kv.append(&self.pool, layer, slots, k, v);
    }

    /// Causal attention of `q` `[n, n_heads * k_dim]` over the cache, into `out` `[n, n_heads * v_dim]`.
    pub(crate) fn attention(
        &mut self,
        q: &[f32],
        kv: &KvCache,
        layer: usize,
        sequences: &[SeqRows<'_>],
        n_heads: usize,
        scale: f32,
        out: &mut [f32],
    ) {
        let ws = &mut self.attention;
        attention(&self.pool, ws, q, kv, layer, sequences, n_heads, scale, out);
    }

    /// Causal attention of `q` `[n, n_heads * k_dim]`, whose rows begin at `first_position`, over plain keys and
    /// values, into `out` `[n, n_heads * v_dim]`.
    pub(crate) fn attention_over_rows(
        &mut self,
        q: &[f32],
        rows: &KeyValueRows<'_>,
        first_position: usize,
        n_heads: usize,
        scale: f32,
        out: &mut [f32],
    ) {
        let ws = &mut self.attention;
        attention_over_rows(&self.pool, ws, q, rows, first_position, n_heads, scale, out);
    }
}
