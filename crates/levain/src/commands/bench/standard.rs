//! The standard measurements, told in Markdown, so that people can send those of their machines.

use std::fmt;
use std::path::PathBuf;

use levain_kernels::{isa, processor};

use super::Plan;
use super::report::{Rates, Samples};
use super::session::Measured;

/// What is measured of each model: what the project's own tables have.
pub(super) fn plan(json: bool, peer: Option<PathBuf>) -> Plan {
    Plan { prefill: vec![512], decode: 64, batch: vec![1], depth: vec![0], json, all: true, peer }
}

/// The report on all models.
#[derive(Debug, Default)]
pub(super) struct Standard(Vec<Measured>);

impl Standard {
    pub(super) fn push(&mut self, measured: Measured) {
        self.0.push(measured);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that was measured, with the rates and the machine's ceilings of each.
    fn rates(&self) -> impl Iterator<Item = &Rates> {
        self.0.iter().flat_map(|measured| {
            let prefills = measured.prefills.iter().map(|prefill| &prefill.rates);
            prefills.chain(measured.decodes.iter().map(|decode| &decode.rates))
        })
    }

    /// From the least to the most of a ceiling's medians.
    fn ceiling<'a>(&'a self, of: impl Fn(&'a Rates) -> &'a Samples) -> String {
        let mut medians = Samples::default();
        self.rates().for_each(|rates| medians.push(of(rates).median()));
        let [least, most] = medians.spread();
        format!("{least:.0}–{most:.0}")
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else { return Ok(()) };
        let peer = self.0.iter().find_map(|measured| measured.peer_version.as_deref());
        writeln!(out, "### {}, {} threads\n", processor(), first.threads)?;
        write!(
            out,
            "Levain {}, {} kernels; medians of {} rounds",
            env!("CARGO_PKG_VERSION"),
            isa(),
            first.reps
        )?;
        if let Some(version) = peer {
            write!(
                out,
                " in turn with llama.cpp ({version}, Python package), of whose modes the better counts"
            )?;
        }
        writeln!(
            out,
            ". Ceilings: read {} GB/s, int8 {} GOP/s, f32 {} GFLOP/s, BF16 {} GFLOP/s.\n",
            self.ceiling(|rates| rates.ceilings.read()),
            self.ceiling(|rates| rates.ceilings.int8()),
            self.ceiling(|rates| rates.ceilings.f32()),
            self.ceiling(|rates| rates.ceilings.bf16()),
        )?;
        let columns = ["model", "what", "Levain, tokens/s", "of the ceiling"];
        let peers: &[&str] = if peer.is_some() { &["llama.cpp, tokens/s", "mode", "ratio"] } else { &[] };
        let row = |out: &mut fmt::Formatter<'_>, cells: &[String]| writeln!(out, "| {} |", cells.join(" | "));
        row(out, &columns.iter().chain(peers).map(|&cell| cell.to_owned()).collect::<Vec<_>>())?;
        let rules = ["---", "---", "--:", "--:"]
            .into_iter()
            .chain(["--:", "---", "--:"].into_iter().take(peers.len()));
        row(out, &rules.map(str::to_owned).collect::<Vec<_>>())?;
        for measured in &self.0 {
            let model = escaped(&measured.name);
            let prefills = measured
                .prefills
                .iter()
                .map(|prefill| (format!("prefill {}", prefill.tokens), &prefill.rates, prefill.of_ceiling()));
            let decodes = measured.decodes.iter().map(|decode| {
                let together =
                    if decode.batch == 1 { String::new() } else { format!(", {} together", decode.batch) };
                (format!("decode {}{together}", decode.tokens), &decode.rates, decode.of_ceiling())
            });
            for (what, rates, of_ceiling) in prefills.chain(decodes) {
                let mut cells = vec![model.clone(), what, rates.ours.shown(), of_ceiling];
                cells.extend(rates.peer_cells().into_iter().take(peers.len()));
                row(out, &cells)?;
            }
        }
        for measured in &self.0 {
            writeln!(out)?;
            for note in &measured.notes {
                writeln!(out, "- {}: {}", escaped(&measured.name), escaped(note))?;
            }
        }
        Ok(())
    }
}

/// Text that ends no cell of a table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use levain_kernels::ceilings::Ceilings;
    use serde_json::Map;

    use super::super::peer::MODES;
    use super::super::report::Decode;
    use super::*;

    fn measured(name: &str, peer: bool) -> Measured {
        let decode = |batch, rate: f64| {
            let mut rates = Rates::default();
            rates.push(
                rate,
                peer.then_some([(MODES[0], rate / 2.0), (MODES[1], rate / 4.0)]).into_iter().flatten(),
            );
            rates.ceilings.push(&Ceilings {
                threads: 2,
                read_gb_per_s: 4.0 * rate,
                int8_gop_per_s: 100.0,
                f32_gflop_per_s: 50.0,
                bf16_gflop_per_s: 60.0,
            });
            Decode { batch, depth: 0, tokens: 64, rates, step_bytes: Some(2_000_000_000), notes: Map::new() }
        };
        Measured {
            name: name.to_owned(),
            threads: 2,
            reps: 1,
            prefills: Vec::new(),
            decodes: vec![decode(1, 10.0), decode(4, 20.0)],
            peer_version: peer.then(|| "0.3".to_owned()),
            notes: vec!["prefetch: a|b".to_owned()],
        }
    }

    #[test]
    fn the_report_is_a_table_with_the_machine_above_it() {
        let mut standard = Standard::default();
        standard.push(measured("a|b", true));
        standard.push(measured("c", true));
        let text = standard.to_string();
        assert!(text.starts_with(&format!("### {}, 2 threads\n", processor())), "{text}");
        assert!(text.contains("read 40–80 GB/s") && text.contains("int8 100–100 GOP/s"), "{text}");
        let expected = "| a\\|b | decode 64 | 10.0 (10.0 to 10.0) | 50 % of 40 GB/s | 5.0 (5.0 to 5.0) | repack | 2.00 |";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("| c | decode 64, 4 together |"), "{text}");
        assert!(text.contains("\n- a\\|b: prefetch: a\\|b\n"), "{text}");
        let bars = |line: &str| line.replace("\\|", "").matches('|').count();
        assert!(text.lines().filter(|line| line.starts_with('|')).all(|line| bars(line) == 8), "{text}");
    }

    #[test]
    fn without_a_peer_there_are_no_columns_for_one() {
        let mut standard = Standard::default();
        standard.push(measured("c", false));
        let text = standard.to_string();
        assert!(
            !text.contains("llama.cpp")
                && text.contains("| model | what | Levain, tokens/s | of the ceiling |\n")
        );
        assert_eq!(Standard::default().to_string(), "");
    }
}
