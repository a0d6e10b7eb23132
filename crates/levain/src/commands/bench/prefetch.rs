//! What was learnt about how to ask for weights, and whether products read them as fast as they could.

use levain_kernels::{PrefetchChoice, first_prefetch, fixed_prefetch};
use serde_json::{Value, json};

use super::report::{Decode, round};

/// Products of one row that read less than this share of what memory gives are worth a warning.
const LITTLE: f64 = 0.5;

/// A line for each format.
pub(super) fn lines(choices: &[PrefetchChoice]) -> Vec<String> {
    let fixed = if fixed_prefetch().is_some() { ", fixed by LEVAIN_PREFETCH" } else { "" };
    if choices.is_empty() {
        let first = first_prefetch();
        return vec![format!(
            "prefetch: {first}{fixed}; no matrix was large enough, or read often enough, to learn by"
        )];
    }
    let line = |choice: &PrefetchChoice| {
        let PrefetchChoice { dtype, prefetch, first, gb_per_s, first_gb_per_s } = choice;
        let before = match prefetch == first {
            true => String::new(),
            false => format!(" ({first_gb_per_s:.1} with {first}, which it began with)"),
        };
        format!("prefetch: {dtype} {prefetch}{fixed}, one row reads {gb_per_s:.1} GB/s{before}")
    };
    choices.iter().map(line).collect()
}

/// The same as JSON.
pub(super) fn json(choices: &[PrefetchChoice]) -> Value {
    let one = |choice: &PrefetchChoice| {
        json!({
            "format": choice.dtype.name(),
            "prefetch": choice.prefetch.to_string(),
            "gb_per_s": round(choice.gb_per_s),
            "first": choice.first.to_string(),
            "first_gb_per_s": round(choice.first_gb_per_s),
        })
    };
    json!({
        "first": first_prefetch().to_string(),
        "fixed": fixed_prefetch().is_some(),
        "learnt": choices.iter().map(one).collect::<Vec<_>>(),
    })
}

/// A sentence for each format whose products of one row leave most of the bandwidth unused.
pub(super) fn warnings(choices: &[PrefetchChoice], decodes: &[Decode]) -> Vec<String> {
    let ceilings = decodes.iter().map(|decode| decode.rates.ceilings.read().median());
    let ceiling = ceilings.fold(0.0, f64::max);
    // Formats with codebooks are bound by looking them up.
    let slow =
        choices.iter().filter(|choice| !choice.dtype.has_codebook() && choice.gb_per_s < LITTLE * ceiling);
    slow.map(|choice| {
        format!(
            "products of one row read {} weights at {:.1} GB/s, {:.0} % of what memory gives: this processor may \
             need another LEVAIN_PREFETCH, please tell us",
            choice.dtype,
            choice.gb_per_s,
            100.0 * choice.gb_per_s / ceiling
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use levain_kernels::ceilings::Ceilings;
    use levain_kernels::{DType, Prefetch};
    use serde_json::Map;

    use super::super::report::Rates;
    use super::*;

    fn choice(dtype: DType, gb_per_s: f64) -> PrefetchChoice {
        let [first, .., prefetch] = Prefetch::CANDIDATES;
        PrefetchChoice { dtype, prefetch, first, gb_per_s, first_gb_per_s: 7.5 }
    }

    fn decode(read_gb_per_s: f64) -> Decode {
        let mut rates = Rates::default();
        rates.ceilings.push(&Ceilings {
            threads: 2,
            read_gb_per_s,
            int8_gop_per_s: 1.0,
            f32_gflop_per_s: 1.0,
            bf16_gflop_per_s: 1.0,
        });
        Decode { batch: 1, depth: 0, tokens: 4, rates, step_bytes: None, notes: Map::new() }
    }

    #[test]
    fn less_than_half_of_what_memory_gives_is_worth_a_warning() {
        let choices = [
            choice(DType::Q8_0, 21.0),
            choice(DType::Q4_K, 19.0),
            choice(DType::IQ2_XS, 5.0),
            choice(DType::BF16, 39.0),
        ];
        let warned = warnings(&choices, &[decode(38.0), decode(40.0)]);
        assert_eq!(warned.len(), 1, "{warned:?}");
        assert!(warned[0].contains("Q4_K weights at 19.0 GB/s, 48 %"), "{warned:?}");
        assert!(warnings(&choices, &[decode(9.0)]).is_empty());
        assert!(warnings(&choices, &[]).is_empty() && warnings(&[], &[decode(40.0)]).is_empty());
    }

    #[test]
    fn what_was_chosen_is_told_with_what_was_there_before() {
        let told = lines(&[choice(DType::Q8_0, 21.04)]);
        let [first, .., chosen] = Prefetch::CANDIDATES;
        assert!(told[0].contains(&format!("Q8_0 {chosen}")), "{told:?}");
        assert!(told[0].contains(&format!("21.0 GB/s (7.5 with {first}")), "{told:?}");
        assert!(lines(&[])[0].contains(&first_prefetch().to_string()));
        let told = json(&[choice(DType::Q8_0, 21.04)]);
        assert_eq!(told["learnt"][0]["format"], "Q8_0");
        assert_eq!(told["learnt"][0]["prefetch"], chosen.to_string());
    }
}
