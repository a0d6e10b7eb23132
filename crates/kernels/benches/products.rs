//! Speed of matrix products beside the machine's ceilings, measured in turns so that both see the same machine.
//!
//! `cargo bench -p levain-kernels --bench products -- [threads] [type ...]`
//!
//! Decode multiplies one row with matrices larger than the caches and counts the file's bytes; prefill multiplies
//! many and counts two operations a weight and row. Each figure is made of the shortest bursts of several rounds.
#![expect(clippy::print_stdout, reason = "the table is what the program is for")]

use std::time::Instant;

use levain_kernels::{DType, Matrix, Pool, Product, Workspace, ceilings, isa};

const ROUNDS: usize = 9;
/// Rows and columns of a feed-forward block of a model with 1.5 billion weights.
const ROWS: usize = 8960;
const COLS: usize = 1536;
/// Weights that decode goes through in a round: several times the caches.
const DECODE_BYTES: usize = 160 << 20;
/// Rows of the matrix that is multiplied with many: one burst takes a few milliseconds.
const MANY_ROWS: usize = 512;
const MANY: usize = 512;
/// Bytes of a cache line.
const LINE: usize = 64;
const FEW: [usize; 4] = [2, 4, 8, 16];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let threads = arguments.iter().find_map(|a| a.parse().ok());
    let names: Vec<&String> = arguments.iter().filter(|a| a.parse::<usize>().is_err()).collect();
    let pool = threads.map_or_else(Pool::for_machine, Pool::new);
    println!("{} threads, {} kernels, {ROWS} x {COLS}", pool.threads(), isa());
    println!(
        "{:8} {:>7} {:>7} {:>4}  {:>7} {:>7} {:>4}  rate of 2, 4, 8, 16 rows against 1",
        "type", "GB/s", "ceiling", "%", "GOP/s", "ceiling", "%"
    );
    for dtype in DType::ALL {
        if names.is_empty() || names.iter().any(|a| *a == dtype.name()) {
            measure(dtype, &pool);
        }
    }
}

/// The shortest time of each of several bursts. A neighbour's burst only ever makes one longer, so the sum of
/// the shortest is what the machine can do when left alone.
struct Bursts(Vec<f64>);

impl Bursts {
    fn new(count: usize) -> Self {
        Self(vec![f64::MAX; count])
    }

    fn time(&mut self, index: usize, work: impl FnOnce()) {
        let start = Instant::now();
        work();
        self.0[index] = self.0[index].min(start.elapsed().as_secs_f64());
    }

    fn seconds(&self) -> f64 {
        self.0.iter().sum()
    }
}

fn measure(dtype: DType, pool: &Pool) {
    let row_bytes = dtype.row_bytes(COLS).unwrap_or(0);
    let bytes: Vec<u8> = (0..row_bytes * ROWS).map(|i| ((i * 37) >> 3) as u8 & 0x3b).collect();
    let count = (DECODE_BYTES / bytes.len()).max(2);
    let pack = |rows: usize| {
        let bytes = &bytes[..rows * row_bytes];
        match dtype {
            DType::F8E4M3 => {
                let scales = vec![0.01; rows.div_ceil(128) * COLS.div_ceil(128)];
                Matrix::pack_f8(rows, COLS, bytes, &scales, pool).ok()
            }
            dtype => Matrix::pack(dtype, rows, COLS, bytes, pool).ok(),
        }
    };
    let matrices: Vec<Matrix> = (0..count).filter_map(|_| pack(ROWS)).collect();
    let Some(tall) = pack(MANY_ROWS) else { return };
    let buffer = vec![1_u8; bytes.len() * count + LINE];
    let buffer = &buffer[buffer.as_ptr().align_offset(LINE)..][..bytes.len() * count];
    let mut ws = Workspace::new(MANY, COLS);
    let x: Vec<f32> = (0..MANY * COLS).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 300.0).collect();
    let mut y = vec![0.0; MANY.max(32) * ROWS];
    let mut multiply = |w: &Matrix, n: usize| {
        let (x, y) = (&x[..n * COLS], &mut y[..n * w.rows()]);
        levain_kernels::matmul(pool, &mut ws, x, n, &mut [Product { w, bias: None, y, add: false }]);
    };
    let (mut one, mut read) = (Bursts::new(count), Bursts::new(count));
    let mut few = [(); FEW.len()].map(|()| Bursts::new(count));
    let mut many = Bursts::new(1);
    let mut ceiling = 0.0_f64;
    for round in 0..ROUNDS {
        // As many bytes as the matrices have, in parts as long as they are and on cache lines.
        for (i, part) in buffer.chunks_exact(bytes.len() / LINE * LINE).take(count).enumerate() {
            read.time(i, || ceilings::read_all(pool, part, round % 2 == 0));
        }
        for (i, w) in matrices.iter().enumerate() {
            one.time(i, || multiply(w, 1));
        }
        for (few, n) in few.iter_mut().zip(FEW) {
            for (i, w) in matrices.iter().enumerate().take(4) {
                few.time(i, || multiply(w, n));
            }
        }
        ceiling = ceiling.max(match dtype {
            DType::BF16 => ceilings::bf16_gflop_per_s(pool),
            dtype if dtype.is_float() => ceilings::f32_gflop_per_s(pool),
            _ => ceilings::int8_gop_per_s(pool),
        });
        for _ in 0..4 {
            many.time(0, || multiply(&tall, MANY));
        }
    }
    let total = (bytes.len() * count) as f64;
    let (rate, read) = (total / one.seconds() / 1e9, total / read.seconds() / 1e9);
    let operations = (2 * MANY * MANY_ROWS * COLS) as f64 / many.seconds() / 1e9;
    let measured = count.min(4);
    let alone: f64 = one.0[..measured].iter().sum();
    let gains: Vec<String> = few
        .iter()
        .zip(FEW)
        .map(|(t, n)| format!("{:.1}", n as f64 * alone / t.0[..measured].iter().sum::<f64>()))
        .collect();
    println!(
        "{:8} {rate:7.1} {read:7.1} {:4.0}  {operations:7.0} {ceiling:7.0} {:4.0}  {}",
        dtype.name(),
        100.0 * rate / read,
        100.0 * operations / ceiling,
        gains.join(" ")
    );
}
