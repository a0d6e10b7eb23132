//! What the disk can give at most, read as experts are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use levain_weights::{Checkpoint, ModelConfig, ReadBuffer, TensorPlace};

use super::fetch::THREADS;
use crate::error::EngineError;

/// What a disk gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiskSpeed {
    /// 10⁹ bytes a second.
    pub gb_per_s: f64,
    /// Whether the reads went past the system's cache. Where they could not, this is the speed of cache and disk
    /// together.
    pub direct: bool,
}

/// Reads matrices of a checkpoint's experts for about `time`, in no order, as large and as many at a time as
/// streaming does but with nothing to wait for.
///
/// `None` for a model without routed experts.
///
/// # Errors
/// If the files can't be read.
pub fn measure_disk(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    time: Duration,
) -> Result<Option<DiskSpeed>, EngineError> {
    let places = places(checkpoint, config)?;
    if places.is_empty() {
        return Ok(None);
    }
    let reader = checkpoint.reader()?;
    let (next, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    let read = || -> Result<(), EngineError> {
        let mut buffer = ReadBuffer::default();
        while begun.elapsed() < time {
            let place = &places[scattered(next.fetch_add(1, Ordering::Relaxed), places.len())];
            reader.read(place, &mut buffer)?;
            bytes.fetch_add(place.len as u64, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(read)).collect();
        // A reader that panicked has nothing more to say.
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let gb_per_s = bytes.into_inner() as f64 / seconds.max(1e-9) / 1e9;
    Ok(Some(DiskSpeed { gb_per_s, direct: reader.is_direct() }))
}

/// A place for each number, far from that of the number before.
fn scattered(n: u64, places: usize) -> usize {
    // Fibonacci hashing: multiples of 2^64 divided by the golden ratio.
    let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((u128::from(hash) * places as u128) >> 64) as usize
}

/// The matrices of all experts.
fn places(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<Vec<TensorPlace>, EngineError> {
    let Some(moe) = &config.moe else { return Ok(Vec::new()) };
    let (hidden, width) = (config.hidden_size, moe.moe_intermediate_size);
    let mut places = Vec::new();
    for layer in (0..config.num_hidden_layers).filter(|&layer| moe.is_moe_layer(layer)) {
        for expert in 0..moe.n_routed_experts {
            for (projection, shape) in
                [("gate_proj", [width, hidden]), ("up_proj", [width, hidden]), ("down_proj", [hidden, width])]
            {
                let name = format!("model.layers.{layer}.mlp.experts.{expert}.{projection}.weight");
                places.push(checkpoint.place(&name, &shape)?);
            }
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_places_are_read_and_neighbours_are_apart() {
        let mut seen = [false; 96];
        let order: Vec<usize> = (0..400).map(|n| scattered(n, seen.len())).collect();
        order.iter().for_each(|&place| seen[place] = true);
        assert!(seen.iter().all(|seen| *seen));
        assert!(order.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 8));
    }

    #[test]
    fn only_models_with_experts_have_a_disk_speed() {
        let measure = |name: &str| {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
            let checkpoint = Checkpoint::open(&folder).unwrap();
            let config = checkpoint.config().unwrap();
            measure_disk(&checkpoint, &config, Duration::from_millis(20)).unwrap()
        };
        assert_eq!(measure("llama-3.1"), None);
        assert!(measure("deepseek-v3-tiny").unwrap().gb_per_s > 0.0);
    }
}
