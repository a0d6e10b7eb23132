//! Speed of attention at the shapes of published models beside the machine's ceilings, and of the pool's fork
//! and join.
//!
//! `cargo bench -p levain-kernels --bench attention -- [THREADS] [PARTS-OF-LABEL]...`, for example
//! `-- 1 "8B F16" "depth 16384"`: what is measured has all parts in its label.

#![expect(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use levain_kernels::ceilings::Ceilings;
use levain_kernels::{AttentionWorkspace, KvCache, KvDType, KvLayout, Pool, SeqRows, attention};

const BLOCK_LEN: usize = 32;
/// Layers, so that a decoding step finds its keys in memory and not in the cache, as in a model.
const LAYERS: usize = 8;

#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    n_heads: usize,
    n_kv_heads: usize,
    k_dim: usize,
    v_dim: usize,
    latent: bool,
}

const SHAPES: [Shape; 6] = [
    Shape { name: "1-head groups", n_heads: 8, n_kv_heads: 8, k_dim: 128, v_dim: 128, latent: false },
    Shape { name: "8B", n_heads: 32, n_kv_heads: 8, k_dim: 128, v_dim: 128, latent: false },
    Shape { name: "7B", n_heads: 28, n_kv_heads: 4, k_dim: 128, v_dim: 128, latent: false },
    Shape { name: "16-head groups", n_heads: 64, n_kv_heads: 4, k_dim: 128, v_dim: 128, latent: false },
    Shape { name: "SmolLM2", n_heads: 9, n_kv_heads: 3, k_dim: 64, v_dim: 64, latent: false },
    Shape { name: "V2-Lite", n_heads: 16, n_kv_heads: 1, k_dim: 576, v_dim: 512, latent: true },
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let threads = args.iter().find_map(|arg| arg.parse().ok());
    let wanted: Vec<&String> = args.iter().filter(|arg| arg.parse::<usize>().is_err()).collect();
    let pool = threads.map_or_else(Pool::for_machine, Pool::new);
    let ceilings = Ceilings::measure(&pool);
    println!("{ceilings:?}");
    fork_join(&pool);
    for shape in SHAPES {
        for dtype in [KvDType::F16, KvDType::Q8_0] {
            for depth in [0, 4096, 16_384] {
                for rows in [1, 2, 4, 8, 16, 32, 64, 512] {
                    let label = format!("{} {dtype:?} depth {depth} rows {rows}", shape.name);
                    if wanted.iter().all(|part| format!("{label} ").contains(*part)) {
                        measure(&pool, shape, dtype, depth, rows, &ceilings, &label);
                    }
                }
            }
        }
    }
}

fn fork_join(pool: &Pool) {
    let median = |pause: Duration| {
        let mut times: Vec<Duration> = (0..500)
            .map(|_| {
                let resume = Instant::now() + pause;
                while Instant::now() < resume {
                    std::hint::spin_loop();
                }
                let start = Instant::now();
                pool.run(pool.threads(), &|_| {
                    let end = Instant::now() + Duration::from_micros(5);
                    while Instant::now() < end {}
                });
                start.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() / 2].saturating_sub(Duration::from_micros(5))
    };
    println!(
        "fork/join of 5 us tasks, overhead: {:?} after 2 us, {:?} after 30 us, {:?} after 500 us",
        median(Duration::from_micros(2)),
        median(Duration::from_micros(30)),
        median(Duration::from_micros(500))
    );
}

fn measure(
    pool: &Pool,
    shape: Shape,
    dtype: KvDType,
    depth: usize,
    rows: usize,
    ceilings: &Ceilings,
    label: &str,
) {
    let positions = depth + rows;
    let blocks = positions.div_ceil(BLOCK_LEN);
    let layout = KvLayout {
        dtype,
        n_layers: LAYERS,
        n_kv_heads: shape.n_kv_heads,
        k_dim: shape.k_dim,
        v_dim: shape.v_dim,
        values_in_keys: shape.latent,
        block_len: BLOCK_LEN,
    };
    let Ok(mut kv) = KvCache::new(layout, blocks) else { return };
    let table: Vec<u32> = (0..blocks as u32).rev().collect();
    let noise =
        |len: usize| -> Vec<f32> { (0..len).map(|i| ((i * 7919) % 1013) as f32 / 506.0 - 1.0).collect() };
    let v_stored = if shape.latent { 0 } else { shape.v_dim };
    let (k, v) =
        (noise(BLOCK_LEN * shape.n_kv_heads * shape.k_dim), noise(BLOCK_LEN * shape.n_kv_heads * v_stored));
    for layer in 0..LAYERS {
        for block in &table {
            let slots: Vec<u32> = (0..BLOCK_LEN as u32).map(|i| block * BLOCK_LEN as u32 + i).collect();
            kv.append(pool, layer, &slots, &k, &v);
        }
    }
    let q = noise(rows * shape.n_heads * shape.k_dim);
    let mut out = vec![0.0; rows * shape.n_heads * shape.v_dim];
    let mut ws = AttentionWorkspace::new();
    let seq = SeqRows { block_table: &table, first_row: 0, n_rows: rows, first_position: depth };
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 2 * LAYERS || (start.elapsed() < Duration::from_millis(300) && times.len() < 10_000) {
        let layer = times.len() % LAYERS;
        let start = Instant::now();
        attention(pool, &mut ws, &q, &kv, layer, &[seq], shape.n_heads, 0.1, &mut out);
        black_box(&mut out);
        times.push(start.elapsed());
        if start.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
    times.sort();
    // The fastest tenth: other tenants of the machine can only slow a run down.
    let seconds = times[times.len() / 10].as_secs_f64();
    let pairs: usize = (0..rows).map(|row| depth + row + 1).sum();
    let gflops = (pairs * shape.n_heads * (shape.k_dim + shape.v_dim) * 2) as f64 / seconds / 1e9;
    let bytes = positions * kv.bytes_per_block() / BLOCK_LEN / LAYERS;
    let gb = bytes as f64 / seconds / 1e9;
    println!(
        "{label:42} {:9.1} us  {gflops:6.1} GFLOP/s ({:3.0} %)  {gb:5.1} GB/s ({:3.0} %)",
        seconds * 1e6,
        gflops / ceilings.f32_gflop_per_s * 100.0,
        gb / ceilings.read_gb_per_s * 100.0,
    );
}
