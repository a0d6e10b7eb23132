//! Mutants of programs and templates, cut where words end.

use super::Random;

/// Words that a part may be repeated to.
const REPEATED_WORDS_MAX: usize = 2000;

/// Changes a text in one to four places. `donor` is another text of the same language, parts of which are transplanted;
/// `words` are what its language is made of.
#[must_use]
pub fn mutate_text(random: &mut Random, text: &str, donor: &str, words: &[&str]) -> String {
    let mut parts = split(text);
    let donor = split(donor);
    for _ in 0..=random.below(4) {
        let (start, end) = range(random, parts.len());
        match random.below(9) {
            0 => drop(parts.splice(start..end, [])),
            1 | 2 => drop(parts.splice(start..end.min(start + 1), [*random.pick(words)])),
            3 => parts.insert(start, *random.pick(words)),
            4 => {
                let (from, to) = range(random, donor.len());
                drop(parts.splice(start..start, donor[from..to].iter().copied()));
            }
            5 => {
                let part = parts[start..end].to_vec();
                let times = [1, 2, 50, 500][random.below(4)].min(REPEATED_WORDS_MAX / part.len().max(1));
                let copies = std::iter::repeat_n(part, times).flatten();
                drop(parts.splice(end..end, copies));
            }
            6 if parts.len() > 1 => {
                let (a, b) = (random.below(parts.len()), random.below(parts.len()));
                parts.swap(a, b);
            }
            7 if random.below(4) == 0 => parts.truncate(start),
            _ => {
                let odd = ["\u{0}", "\u{FEFF}", "\u{202e}", "é", "9999999999", "-1", "\\", "\"", "'", "\n"];
                parts.insert(start, *random.pick(&odd));
            }
        }
    }
    parts.concat()
}

/// Words, runs of blanks, and single other characters.
fn split(text: &str) -> Vec<&str> {
    let kind = |c: char| match c {
        c if c.is_alphanumeric() || c == '_' => 0,
        c if c.is_whitespace() => 1,
        _ => 2,
    };
    let mut parts = Vec::new();
    let mut start = 0;
    let mut before = None;
    for (at, c) in text.char_indices() {
        if before.is_some_and(|before| before != kind(c) || before == 2) {
            parts.push(&text[start..at]);
            start = at;
        }
        before = Some(kind(c));
    }
    if start < text.len() {
        parts.push(&text[start..]);
    }
    parts
}

/// Up to twelve words somewhere, or none.
fn range(random: &mut Random, len: usize) -> (usize, usize) {
    let start = random.below(len + 1);
    (start, (start + random.below(13)).min(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_its_words() {
        for text in ["", "a", "{{ a_b|c('é') }}\n\n x", "  ", "++"] {
            assert_eq!(split(text).concat(), text);
        }
        assert_eq!(split("{%if a1 %}"), ["{", "%", "if", " ", "a1", " ", "%", "}"]);
    }

    #[test]
    fn mutants_stay_small() {
        let text = "start: a b\na: \"x\" | /y*/\nb: a{2,3}\n";
        let mut random = Random::new(1);
        let mutants: std::collections::BTreeSet<String> =
            (0..1000).map(|_| mutate_text(&mut random, text, text, &["start", "|", "{1,9}"])).collect();
        assert!(mutants.len() > 700, "{}", mutants.len());
        assert!(mutants.iter().all(|mutant| mutant.len() < 64 << 10));
    }
}
