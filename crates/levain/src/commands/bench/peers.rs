//! llama.cpp in all of its modes that work here. The better one counts, for each figure anew.

use serde_json::{Value, json};

use super::peer::{Failure, MODES, Mode, Peer, Setup};
use crate::error::CliError;

/// Those that still work, and what became of the others.
#[derive(Debug)]
pub(super) struct Peers {
    peers: Vec<Peer>,
    /// A sentence without a full stop for each mode that does not work.
    pub(super) lost: Vec<String>,
    /// Of the Python package.
    pub(super) version: String,
}

/// Seconds of one measurement in each mode that works.
pub(super) type Seconds = Vec<(Mode, f64)>;

impl Peers {
    /// Starts a process for each mode.
    ///
    /// # Errors
    /// If none works, with what became of each.
    pub(super) fn start(setup: Setup<'_>) -> Result<Self, CliError> {
        let mut peers = Self { peers: Vec::new(), lost: Vec::new(), version: String::new() };
        for mode in MODES {
            match Peer::start(mode, setup) {
                Ok(peer) => peers.peers.push(peer),
                Err(failure) => peers.lose(mode, failure)?,
            }
        }
        peers.check()?;
        if let Some(peer) = peers.peers.first() {
            peers.version.clone_from(&peer.version);
        }
        Ok(peers)
    }

    /// Modes that work.
    pub(super) fn modes(&self) -> impl Iterator<Item = Mode> {
        self.peers.iter().map(|peer| peer.mode)
    }

    /// Seconds for a prompt.
    pub(super) fn prefill(&mut self, tokens: &[u32]) -> Result<Seconds, CliError> {
        self.ask(&json!(["prefill", [tokens]]))
    }

    /// Computes a prompt for each sequence, in place of what was there.
    pub(super) fn fill(&mut self, prompts: &[Vec<u32>]) -> Result<(), CliError> {
        self.ask(&json!(["fill", [prompts]])).map(drop)
    }

    /// Seconds for these tokens in each of the first `sequences` sequences, from `position` on.
    pub(super) fn decode(
        &mut self,
        position: usize,
        sequences: usize,
        tokens: &[u32],
    ) -> Result<Seconds, CliError> {
        self.ask(&json!(["decode", [position, sequences, tokens]]))
    }

    /// Asks one after the other, so that none runs beside another.
    fn ask(&mut self, command: &Value) -> Result<Seconds, CliError> {
        let mut seconds = Seconds::new();
        let mut working = Vec::new();
        for mut peer in std::mem::take(&mut self.peers) {
            match peer.ask(command) {
                Ok(took) => {
                    seconds.push((peer.mode, took));
                    working.push(peer);
                }
                Err(failure) => self.lose(peer.mode, failure)?,
            }
        }
        self.peers = working;
        self.check()?;
        Ok(seconds)
    }

    fn lose(&mut self, mode: Mode, failure: Failure) -> Result<(), CliError> {
        match failure {
            Failure::Mode(what) => {
                self.lost.push(format!("llama.cpp ({}) {what}", mode.name));
                Ok(())
            }
            Failure::All(error) => Err(error),
        }
    }

    fn check(&self) -> Result<(), CliError> {
        if !self.peers.is_empty() {
            return Ok(());
        }
        Err(CliError::input_with(
            format!("llama.cpp works in none of its modes here: {}", self.lost.join("; ")),
            "what it says above may tell why; `--python PATH` names a Python with another build",
        ))
    }
}
