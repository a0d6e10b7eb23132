//! The mixture of experts of DeepSeek-V2 and V3 (arXiv 2412.19437, section 2.1.2).

use levain_kernels::{FloatBuffer, Matrix, Routing, vector};
use levain_weights::{MoeConfig, ScoringFunc, TopkMethod};

use crate::experts::{ExpertCache, ExpertId};
use crate::ops::{ExpertStacks, GatedMlp, Ops};

/// Chooses the experts of a token.
#[derive(Debug)]
pub(crate) struct Router {
    /// `mlp.gate.weight` `[E, hidden]`, in F32: a close decision must not hang on a rounded weight.
    pub(crate) gate: Matrix,
    /// `e_score_correction_bias` `[E]`; counts for the choice, not for the weights.
    pub(crate) correction_bias: Option<Vec<f32>>,
    pub(crate) config: MoeConfig,
}

/// One layer's experts.
#[derive(Debug)]
pub(crate) struct Moe {
    pub(crate) router: Router,
    pub(crate) experts: Experts,
    /// Sees every token; as wide as `n_shared_experts` experts.
    pub(crate) shared_experts: Option<GatedMlp>,
}

/// Where a layer's experts are.
#[derive(Debug)]
pub(crate) enum Experts {
    /// All in memory.
    Resident(ExpertStacks),
    /// In the cache that all layers share, under this layer's number.
    Streamed(u32),
}

/// What all layers' experts work in. K experts a token.
#[derive(Debug)]
pub(crate) struct MoeBuffers {
    /// `[rows_max, E]`
    scores: FloatBuffer,
    /// Chosen experts and their weights, `[rows_max, K]`
    chosen: Vec<u32>,
    weights: Vec<f32>,
    /// Experts that some row has chosen, each once.
    active: Vec<u32>,
    /// Where in `chosen` an expert is chosen; one expert's at a time.
    slots: Vec<usize>,
    /// The rows of one expert, and what it makes of them, `[rows_max, hidden]`
    gathered: FloatBuffer,
    result: FloatBuffer,
    /// What each chosen expert makes of its row, `[rows_max · K, hidden]`
    outputs: FloatBuffer,
    choice: Choice,
}

impl MoeBuffers {
    pub(crate) fn new(config: &MoeConfig, hidden: usize, rows_max: usize) -> Self {
        let (experts, k) = (config.n_routed_experts, config.num_experts_per_tok);
        Self {
            scores: FloatBuffer::zeroed(rows_max * experts),
            chosen: vec![0; rows_max * k],
            weights: vec![0.0; rows_max * k],
            active: Vec::with_capacity(rows_max * k),
            slots: Vec::with_capacity(rows_max),
            gathered: FloatBuffer::zeroed(rows_max * hidden),
            result: FloatBuffer::zeroed(rows_max * hidden),
            outputs: FloatBuffer::zeroed(rows_max * k * hidden),
            choice: Choice::new(config),
        }
    }
}

impl Moe {
    /// Calls `f` with each matrix that may not be packed yet.
    pub(crate) fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Matrix)) {
        match &mut self.experts {
            Experts::Resident(stacks) => stacks.each_matrix(f),
            // They are packed when they are read.
            Experts::Streamed(_) => {}
        }
        if let Some(shared) = &mut self.shared_experts {
            shared.each_matrix(f);
        }
    }

    /// Adds the experts' result for `normed` `[n, hidden]` to the residual stream `x`.
    pub(crate) fn forward(
        &self,
        ops: &mut Ops,
        buffers: &mut MoeBuffers,
        cache: Option<&mut ExpertCache>,
        n: usize,
        normed: &[f32],
        x: &mut [f32],
    ) {
        self.choose(ops, buffers, n, normed);
        match (&self.experts, cache) {
            (Experts::Resident(stacks), _) => {
                let k = self.router.config.num_experts_per_tok;
                let (experts, weights) = (&buffers.chosen[..n * k], &buffers.weights[..n * k]);
                ops.moe_mlp_add(stacks, &Routing { per_row: k, experts, weights }, normed, x);
            }
            (Experts::Streamed(layer), Some(cache)) => {
                self.streamed(ops, buffers, cache, *layer, n, normed, x)
            }
            // A cache is there whenever a layer's experts are streamed.
            (Experts::Streamed(_), None) => {}
        }
        if let Some(shared) = &self.shared_experts {
            ops.gated_mlp_add(shared, normed, n, x);
        }
    }

    /// The same for experts that are read when they are needed, and in the order in which they are there.
    fn streamed(
        &self,
        ops: &mut Ops,
        buffers: &mut MoeBuffers,
        cache: &mut ExpertCache,
        layer: u32,
        n: usize,
        normed: &[f32],
        x: &mut [f32],
    ) {
        let MoeBuffers { chosen, weights, active, slots, gathered, result, outputs, .. } = buffers;
        let (k, hidden) = (self.router.config.num_experts_per_tok, self.router.gate.cols());
        let chosen = &chosen[..n * k];
        cache.begin(layer, active);
        cache.read_predicted();
        // Each expert's results are kept apart, so the order in which they are computed does not matter.
        for &index in active.iter() {
            let expert = match cache.get(ExpertId { layer, expert: index }, ops.pool()) {
                Ok(expert) => expert,
                Err(error) => {
                    ops.fail(error);
                    continue;
                }
            };
            slots.clear();
            slots.extend(chosen.iter().enumerate().filter(|&(_, &e)| e == index).map(|(slot, _)| slot));
            for (slot, gathered) in slots.iter().zip(gathered.chunks_exact_mut(hidden)) {
                gathered.copy_from_slice(&normed[slot / k * hidden..][..hidden]);
            }
            let (gathered, result) = (&gathered[..slots.len() * hidden], &mut result[..slots.len() * hidden]);
            ops.gated_mlp(expert, gathered, slots.len(), result);
            for (slot, result) in slots.iter().zip(result.chunks_exact(hidden)) {
                outputs[slot * hidden..][..hidden].copy_from_slice(result);
            }
        }
        // Added up by ascending expert and then to the row, as the kernel does for experts in memory: bit for bit.
        let sum = &mut result[..hidden];
        for ((row, weights), outputs) in
            x.chunks_exact_mut(hidden).zip(weights.chunks_exact(k)).zip(outputs.chunks_exact(k * hidden))
        {
            sum.fill(0.0);
            for (weight, output) in weights.iter().zip(outputs.chunks_exact(hidden)) {
                for (sum, y) in sum.iter_mut().zip(output) {
                    *sum += weight * y;
                }
            }
            for (x, sum) in row.iter_mut().zip(sum.iter()) {
                *x += sum;
            }
        }
    }

    /// Notes which experts this layer will choose if its input turns out to be about `normed` `[n, hidden]`.
    pub(crate) fn predict(
        &self,
        ops: &mut Ops,
        buffers: &mut MoeBuffers,
        cache: &mut ExpertCache,
        n: usize,
        normed: &[f32],
    ) {
        if let Experts::Streamed(layer) = self.experts {
            self.choose(ops, buffers, n, normed);
            cache.predict(layer, &buffers.active);
        }
    }

    /// Fills `chosen`, `weights` and `active`.
    fn choose(&self, ops: &mut Ops, buffers: &mut MoeBuffers, n: usize, normed: &[f32]) {
        let MoeBuffers { scores, chosen, weights, active, choice, .. } = buffers;
        let config = &self.router.config;
        let (experts, k) = (config.n_routed_experts, config.num_experts_per_tok);
        let scores = &mut scores[..n * experts];
        ops.project(&self.router.gate, normed, n, scores);
        let rows = scores.chunks_exact_mut(experts);
        for ((scores, chosen), weights) in
            rows.zip(chosen.chunks_exact_mut(k)).zip(weights.chunks_exact_mut(k))
        {
            self.router.choose(scores, chosen, weights, choice);
        }
        active.clear();
        active.extend_from_slice(&chosen[..n * k]);
        active.sort_unstable();
        active.dedup();
    }
}

/// Scratch for one row's choice.
#[derive(Debug)]
pub(crate) struct Choice {
    /// Scores as they count for the choice, `[E]`
    scores: Vec<f32>,
    /// Score and index of each group, `[n_group]`
    groups: Vec<(f32, usize)>,
    /// Score and index of each expert, `[E]`
    experts: Vec<(f32, usize)>,
}

impl Choice {
    pub(crate) fn new(config: &MoeConfig) -> Self {
        let experts = config.n_routed_experts;
        Self {
            scores: vec![0.0; experts],
            groups: Vec::with_capacity(config.n_group),
            experts: Vec::with_capacity(experts),
        }
    }
}

impl Router {
    /// Chooses K of E experts by one row's router logits, which become scores, and weighs them. Ties go to the lower index,
    /// and the chosen come in ascending order.
    fn choose(&self, scores: &mut [f32], chosen: &mut [u32], weights: &mut [f32], scratch: &mut Choice) {
        let config = &self.config;
        match config.scoring_func {
            ScoringFunc::Softmax => vector::softmax(scores),
            ScoringFunc::Sigmoid => vector::sigmoid(scores),
        }
        let Choice { scores: choice, groups, experts } = scratch;
        choice.copy_from_slice(scores);
        if let Some(bias) = &self.correction_bias {
            for (score, bias) in choice.iter_mut().zip(bias) {
                *score += bias;
            }
        }
        if config.topk_method != TopkMethod::Greedy && config.topk_group < config.n_group {
            let size = config.n_routed_experts / config.n_group;
            groups.clear();
            groups.extend(
                choice.chunks_exact(size).map(|group| group_score(config.topk_method, group)).zip(0..),
            );
            groups.sort_unstable_by(best_first);
            for &(_, group) in &groups[config.topk_group..] {
                choice[group * size..(group + 1) * size].fill(f32::NEG_INFINITY);
            }
        }
        experts.clear();
        experts.extend(choice.iter().copied().zip(0..));
        let k = chosen.len();
        if k < experts.len() {
            experts.select_nth_unstable_by(k - 1, best_first);
        }
        // From here on by number: that is the order in which their results are added up.
        experts[..k].sort_unstable_by_key(|&(_, expert)| expert);
        for ((chosen, weight), &(_, expert)) in chosen.iter_mut().zip(weights.iter_mut()).zip(experts.iter())
        {
            (*chosen, *weight) = (expert as u32, scores[expert]);
        }
        let sum = if config.norm_topk_prob { weights.iter().sum::<f32>() + 1e-20 } else { 1.0 };
        for weight in weights {
            *weight = *weight / sum * config.routed_scaling_factor;
        }
    }
}

/// V2 values a group by its best expert, V3 by its best two.
fn group_score(method: TopkMethod, group: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &score in group {
        if score > first {
            (first, second) = (score, first);
        } else if score > second {
            second = score;
        }
    }
    match method {
        TopkMethod::NoauxTc if group.len() > 1 => first + second,
        _ => first,
    }
}

fn best_first(a: &(f32, usize), b: &(f32, usize)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use levain_kernels::{DType, Pool};

    use super::*;

    fn router(config: MoeConfig, bias: Option<Vec<f32>>) -> Router {
        let e = config.n_routed_experts;
        let gate = Matrix::pack(DType::F32, e, 1, &vec![0; e * 4], &Pool::new(1)).unwrap();
        Router { gate, correction_bias: bias, config }
    }

    fn config() -> MoeConfig {
        MoeConfig {
            n_routed_experts: 6,
            num_experts_per_tok: 2,
            n_shared_experts: 0,
            moe_intermediate_size: 1,
            first_k_dense_replace: 0,
            moe_layer_freq: 1,
            n_group: 3,
            topk_group: 1,
            scoring_func: ScoringFunc::Softmax,
            topk_method: TopkMethod::Greedy,
            norm_topk_prob: false,
            routed_scaling_factor: 1.0,
        }
    }

    fn choose(router: &Router, logits: &[f32]) -> (Vec<u32>, Vec<f32>) {
        let (mut scores, mut chosen, mut weights) = (logits.to_vec(), vec![0; 2], vec![0.0; 2]);
        router.choose(&mut scores, &mut chosen, &mut weights, &mut Choice::new(&router.config));
        (chosen, weights)
    }

    #[test]
    fn greedy_takes_the_best_and_group_limits_exclude() {
        // Groups (0, 1), (2, 3), (4, 5): the best expert is in the first, the best pair in the second.
        let logits = [2.0, -9.0, 1.8, 1.7, 0.0, 0.0];
        assert_eq!(choose(&router(config(), None), &logits).0, [0, 2]);
        let v2 = MoeConfig { topk_method: TopkMethod::GroupLimitedGreedy, ..config() };
        assert_eq!(choose(&router(v2, None), &logits).0, [0, 1]);
        let v3 =
            MoeConfig { topk_method: TopkMethod::NoauxTc, scoring_func: ScoringFunc::Sigmoid, ..config() };
        assert_eq!(choose(&router(v3, None), &logits).0, [2, 3]);
    }

    #[test]
    fn the_bias_counts_for_the_choice_only() {
        let v3 = MoeConfig {
            topk_method: TopkMethod::NoauxTc,
            scoring_func: ScoringFunc::Sigmoid,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
            ..config()
        };
        // All choices of the last group are negative but still better than those of excluded groups.
        let bias = vec![-9.0, -9.0, -9.0, -9.0, -3.0, -2.0];
        let (chosen, weights) = choose(&router(v3, Some(bias)), &[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(chosen, [4, 5]);
        let sigmoid = 1.0 / (1.0 + (-1.0_f32).exp());
        let expected = [0.5 / (sigmoid + 0.5) * 2.5, sigmoid / (sigmoid + 0.5) * 2.5];
        assert!(weights.iter().zip(expected).all(|(w, e)| (w - e).abs() < 1e-6), "{weights:?} {expected:?}");
    }

    /// As transformers and llama.cpp have it: what is left of a single expert's weight is the factor.
    #[test]
    fn a_single_expert_is_normalised_too() {
        let single = MoeConfig {
            num_experts_per_tok: 1,
            topk_method: TopkMethod::NoauxTc,
            scoring_func: ScoringFunc::Sigmoid,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
            ..config()
        };
        let router = router(single, Some(vec![0.0; 6]));
        let (mut chosen, mut weights) = ([0], [0.0]);
        let mut scores = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
        router.choose(&mut scores, &mut chosen, &mut weights, &mut Choice::new(&router.config));
        assert_eq!((chosen, weights), ([2], [2.5]));
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        assert_eq!(choose(&router(config(), None), &[1.0; 6]).0, [0, 1]);
    }
}
