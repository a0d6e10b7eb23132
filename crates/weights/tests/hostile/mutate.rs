//! Mutants of valid files, with an eye for their structure.

use crate::fields::{self, Field, Layout};
use crate::random::Random;

/// Changes a file in one to three places.
pub(crate) fn mutant(random: &mut Random, file: &[u8], layout: &Layout) -> Vec<u8> {
    let mut out = file.to_vec();
    // Integers from the back, so that a number of other length moves none that is still to be changed.
    let mut integers: Vec<Field> = Vec::new();
    for _ in 0..=random.below(3) {
        match random.below(10) {
            0..=5 => integers.push(*random.pick(&layout.integers)),
            6 => flip(random, &mut out, layout.header_end),
            7 => copy_entry(random, &mut out, layout),
            8 => swap_entries(random, &mut out, layout),
            _ => resize(random, &mut out, layout.header_end),
        }
    }
    integers.sort_by_key(|field| std::cmp::Reverse(field.offset));
    integers.dedup_by_key(|field| field.offset);
    for field in integers {
        let end = field.offset + field.width;
        let digits = out.get(field.offset..end).is_some_and(|b| b.iter().all(u8::is_ascii_digit));
        if end <= out.len() && (!field.decimal || (digits && out.len() >= 8)) {
            let value = interesting(random, &out, field, layout);
            fields::put(&mut out, field, value);
        }
    }
    out
}

fn interesting(random: &mut Random, file: &[u8], field: Field, layout: &Layout) -> u64 {
    let other = layout.integers[random.below(layout.integers.len())];
    match random.below(6) {
        0 => random.next(),
        1 => 1 << random.below(64),
        2 => (1u64 << random.below(64)).wrapping_sub(1),
        // Small numbers are types, counts and dimensions.
        3 => random.next() % 64,
        4 if other.offset + other.width <= file.len() && !other.decimal => fields::get(file, other),
        _ if !field.decimal || field.width < 19 => {
            let values = fields::boundary_values(file, field);
            if values.is_empty() { 7 } else { *random.pick(&values) }
        }
        _ => random.next(),
    }
}

fn flip(random: &mut Random, file: &mut [u8], header_end: usize) {
    for _ in 0..=random.below(4) {
        let at = random.below(header_end.min(file.len()));
        if let Some(byte) = file.get_mut(at) {
            *byte ^= 1 << random.below(8);
        }
    }
}

/// Writes one entry over the start of another, as duplicates and misaligned tables are made.
fn copy_entry(random: &mut Random, file: &mut [u8], layout: &Layout) {
    let (from, end) = *random.pick(&layout.entries);
    let (to, _) = *random.pick(&layout.entries);
    let len = (end - from).min(file.len().saturating_sub(to));
    if end <= file.len() && to <= file.len() {
        file.copy_within(from..from + len, to);
    }
}

fn swap_entries(random: &mut Random, file: &mut Vec<u8>, layout: &Layout) {
    let (a, b) = (*random.pick(&layout.entries), *random.pick(&layout.entries));
    let (first, second) = if a.0 <= b.0 { (a, b) } else { (b, a) };
    if first.1 <= second.0 && second.1 <= file.len() {
        let mut swapped = file[..first.0].to_vec();
        swapped.extend(&file[second.0..second.1]);
        swapped.extend(&file[first.1..second.0]);
        swapped.extend(&file[first.0..first.1]);
        swapped.extend(&file[second.1..]);
        *file = swapped;
    }
}

fn resize(random: &mut Random, file: &mut Vec<u8>, header_end: usize) {
    match random.below(3) {
        0 => file.truncate(random.below(header_end + 1)),
        1 => file.truncate(random.below(file.len() + 1)),
        _ => file.extend((0..random.below(100)).map(|i| i as u8)),
    }
}
