//! The sampler against a plain reference that sorts everything and counts in f64.

use proptest::prelude::*;

use super::select::Selector;
use super::*;

/// Every token with its probability after all steps, the slow and obvious way.
fn reference(
    params: &SamplingParams,
    prompt: &[u32],
    generated: &[u32],
    mask: Option<&TokenMask>,
    row: &[f32],
) -> Vec<f64> {
    let mut x: Vec<f64> = row.iter().map(|&l| f64::from(l)).collect();
    for (id, l) in x.iter_mut().enumerate() {
        if mask.is_some_and(|mask| !mask.is_allowed(id as u32)) {
            *l = f64::NEG_INFINITY;
        }
        for &(token, bias) in &params.logit_bias {
            if token as usize == id {
                *l += f64::from(bias);
            }
        }
        let times = generated.iter().filter(|&&t| t as usize == id).count();
        if times > 0 || prompt.contains(&(id as u32)) {
            let penalty = f64::from(params.repetition_penalty);
            *l = if *l > 0.0 { *l / penalty } else { *l * penalty };
        }
        if times > 0 {
            *l -= f64::from(params.presence_penalty) + f64::from(params.frequency_penalty) * times as f64;
        }
    }
    let mut order: Vec<usize> = (0..x.len()).filter(|&i| x[i] > f64::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
    let mut p = vec![0.0; x.len()];
    if order.is_empty() {
        return p;
    }
    if params.is_greedy() {
        p[order[0]] = 1.0;
        return p;
    }
    let best = x[order[0]];
    let weight = |i: usize| ((x[i] - best) / f64::from(params.temperature)).exp();
    if params.top_k > 0 {
        order.truncate(params.top_k as usize);
    }
    if params.top_p < 1.0 {
        let target = f64::from(params.top_p) * order.iter().map(|&i| weight(i)).sum::<f64>();
        let mut mass = 0.0;
        let keep = order
            .iter()
            .take_while(|&&i| {
                let before = mass;
                mass += weight(i);
                before < target
            })
            .count();
        order.truncate(keep.max(1));
    }
    order.retain(|&i| weight(i) >= f64::from(params.min_p));
    let total: f64 = order.iter().map(|&i| weight(i)).sum();
    for i in order {
        p[i] = weight(i) / total;
    }
    p
}

fn params() -> impl Strategy<Value = SamplingParams> {
    (
        prop_oneof![Just(0.0_f32), 0.3_f32..2.0],
        prop_oneof![Just(0_u32), 1_u32..400],
        prop_oneof![Just(1.0_f32), 0.05_f32..1.0],
        prop_oneof![Just(0.0_f32), 0.0_f32..0.5],
        prop_oneof![Just(1.0_f32), 0.5_f32..2.0],
        prop_oneof![Just(0.0_f32), -2.0_f32..2.0],
        prop_oneof![Just(0.0_f32), -2.0_f32..2.0],
        proptest::collection::vec((0_u32..60, -5.0_f32..5.0), 0..3),
    )
        .prop_map(
            |(
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty,
                frequency_penalty,
                presence_penalty,
                logit_bias,
            )| {
                SamplingParams {
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    repetition_penalty,
                    frequency_penalty,
                    presence_penalty,
                    logit_bias,
                    seed: None,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn draws_come_from_the_reference_distribution(
        params in params(),
        row in proptest::collection::vec(-12.0_f32..12.0, 60..1500),
        prompt in proptest::collection::vec(0_u32..60, 0..20),
        generated in proptest::collection::vec(0_u32..60, 0..20),
        allowed in proptest::option::of(proptest::collection::vec(0_u32..60, 1..30)),
        seed in any::<u64>(),
    ) {
        let mask = allowed.map(|ids| {
            let mut mask = TokenMask::new(row.len());
            ids.iter().for_each(|&id| mask.allow(id));
            mask
        });
        let p = reference(&params, &prompt, &generated, mask.as_ref(), &row);
        let mut sampler = Sampler::new(row.len());
        let history = History { prompt: &prompt, generated: &generated };
        for answer in 0..8 {
            let mut logits = row.clone();
            let token = sampler.sample(&params, seed, answer, history, mask.as_ref(), &mut logits).unwrap();
            // f32 may decide otherwise exactly on a border; then the token is among the last kept or the first cut.
            if p[token as usize] == 0.0 {
                let mut wider = params.clone();
                wider.top_p = (params.top_p + 1e-4).min(1.0);
                wider.min_p = (params.min_p - 1e-4).max(0.0);
                let p = reference(&wider, &prompt, &generated, mask.as_ref(), &row);
                prop_assert!(p[token as usize] > 0.0, "token {token} of {params:?}");
            }
            let mut again = row.clone();
            prop_assert_eq!(sampler.sample(&params, seed, answer, history, mask.as_ref(), &mut again), Some(token));
        }
    }

    #[test]
    fn top_logprobs_are_the_sorted_log_softmax(
        row in proptest::collection::vec((-40_i32..40).prop_map(|x| x as f32 * 0.25), 1..3000),
        top in 0_usize..30,
    ) {
        let mut sampler = Sampler::new(row.len());
        let log_sum = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        let (logprob, likeliest) = sampler.logprobs(&row, 0, top);
        prop_assert!((f64::from(logprob) - (f64::from(row[0]) - log_sum)).abs() < 1e-4);
        let ids: Vec<usize> = likeliest.iter().map(|t| t.0 as usize).collect();
        prop_assert_eq!(&ids[..], &order[..top.min(row.len())]);
        for (id, logprob) in likeliest {
            prop_assert!((f64::from(logprob) - (f64::from(row[id as usize]) - log_sum)).abs() < 1e-4);
        }
    }
}

#[test]
fn frequencies_follow_the_probabilities() {
    let row: Vec<f32> = (0..300).map(|i| ((i * 7919) % 311) as f32 / 60.0).collect();
    for params in [
        SamplingParams { temperature: 0.8, ..SamplingParams::default() },
        SamplingParams { temperature: 0.8, min_p: 0.2, ..SamplingParams::default() },
        SamplingParams { temperature: 1.0, top_k: 10, ..SamplingParams::default() },
        SamplingParams { temperature: 1.3, top_p: 0.6, ..SamplingParams::default() },
        SamplingParams { temperature: 1.3, top_p: 0.9, top_k: 30, min_p: 0.1, ..SamplingParams::default() },
    ] {
        let p = reference(&params, &[], &[], None, &row);
        let mut sampler = Sampler::new(row.len());
        let n = 20_000_u64;
        let mut counts = vec![0_u32; row.len()];
        for seed in 0..n {
            let mut logits = row.clone();
            let history = History { prompt: &[], generated: &[] };
            counts[sampler.sample(&params, seed, 0, history, None, &mut logits).unwrap() as usize] += 1;
        }
        // The largest gap between the two distribution functions; 1.95/√n is passed by chance once in a thousand.
        let (mut gap, mut sum) = (0.0_f64, 0.0);
        for id in 0..row.len() {
            sum += f64::from(counts[id]) / n as f64 - p[id];
            gap = gap.max(sum.abs());
        }
        assert!(gap < 1.95 / (n as f64).sqrt(), "{gap} {params:?}");
    }
}

#[test]
fn greedy_ties_go_to_the_lowest_id() {
    let mut sampler = Sampler::new(5);
    let history = History { prompt: &[], generated: &[] };
    let mut row = [0.0, 3.0, 1.0, 3.0, 3.0];
    assert_eq!(sampler.sample(&SamplingParams::default(), 0, 0, history, None, &mut row), Some(1));
    let (_, top) = sampler.logprobs(&[0.0, 3.0, 1.0, 3.0, -0.0], 0, 5);
    assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 2, 0, 4]);
}

#[test]
fn nothing_allowed_gives_nothing() {
    let mut sampler = Sampler::new(4);
    let history = History { prompt: &[], generated: &[] };
    let mask = TokenMask::new(4);
    for temperature in [0.0, 1.0] {
        for top_k in [0, 2] {
            let params = SamplingParams { temperature, top_k, ..SamplingParams::default() };
            let mut row = [1.0; 4];
            assert_eq!(sampler.sample(&params, 0, 0, history, Some(&mask), &mut row), None);
        }
    }
}

#[test]
fn a_tiny_temperature_is_nearly_greedy_and_extremes_stay_finite() {
    let mut sampler = Sampler::new(4);
    let history = History { prompt: &[], generated: &[] };
    for params in [
        SamplingParams { temperature: 1e-30, ..SamplingParams::default() },
        SamplingParams { temperature: 1e-30, top_p: 0.5, ..SamplingParams::default() },
        SamplingParams { temperature: 1e-30, top_k: 2, ..SamplingParams::default() },
    ] {
        for seed in 0..50 {
            let mut row = [-3e38, 3e38, 0.0, -3e38];
            assert_eq!(sampler.sample(&params, seed, 0, history, None, &mut row), Some(1));
        }
    }
}

/// Where thousands of tokens are about as likely, one is drawn as if all had been sorted.
#[test]
fn undecided_rows_are_drawn_from_in_order_too() {
    const N: u32 = 30_000;
    let rows: [fn(u32) -> f32; 4] = [
        |i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32 * 3.0 - 1.0,
        // Few different values, many times each.
        |i| (i.wrapping_mul(7919) % 5) as f32 * 0.5,
        |_| 1.5,
        // One far above the others and as many far below.
        |i| {
            if i == 777 {
                9.0
            } else if i % 2 == 0 {
                -60.0
            } else {
                (i % 1000) as f32 * 1e-3
            }
        },
    ];
    let mut selector = Selector::new(N as usize);
    for (row, top_p, min_p) in
        rows.iter().flat_map(|row| [(row, 0.9, 0.0), (row, 0.999, 0.0), (row, 0.8, 0.3), (row, 0.3, 0.0)])
    {
        let logits: Vec<f32> = (0..N).map(row).collect();
        let params = SamplingParams { temperature: 0.8, top_p, min_p, ..SamplingParams::default() };
        let p = reference(&params, &[], &[], None, &logits);
        let mut order: Vec<usize> = (0..N as usize).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        for u in [0.0, 1e-9, 0.01, 0.25, 0.5, 0.77, 0.99, 0.999_999] {
            let drawn = selector.draw(&params, u, &logits).unwrap() as usize;
            let place = order.iter().position(|&i| i == drawn).unwrap();
            let before: f64 = order[..place].iter().map(|&i| p[i]).sum();
            assert!(before <= u + 1e-4 && u <= before + p[drawn] + 1e-4, "{top_p} {min_p} {u}: {before}");
            // What may not be drawn is not, but for rounding at the edge.
            assert!(p[drawn] > 0.0 || before > 0.9999, "{drawn}");
        }
    }
}
