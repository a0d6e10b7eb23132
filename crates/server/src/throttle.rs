//! Slows down those who try keys: after a few wrong ones from an address, its requests wait their turn before their key
//! is looked at, unless they bring a key that was right before. So an address can't be locked out by others behind it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Wrong keys that cost nothing: people mistype.
const FREE: u32 = 10;
/// Without a wrong key for so long, an address is as good as new.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// Requests of an address that wait at the same time.
const AT_ONCE: usize = 16;
/// Addresses that are remembered; the one that has been quiet longest is forgotten first.
const SOURCES_MAX: usize = 4096;
/// Right keys that are remembered of an address.
const KNOWN_MAX: usize = 16;

/// A digest of a key.
pub(crate) type Digest = [u8; 32];

/// Who has tried which keys.
#[derive(Debug)]
pub(crate) struct Throttle {
    pause: Duration,
    sources: Mutex<HashMap<IpAddr, Source>>,
}

#[derive(Debug)]
struct Source {
    wrong: u32,
    last: Instant,
    known: Vec<Digest>,
    turns: Arc<Semaphore>,
}

impl Throttle {
    pub(crate) fn new(pause: Duration) -> Self {
        Self { pause, sources: Mutex::default() }
    }

    /// Waits, if an address has to, before a key is looked at.
    pub(crate) async fn wait(&self, peer: IpAddr, key: Option<&Digest>) {
        let turns = {
            let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(source) = sources.get(&network(peer)) else { return };
            let suspected = source.wrong >= FREE && source.last.elapsed() < FORGIVEN_AFTER;
            if !suspected || key.is_some_and(|key| source.known.contains(key)) {
                return;
            }
            Arc::clone(&source.turns)
        };
        let turn = turns.acquire().await;
        tokio::time::sleep(self.pause).await;
        drop(turn);
    }

    /// Notes what came of a key.
    pub(crate) fn note(&self, peer: IpAddr, key: &Digest, right: bool) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = network(peer);
        if !sources.contains_key(&peer)
            && sources.len() >= SOURCES_MAX
            && let Some(quiet) = sources.iter().min_by_key(|(_, source)| source.last).map(|(&peer, _)| peer)
        {
            sources.remove(&quiet);
        }
        let now = Instant::now();
        let source = sources.entry(peer).or_insert_with(|| Source {
            wrong: 0,
            last: now,
            known: Vec::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        });
        if source.last.elapsed() >= FORGIVEN_AFTER {
            source.wrong = 0;
        }
        if !right {
            source.wrong = source.wrong.saturating_add(1);
            source.last = now;
        } else if !source.known.contains(key) {
            source.known.truncate(KNOWN_MAX - 1);
            source.known.insert(0, *key);
        }
    }
}

/// What one customer of a provider has: an address, or a network of version 6.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX))),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test(start_paused = true)]
    async fn who_tries_keys_waits_and_nobody_else() {
        let throttle = Throttle::new(Duration::from_secs(1));
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        throttle.note(a, &[7; 32], true);
        for n in 0..FREE {
            assert!(throttle.wait(a, Some(&[n as u8; 32])).now_or_never().is_some());
            throttle.note(a, &[n as u8; 32], false);
        }
        let began = tokio::time::Instant::now();
        assert!(throttle.wait(a, Some(&[9; 32])).now_or_never().is_none());
        let all = futures::future::join_all((0..3 * AT_ONCE).map(|_| throttle.wait(a, None)));
        all.await;
        assert_eq!(began.elapsed().as_secs(), 3);
        // Neither the right key from there, nor another address.
        assert!(throttle.wait(a, Some(&[7; 32])).now_or_never().is_some());
        assert!(throttle.wait(b, Some(&[9; 32])).now_or_never().is_some());
    }

    #[test]
    fn a_network_counts_as_one_and_memory_is_bounded() {
        let throttle = Throttle::new(Duration::ZERO);
        for i in 0..10_000u128 {
            throttle.note(IpAddr::V6(Ipv6Addr::from(0x2001_0db8 << 96 | i)), &[0; 32], false);
        }
        assert_eq!(throttle.sources.lock().unwrap().len(), 1);
        for i in 0..10_000u32 {
            throttle.note(IpAddr::V4(i.into()), &[0; 32], false);
        }
        assert_eq!(throttle.sources.lock().unwrap().len(), SOURCES_MAX);
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), IpAddr::V4([192, 0, 2, 1].into()));
    }
}
