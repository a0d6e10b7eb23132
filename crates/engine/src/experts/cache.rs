//! Experts in memory, as many as there is room for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use levain_kernels::{DType, Matrix, Pool};
use levain_weights::{TensorPlace, TensorReader};

use super::fetch::{Buffers, Fetcher};
use super::uses::Uses;
use super::{ExpertId, ExpertStats};
use crate::error::EngineError;
use crate::ops::GatedMlp;
use crate::plan::PANEL_ROWS;

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

    /// Bytes in memory: as in the file, but for what fills up the last 16 rows.
    fn bytes(&self) -> usize {
        let rows = self.rows.next_multiple_of(PANEL_ROWS);
        self.place.len / self.rows.max(1) * rows + size_of_val(self.scales.as_slice())
    }

    fn fits(&self, matrix: &Matrix) -> bool {
        (self.place.dtype, self.rows, self.cols) == (matrix.dtype(), matrix.rows(), matrix.cols())
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

    /// Bytes in memory.
    fn bytes(&self) -> usize {
        [&self.gate_proj, &self.up_proj, &self.down_proj].map(MatrixPlace::bytes).iter().sum()
    }

    fn pack(&self, [gate, up, down]: &Buffers, pool: &Pool) -> Result<GatedMlp, EngineError> {
        Ok(GatedMlp {
            gate_proj: self.gate_proj.pack(gate.bytes(), pool)?,
            up_proj: self.up_proj.pack(up.bytes(), pool)?,
            down_proj: self.down_proj.pack(down.bytes(), pool)?,
        })
    }

    /// Packs into the memory of an expert of the same shape and formats.
    fn repack(&self, mlp: &mut GatedMlp, buffers: &Buffers, pool: &Pool) -> Result<(), EngineError> {
        let [gate, up, down] = buffers;
        mlp.gate_proj.repack(gate.bytes(), &self.gate_proj.scales, pool)?;
        mlp.up_proj.repack(up.bytes(), &self.up_proj.scales, pool)?;
        mlp.down_proj.repack(down.bytes(), &self.down_proj.scales, pool)?;
        Ok(())
    }

    fn fits(&self, mlp: &GatedMlp) -> bool {
        self.gate_proj.fits(&mlp.gate_proj)
            && self.up_proj.fits(&mlp.up_proj)
            && self.down_proj.fits(&mlp.down_proj)
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
    uses: Uses,
    /// What the next layer will probably want.
    predicted: Vec<ExpertId>,
    hits: u64,
    misses: u64,
    read_ahead: u64,
    waited: Duration,
}

#[derive(Debug)]
struct Resident {
    mlp: GatedMlp,
    bytes: usize,
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
            uses: Uses::default(),
            predicted: Vec::new(),
            hits: 0,
            misses: 0,
            read_ahead: 0,
            waited: Duration::ZERO,
        })
    }

    /// Makes an expert known.
    pub(crate) fn insert_place(&mut self, id: ExpertId, place: ExpertPlace) {
        self.uses.insert(id);
        self.places.insert(id, place);
    }

    /// Puts `experts` of a layer into the order in which they are best used: those in memory first, the others as they
    /// are read. All of them must then be used in this order.
    pub(crate) fn begin(&mut self, layer: u32, experts: &mut [u32]) {
        self.uses.begin(layer);
        experts.sort_unstable_by_key(|&expert| {
            (!self.resident.contains_key(&ExpertId { layer, expert }), expert)
        });
        for &expert in experts.iter() {
            let id = ExpertId { layer, expert };
            self.uses.note(id);
            if self.resident.contains_key(&id) {
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

    /// Notes which experts a layer will probably want.
    pub(crate) fn predict(&mut self, layer: u32, experts: &[u32]) {
        self.predicted.clear();
        let ids = experts.iter().map(|&expert| ExpertId { layer, expert });
        self.predicted.extend(ids.filter(|id| !self.resident.contains_key(id)));
    }

    /// Begins to read what was predicted last, as far as nothing else is to be read.
    pub(crate) fn read_predicted(&mut self) {
        let places = &self.places;
        let known = |id: &ExpertId| places.get(id).map(|place| (*id, place.places()));
        self.fetcher.want_ahead(self.predicted.iter().filter_map(known));
        self.predicted.clear();
    }

    pub(crate) fn stats(&self) -> ExpertStats {
        let totals = self.fetcher.totals();
        ExpertStats {
            hits: self.hits,
            misses: self.misses,
            read_ahead: self.read_ahead,
            bytes_read: totals.bytes,
            bytes_in_vain: totals.bytes_in_vain,
            reading: totals.reading,
            waited: self.waited,
            resident_bytes: self.resident_bytes as u64,
        }
    }

    fn admit(&mut self, id: ExpertId, buffers: &Buffers, pool: &Pool) -> Result<(), EngineError> {
        let Some(place) = self.places.get(&id) else { return Ok(()) };
        // Room first, so that memory stays below the capacity at all times.
        let mut alike = None;
        while alike.is_none() && self.resident_bytes + place.bytes() > self.capacity_bytes {
            let Some((victim, fits)) = self.victim(place) else { break };
            let Some(gone) = self.resident.remove(&victim) else { break };
            self.resident_bytes -= gone.bytes;
            alike = fits.then_some(gone.mlp);
        }
        let mlp = match alike {
            // Its memory is used again: the system neither has to find new pages nor to clear them.
            Some(mut mlp) => {
                place.repack(&mut mlp, buffers, pool)?;
                mlp
            }
            None => place.pack(buffers, pool)?,
        };
        let bytes = mlp.gate_proj.bytes() + mlp.up_proj.bytes() + mlp.down_proj.bytes();
        self.resident_bytes += bytes;
        self.resident.insert(id, Resident { mlp, bytes });
        Ok(())
    }

    /// The expert to give up for another, and whether its memory suits that one as it is: the one worth least, or one
    /// that suits and was hardly used more often.
    fn victim(&self, place: &ExpertPlace) -> Option<(ExpertId, bool)> {
        let worth = |&id: &ExpertId| self.uses.worth(id);
        let least = *self.resident.keys().min_by_key(|id| worth(id))?;
        let suited = self.resident.iter().filter(|(_, resident)| place.fits(&resident.mlp));
        let suited = suited.map(|(id, _)| *id).min_by_key(worth);
        Some(match suited {
            Some(id) if self.uses.count(id) <= self.uses.count(least) + 1 => (id, true),
            _ => (least, false),
        })
    }
}
