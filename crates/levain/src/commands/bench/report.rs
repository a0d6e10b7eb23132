//! What was measured, as a table and as JSON.

use levain_engine::Arithmetic;
use levain_kernels::ceilings::Ceilings;
use serde_json::{Map, Value, json};

use super::peer::Mode;

/// Repeated measurements of one thing.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The middle one, or between the two middle ones; zero of nothing.
    pub(super) fn median(&self) -> f64 {
        let at = |i: usize| self.0.get(i).copied().unwrap_or(0.0);
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 { at(middle) } else { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 }
    }

    pub(super) fn spread(&self) -> [f64; 2] {
        let end = |value: Option<&f64>| round(value.copied().unwrap_or(0.0));
        [end(self.0.first()), end(self.0.last())]
    }

    pub(super) fn shown(&self) -> String {
        let [least, most] = self.spread();
        format!("{:.1} ({least:.1} to {most:.1})", self.median())
    }
}

/// What the machine could do at most in between.
#[derive(Debug, Clone, Default)]
pub(super) struct CeilingSamples {
    read: Samples,
    int8: Samples,
    f32: Samples,
    bf16: Samples,
}

impl CeilingSamples {
    /// Of reading, 10⁹ bytes a second.
    pub(super) fn read(&self) -> &Samples {
        &self.read
    }

    pub(super) fn int8(&self) -> &Samples {
        &self.int8
    }

    pub(super) fn f32(&self) -> &Samples {
        &self.f32
    }

    pub(super) fn bf16(&self) -> &Samples {
        &self.bf16
    }

    pub(super) fn push(&mut self, ceilings: &Ceilings) {
        self.read.push(ceilings.read_gb_per_s);
        self.int8.push(ceilings.int8_gop_per_s);
        self.f32.push(ceilings.f32_gflop_per_s);
        self.bf16.push(ceilings.bf16_gflop_per_s);
    }

    fn json(&self) -> [(&'static str, Value); 4] {
        [
            ("ceiling_read_gb_per_s", json!(round(self.read.median()))),
            ("ceiling_int8_gop_per_s", json!(round(self.int8.median()))),
            ("ceiling_f32_gflop_per_s", json!(round(self.f32.median()))),
            ("ceiling_bf16_gflop_per_s", json!(round(self.bf16.median()))),
        ]
    }
}

/// Tokens a second of Levain and of the peer, taken in turn.
#[derive(Debug, Clone, Default)]
pub(super) struct Rates {
    pub(super) ours: Samples,
    peers: Vec<PeerRates>,
    pub(super) ceilings: CeilingSamples,
}

/// The peer's in one of its modes.
#[derive(Debug, Clone)]
struct PeerRates {
    mode: Mode,
    rates: Samples,
    /// Ours against it, round by round.
    ratios: Samples,
}

impl Rates {
    /// One round, with the peer's rate in each mode.
    pub(super) fn push(&mut self, ours: f64, peers: impl IntoIterator<Item = (Mode, f64)>) {
        self.ours.push(ours);
        for (mode, rate) in peers {
            let at = self.peers.iter().position(|peer| peer.mode == mode).unwrap_or_else(|| {
                self.peers.push(PeerRates { mode, rates: Samples::default(), ratios: Samples::default() });
                self.peers.len() - 1
            });
            self.peers[at].rates.push(rate);
            self.peers[at].ratios.push(ours / rate.max(1e-9));
        }
    }

    /// The modes that were there in every round.
    fn complete(&self) -> impl Iterator<Item = &PeerRates> {
        self.peers.iter().filter(|peer| peer.rates.0.len() == self.ours.0.len())
    }

    /// The peer at its best.
    fn peer(&self) -> Option<&PeerRates> {
        self.complete().max_by(|a, b| a.rates.median().total_cmp(&b.rates.median()))
    }

    fn peer_json(&self, what: &str) -> Vec<(String, Value)> {
        let Some(peer) = self.peer() else { return Vec::new() };
        let modes: Map<String, Value> = self
            .complete()
            .map(|peer| (peer.mode.name.to_owned(), json!(round(peer.rates.median()))))
            .collect();
        vec![
            (format!("peer_{what}_tokens_per_s"), json!(round(peer.rates.median()))),
            (format!("peer_{what}_spread"), json!(peer.rates.spread())),
            (format!("peer_{what}_mode"), json!(peer.mode.name)),
            (format!("peer_{what}_tokens_per_s_by_mode"), json!(modes)),
            (format!("{what}_ratio"), json!(round(peer.ratios.median()))),
        ]
    }

    /// The peer's rate, its mode and the ratio.
    pub(super) fn peer_cells(&self) -> [String; 3] {
        let Some(peer) = self.peer() else { return Default::default() };
        [peer.rates.shown(), peer.mode.name.to_owned(), format!("{:.2}", peer.ratios.median())]
    }
}

/// How fast a prompt is computed.
#[derive(Debug, Clone)]
pub(super) struct Prefill {
    pub(super) tokens: usize,
    pub(super) rates: Rates,
    /// Seconds to the first token.
    pub(super) first_token: Samples,
    /// The same for a prompt that has been computed before.
    pub(super) cached_first_token: Samples,
    /// Operations of the products with weights, for the whole prompt.
    pub(super) operations: u64,
    /// What they are computed in.
    pub(super) arithmetic: Arithmetic,
    /// What other parts have to say.
    pub(super) notes: Map<String, Value>,
}

impl Prefill {
    /// 10⁹ operations a second.
    #[expect(clippy::cast_precision_loss, reason = "a measurement")]
    fn gop_per_s(&self) -> f64 {
        self.operations as f64 * self.rates.ours.median() / self.tokens as f64 / 1e9
    }

    fn ceiling(&self) -> f64 {
        let ceilings = &self.rates.ceilings;
        match self.arithmetic {
            Arithmetic::Int8 => ceilings.int8.median(),
            Arithmetic::F32 => ceilings.f32.median(),
            Arithmetic::Bf16 => ceilings.bf16.median(),
        }
    }

    /// How much of the ceiling is used, in words.
    pub(super) fn of_ceiling(&self) -> String {
        let unit = if self.arithmetic == Arithmetic::Int8 { "GOP/s" } else { "GFLOP/s" };
        of_ceiling(self.gop_per_s(), self.ceiling(), unit)
    }

    /// All keys but those of the ceilings.
    pub(super) fn json(&self, into: &mut Map<String, Value>) {
        into.insert("prefill".into(), json!(self.tokens));
        into.insert("prefill_tokens_per_s".into(), json!(round(self.rates.ours.median())));
        into.insert("prefill_spread".into(), json!(self.rates.ours.spread()));
        into.insert("prefill_gop_per_s".into(), json!(round(self.gop_per_s())));
        into.insert("prefill_share_of_ceiling".into(), share(self.gop_per_s(), self.ceiling()));
        into.insert("time_to_first_token_s".into(), json!(precise(self.first_token.median())));
        into.insert("cached_time_to_first_token_s".into(), json!(precise(self.cached_first_token.median())));
        into.extend(self.rates.peer_json("prefill"));
        into.extend(self.notes.clone());
    }

    pub(super) fn cells(&self) -> Vec<String> {
        let first =
            format!("{:.3} s, {:.3} s cached", self.first_token.median(), self.cached_first_token.median());
        let mut cells = vec![format!("prefill {}", self.tokens), "1".into(), "0".into()];
        cells.push(self.rates.ours.shown());
        cells.push(self.of_ceiling());
        cells.push(first);
        cells.extend(self.rates.peer_cells());
        cells
    }
}

/// How fast answers grow.
#[derive(Debug, Clone)]
pub(super) struct Decode {
    pub(super) batch: usize,
    pub(super) depth: usize,
    pub(super) tokens: usize,
    pub(super) rates: Rates,
    /// Bytes of weights and cache that one step reads, where that is known.
    pub(super) step_bytes: Option<u64>,
    /// What other parts have to say.
    pub(super) notes: Map<String, Value>,
}

impl Decode {
    /// 10⁹ bytes a second.
    #[expect(clippy::cast_precision_loss, reason = "a measurement")]
    fn gb_per_s(&self) -> Option<f64> {
        self.step_bytes.map(|bytes| bytes as f64 * self.rates.ours.median() / self.batch as f64 / 1e9)
    }

    /// How much of the ceiling is used, in words, where that is known.
    pub(super) fn of_ceiling(&self) -> String {
        let ceiling = self.rates.ceilings.read.median();
        self.gb_per_s().map_or_else(String::new, |rate| of_ceiling(rate, ceiling, "GB/s"))
    }

    /// All keys, those of the ceilings too.
    pub(super) fn json(&self, into: &mut Map<String, Value>) {
        into.insert("batch".into(), json!(self.batch));
        into.insert("depth".into(), json!(self.depth));
        into.insert("decode".into(), json!(self.tokens));
        into.insert("decode_tokens_per_s".into(), json!(round(self.rates.ours.median())));
        into.insert("decode_spread".into(), json!(self.rates.ours.spread()));
        if let Some(rate) = self.gb_per_s() {
            into.insert("decode_gb_per_s".into(), json!(round(rate)));
            let ceiling = self.rates.ceilings.read.median();
            into.insert("decode_share_of_ceiling".into(), share(rate, ceiling));
        }
        into.extend(self.rates.peer_json("decode"));
        into.extend(self.notes.clone());
    }

    pub(super) fn cells(&self) -> Vec<String> {
        let mut cells =
            vec![format!("decode {}", self.tokens), self.batch.to_string(), self.depth.to_string()];
        cells.push(self.rates.ours.shown());
        cells.push(self.of_ceiling());
        cells.push(String::new());
        cells.extend(self.rates.peer_cells());
        cells
    }
}

/// The ceilings beside a prefill, a decode, or of the two those that belong to each.
pub(super) fn ceilings_json(prefill: Option<&Rates>, decode: Option<&Rates>, into: &mut Map<String, Value>) {
    for rates in [prefill, decode].into_iter().flatten() {
        into.extend(rates.ceilings.json().map(|(key, value)| (key.to_owned(), value)));
    }
    if let (Some(prefill), Some(_)) = (prefill, decode) {
        let [_, arithmetic @ ..] = prefill.ceilings.json();
        into.extend(arithmetic.map(|(key, value)| (key.to_owned(), value)));
    }
}

fn of_ceiling(reached: f64, ceiling: f64, unit: &str) -> String {
    format!("{:.0} % of {ceiling:.0} {unit}", 100.0 * reached / ceiling.max(1e-9))
}

fn share(reached: f64, ceiling: f64) -> Value {
    json!((1000.0 * reached / ceiling.max(1e-9)).round() / 1000.0)
}

pub(super) fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Short times need more digits.
fn precise(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::peer::MODES;

    fn samples(values: &[f64]) -> Samples {
        let mut samples = Samples::default();
        values.iter().for_each(|&value| samples.push(value));
        samples
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let even = samples(&[4.0, 1.0, 3.0, 2.0]);
        assert!((even.median() - 2.5).abs() < 1e-9 && even.spread() == [1.0, 4.0]);
        assert!((samples(&[3.0, 1.0, 2.0]).median() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut rates = Rates::default();
        // The machine is twice as fast in the second round: the ratio is that of either round.
        for (ours, peer) in [(10.0, 5.0), (20.0, 10.0), (14.0, 7.0)] {
            rates.push(ours, [(MODES[0], peer)]);
        }
        let json: Map<String, Value> = rates.peer_json("decode").into_iter().collect();
        assert_eq!((&json["decode_ratio"], &json["peer_decode_tokens_per_s"]), (&json!(2.0), &json!(7.0)));
        assert_eq!(json["peer_decode_mode"], "repack");
    }

    #[test]
    fn the_peer_s_better_mode_counts_if_it_was_there_to_the_end() {
        let mut rates = Rates::default();
        for ours in [10.0, 12.0, 11.0] {
            rates.push(ours, [(MODES[0], 4.0), (MODES[1], 5.0)]);
        }
        let json: Map<String, Value> = rates.peer_json("prefill").into_iter().collect();
        assert_eq!((&json["peer_prefill_mode"], &json["prefill_ratio"]), (&json!("no-repack"), &json!(2.2)));
        assert_eq!(json["peer_prefill_tokens_per_s_by_mode"], json!({ "repack": 4.0, "no-repack": 5.0 }));
        // The better one dies before the last round.
        rates.push(9.0, [(MODES[0], 4.0)]);
        assert_eq!(rates.peer_cells()[1], "repack");
        let json: Map<String, Value> = rates.peer_json("prefill").into_iter().collect();
        assert_eq!(json["peer_prefill_tokens_per_s_by_mode"], json!({ "repack": 4.0 }));
        assert!(Rates::default().peer_json("decode").is_empty());
    }

    #[test]
    fn shares_are_of_the_bytes_of_all_steps() {
        let mut rates = Rates::default();
        rates.push(8.0, []);
        let ceilings = Ceilings {
            threads: 1,
            read_gb_per_s: 4.0,
            int8_gop_per_s: 100.0,
            f32_gflop_per_s: 10.0,
            bf16_gflop_per_s: 20.0,
        };
        rates.ceilings.push(&ceilings);
        let mut prefill = Prefill {
            tokens: 4,
            rates: rates.clone(),
            first_token: samples(&[0.5]),
            cached_first_token: samples(&[0.01]),
            operations: 20_000_000_000,
            arithmetic: Arithmetic::Int8,
            notes: Map::new(),
        };
        // 8 tokens a second of 4 sequences are 2 steps a second.
        let notes = Map::new();
        let decode = Decode { batch: 4, depth: 0, tokens: 9, rates, step_bytes: Some(1_000_000_000), notes };
        let mut into = Map::new();
        decode.json(&mut into);
        prefill.json(&mut into);
        assert_eq!((&into["decode_gb_per_s"], &into["decode_share_of_ceiling"]), (&json!(2.0), &json!(0.5)));
        assert_eq!(
            (&into["prefill_gop_per_s"], &into["prefill_share_of_ceiling"]),
            (&json!(40.0), &json!(0.4))
        );
        assert!(!into.contains_key("decode_ratio"));
        for (arithmetic, share) in
            [(Arithmetic::F32, "400 % of 10 GFLOP/s"), (Arithmetic::Bf16, "200 % of 20 GFLOP/s")]
        {
            prefill.arithmetic = arithmetic;
            assert!(prefill.cells()[4].contains(share), "{:?}", prefill.cells());
        }
    }
}
