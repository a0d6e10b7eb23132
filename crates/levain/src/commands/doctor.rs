//! `levain doctor`

use std::time::Duration;

use levain_engine::free_memory;
use levain_hub::bytes;
use levain_kernels::ceilings::Ceilings;
use levain_kernels::{Pool, cpu_features, isa};
use serde_json::{Value, json};

use crate::app::App;
use crate::cli::DoctorArgs;
use crate::commands::JSON_VERSION;
use crate::env::{self, ENV_VARS};
use crate::error::CliError;
use crate::printer::table;
use crate::progress::seconds;

/// How long a server may take for a sign of life.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks at everything that a model's speed and a pull's success depend on.
pub(crate) fn run(app: &App, args: &DoctorArgs) -> Result<(), CliError> {
    crate::check_kernels()?;
    let hub = app.hub()?;
    let reached =
        if args.offline { Vec::new() } else { app.block_on(async { Ok(hub.reach(PATIENCE).await) })? };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let ceilings = Ceilings::measure(&Pool::new(threads));
    let models = hub.list();
    let stored: u64 = models.iter().map(|model| model.bytes).sum();
    let features = features();
    let set: Vec<&str> =
        ENV_VARS.iter().map(|var| var.name).filter(|name| env::get(name).is_some()).collect();
    let servers: Vec<(String, Result<Duration, String>)> =
        reached.into_iter().map(|(host, answer)| (host, answer.map_err(|error| error.to_string()))).collect();
    if args.json {
        let network: Vec<Value> = servers
            .iter()
            .map(|(host, answer)| match answer {
                Ok(took) => json!({ "host": host, "reachable": true, "ms": took.as_millis() as u64 }),
                Err(reason) => json!({ "host": host, "reachable": false, "reason": reason }),
            })
            .collect();
        return app.printer.json(&json!({
            "version": JSON_VERSION,
            "levain": env!("CARGO_PKG_VERSION"),
            "cpu": { "features": features, "kernels": isa().name(), "threads": threads },
            "memory_free_bytes": free_memory(),
            "ceilings": {
                "read_gb_per_s": round(ceilings.read_gb_per_s),
                "int8_gop_per_s": round(ceilings.int8_gop_per_s),
                "f32_gflop_per_s": round(ceilings.f32_gflop_per_s),
                "bf16_gflop_per_s": round(ceilings.bf16_gflop_per_s),
            },
            "store": {
                "hugging_face": hub.config().hf_cache, "levain": hub.config().store,
                "models": models.len(), "bytes": stored,
            },
            "config_files": app.settings.files(),
            "variables_set": set,
            "network": network,
        }));
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("levain", env!("CARGO_PKG_VERSION").to_owned());
    row("processor", format!("{threads} threads, {}", features.join(" ")));
    row("kernels", isa().name().to_owned());
    row("memory", free_memory().map_or_else(|| "unknown".to_owned(), |free| format!("{} free", bytes(free))));
    row("read bandwidth", format!("{:.1} GB/s", ceilings.read_gb_per_s));
    row("int8 arithmetic", format!("{:.0} GOP/s", ceilings.int8_gop_per_s));
    row("f32 arithmetic", format!("{:.0} GFLOP/s", ceilings.f32_gflop_per_s));
    row("BF16 arithmetic", format!("{:.0} GFLOP/s", ceilings.bf16_gflop_per_s));
    row("models", format!("{}, {}", models.len(), bytes(stored)));
    let place = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or_else(|| "nowhere: HOME is not set".to_owned(), |path| path.display().to_string())
    };
    row("store", place(&hub.config().store));
    row("shared store", place(&hub.config().hf_cache));
    for file in app.settings.files() {
        let there = if file.found { "read" } else { "not there" };
        row("configuration", format!("{} ({there})", file.path.display()));
    }
    row("variables set", if set.is_empty() { "none".to_owned() } else { set.join(" ") });
    for (host, answer) in &servers {
        let text = match answer {
            Ok(took) => format!("{host} answers after {}", seconds(*took)),
            Err(reason) => reason.clone(),
        };
        row("network", text);
    }
    app.printer.data(table(&rows))
}

/// The features that the kernels know, by name.
fn features() -> Vec<&'static str> {
    let f = cpu_features();
    [
        ("avx2", f.avx2),
        ("fma", f.fma),
        ("f16c", f.f16c),
        ("avx_vnni", f.avx_vnni),
        ("avx512", f.avx512),
        ("avx512_vnni", f.avx512_vnni),
        ("avx512_bf16", f.avx512_bf16),
        ("avx512_vbmi", f.avx512_vbmi),
        ("neon", f.neon),
        ("neon_dotprod", f.neon_dotprod),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect()
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
