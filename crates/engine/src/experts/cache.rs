//! Experts in memory, as many as there is room for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use levain_kernels::{DType, Matrix, Pool};
use levain_weights::{TensorPlace, TensorReader};

use super::fetch::{Buffers, Fetcher};
use super::{ExpertId, ExpertStats};
use crate::error::EngineError;
use crate::ops::GatedMlp;

/// Where a matrix of an expert lies and how it is packed.
#[derive(Debug, Clone)]
pub(crate) struct MatrixPlace {
    pub(crate) place: TensorPlace,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// The block scales of an FP8 matrix; they are small and stay in memory.
    pub(crate) scales: Vec<f32>,
}

impl MatrixPlace {
    fn pack(&self, bytes: &[u8], pool: &Pool) -> Result<Matrix, EngineError> {
        Ok(match self.place.dtype {
            DType::F8E4M3 => Matrix::pack_f8(self.rows, self.cols, bytes, &self.scales, pool)?,
            dtype => Matrix::pack(dtype, self.rows, self.cols, bytes, pool)?,
        })
    }
}

/// Where an expert's three matrices lie.
#[derive(Debug, Clone)]
pub(crate) struct ExpertPlace {
    pub(crate) gate_proj: MatrixPlace,
    pub(crate) up_proj: MatrixPlace,
    pub(crate) down_proj: MatrixPlace,
}

impl ExpertPlace {
    fn places(&self) -> [TensorPlace; 3] {
        [self.gate_proj.place, self.up_proj.place, self.down_proj.place]
    }

    /// Bytes in the file; the packed form takes as many but for the last rows' filling.
    pub(crate) fn bytes(&self) -> usize {
        self.places().iter().map(|place| place.len).sum()
    }
}

/// The experts of all layers.
#[derive(Debug)]
pub(crate) struct ExpertCache {
    fetcher: Fetcher,
    /// By layer and expert.
    places: HashMap<ExpertId, ExpertPlace>,
    resident: HashMap<ExpertId, Resident>,
    resident_bytes: usize,
    capacity_bytes: usize,
    /// Counts uses, for their order.
    clock: u64,
    hits: u64,
    misses: u64,
    read_ahead: u64,
    waited: Duration,
}

#[derive(Debug)]
struct Resident {
    mlp: GatedMlp,
    bytes: usize,
    last_used: u64,
}

impl ExpertCache {
    /// Holds up to `capacity_bytes` of experts, and at least one.
    pub(crate) fn new(reader: TensorReader, capacity_bytes: usize) -> Result<Self, EngineError> {
        Ok(Self {
            fetcher: Fetcher::new(reader)?,
            places: HashMap::new(),
            resident: HashMap::new(),
            resident_bytes: 0,
            capacity_bytes,
            clock: 0,
            hits: 0,
            misses: 0,
            read_ahead: 0,
            waited: Duration::ZERO,
        })
    }

    /// Makes an expert known.
    pub(crate) fn insert_place(&mut self, id: ExpertId, place: ExpertPlace) {
        self.places.insert(id, place);
    }

    /// Puts `experts` of a layer into the order in which they are best used: those in memory first, the others as
    /// they are read. All of them must then be used in this order.
    pub(crate) fn begin(&mut self, layer: u32, experts: &mut [u32]) {
        experts.sort_unstable_by_key(|&expert| {
            (!self.resident.contains_key(&ExpertId { layer, expert }), expert)
        });
        for &expert in experts.iter() {
            let id = ExpertId { layer, expert };
            self.clock += 1;
            if let Some(resident) = self.resident.get_mut(&id) {
                // From here on the others are evicted first.
                resident.last_used = self.clock;
                self.hits += 1;
            } else if let Some(place) = self.places.get(&id) {
                self.misses += 1;
                self.read_ahead += u64::from(self.fetcher.want(id, place.places()));
            }
        }
    }

    /// An expert, read if need be.
    pub(crate) fn get(&mut self, id: ExpertId, pool: &Pool) -> Result<&GatedMlp, EngineError> {
        if !self.resident.contains_key(&id) {
            let start = Instant::now();
            let buffers = self.fetcher.take(id)?;
            self.waited += start.elapsed();
            let result = self.admit(id, &buffers, pool);
            self.fetcher.give_back(buffers);
            result?;
        }
        let missing = || EngineError::Unsupported { what: format!("expert {id:?}, which no layer has") };
        self.resident.get(&id).map(|resident| &resident.mlp).ok_or_else(missing)
    }

    /// Begins to read experts that a layer will probably want.
    pub(crate) fn read_ahead(&mut self, layer: u32, experts: &[u32]) {
        for &expert in experts {
            let id = ExpertId { layer, expert };
            if !self.resident.contains_key(&id)
                && let Some(place) = self.places.get(&id)
            {
                self.fetcher.want_ahead(id, place.places());
            }
        }
    }

    pub(crate) fn stats(&self) -> ExpertStats {
        ExpertStats {
            hits: self.hits,
            misses: self.misses,
            read_ahead: self.read_ahead,
            bytes_read: self.fetcher.bytes_read(),
            waited: self.waited,
            resident_bytes: self.resident_bytes as u64,
        }
    }

    fn admit(&mut self, id: ExpertId, buffers: &Buffers, pool: &Pool) -> Result<(), EngineError> {
        let Some(place) = self.places.get(&id) else { return Ok(()) };
        self.clock += 1;
        // Room first, so that memory stays below the capacity at all times.
        while self.resident_bytes + place.bytes() > self.capacity_bytes {
            let oldest = self.resident.iter().min_by_key(|(_, resident)| resident.last_used);
            let Some(oldest) = oldest.map(|(id, _)| *id) else { break };
            if let Some(gone) = self.resident.remove(&oldest) {
                self.resident_bytes -= gone.bytes;
            }
        }
        let [gate, up, down] = buffers;
        let mlp = GatedMlp {
            gate_proj: place.gate_proj.pack(gate.bytes(), pool)?,
            up_proj: place.up_proj.pack(up.bytes(), pool)?,
            down_proj: place.down_proj.pack(down.bytes(), pool)?,
        };
        let bytes = mlp.gate_proj.bytes() + mlp.up_proj.bytes() + mlp.down_proj.bytes();
        self.resident_bytes += bytes;
        self.resident.insert(id, Resident { mlp, bytes, last_used: self.clock });
        Ok(())
    }
}
