//! Which experts are worth their room.
//!
//! Layers take turns, so the expert that was used longest ago is the one whose layer comes next: were it given up
//! first, a cache with less room than one token needs would never find anything in it. What tells experts apart is how
//! often a router chooses them. So the one used least goes, and of several the one whose layer is farthest away.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::ExpertId;

/// Passes through all layers after which uses count half: long enough to tell a frequent expert from one that happened
/// to be chosen, short enough to follow a change of subject.
const HALVED_AFTER: u32 = 128;

/// How often each expert was used, of late.
#[derive(Debug, Default)]
pub(super) struct Uses {
    counts: HashMap<ExpertId, u32>,
    layers: u32,
    /// The layer under way.
    layer: u32,
    /// Passes since uses were halved.
    passes: u32,
}

impl Uses {
    /// Makes an expert known.
    pub(super) fn insert(&mut self, id: ExpertId) {
        self.counts.insert(id, 0);
        self.layers = self.layers.max(id.layer + 1);
    }

    /// A layer's turn begins.
    pub(super) fn begin(&mut self, layer: u32) {
        if layer <= self.layer {
            self.passes += 1;
        }
        self.layer = layer;
        if self.passes == HALVED_AFTER {
            self.passes = 0;
            self.counts.values_mut().for_each(|count| *count /= 2);
        }
    }

    pub(super) fn note(&mut self, id: ExpertId) {
        if let Some(count) = self.counts.get_mut(&id) {
            *count = count.saturating_add(1);
        }
    }

    /// How often an expert was used.
    pub(super) fn count(&self, id: ExpertId) -> u32 {
        self.counts.get(&id).copied().unwrap_or(0)
    }

    /// The order in which experts are given up, least first.
    pub(super) fn worth(&self, id: ExpertId) -> (u32, Reverse<u32>, ExpertId) {
        let layers = self.layers.max(1);
        let until_its_turn = (id.layer + layers - self.layer % layers + layers - 1) % layers;
        (self.count(id), Reverse(until_its_turn), id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::sampling::rng::uniform;

    const LAYERS: u32 = 16;
    const EXPERTS: u32 = 64;
    const CHOSEN: usize = 8;

    /// The share of uses found in a cache of `room` experts over 400 passes, where expert e is chosen in proportion to
    /// (e + 1)^-skew, numbered differently in each layer.
    fn hit_share(room: usize, skew: f64) -> f64 {
        let mut uses = Uses::default();
        let ids = (0..LAYERS).flat_map(|layer| (0..EXPERTS).map(move |expert| ExpertId { layer, expert }));
        ids.for_each(|id| uses.insert(id));
        let mut held: HashSet<ExpertId> = HashSet::new();
        let (mut hits, mut all, mut draws) = (0, 0, 0);
        for _ in 0..400 {
            for layer in 0..LAYERS {
                uses.begin(layer);
                let mut chosen = HashSet::new();
                while chosen.len() < CHOSEN {
                    draws += 1;
                    // Rejection: a uniform expert, kept with its probability relative to the first one's.
                    let expert = (uniform(1, 0, draws) * f64::from(EXPERTS)) as u32;
                    if uniform(2, 0, draws) < f64::from(expert + 1).powf(-skew) {
                        chosen.insert(ExpertId { layer, expert: (expert + 7 * layer) % EXPERTS });
                    }
                }
                let mut chosen: Vec<_> = chosen.into_iter().collect();
                chosen.sort_by_key(|id| (!held.contains(id), *id));
                for id in &chosen {
                    uses.note(*id);
                }
                for id in chosen {
                    all += 1;
                    hits += u32::from(held.contains(&id));
                    if held.insert(id) && held.len() > room {
                        let victim =
                            held.iter().filter(|other| **other != id).min_by_key(|id| uses.worth(**id));
                        let victim = *victim.unwrap();
                        held.remove(&victim);
                    }
                }
            }
        }
        f64::from(hits) / f64::from(all)
    }

    #[test]
    fn a_cache_smaller_than_one_tokens_experts_is_of_use() {
        // A pass uses 128 of 1,024; the least recently used one of 100 would never be there.
        let share = hit_share(100, 0.0);
        assert!(share > 0.8 * 100.0 / 1024.0, "{share}");
        let share = hit_share(500, 0.0);
        assert!(share > 0.9 * 500.0 / 1024.0, "{share}");
    }

    #[test]
    fn experts_that_are_chosen_often_are_kept() {
        for room in [100, 300] {
            let (equal, skewed) = (hit_share(room, 0.0), hit_share(room, 0.7));
            assert!(skewed > 1.5 * equal, "{room}: {equal} {skewed}");
        }
    }

    #[test]
    fn the_farthest_layer_goes_first() {
        let mut uses = Uses::default();
        let ids = [0, 1, 2, 3].map(|layer| ExpertId { layer, expert: 0 });
        ids.iter().for_each(|id| uses.insert(*id));
        uses.begin(1);
        let mut order = ids;
        order.sort_by_key(|id| uses.worth(*id));
        assert_eq!(order.map(|id| id.layer), [1, 0, 3, 2]);
        uses.note(ids[1]);
        assert_eq!(ids.iter().min_by_key(|id| uses.worth(**id)), Some(&ids[0]));
    }
}
