//! Thinking and answer of a table of streams, each cut at every character, in two pieces and one by one.

use levain_local::{PromptState, ReasoningSplitter, Section, ThinkTags};

const R1: &str = "{{'<｜Assistant｜><think>\\n'}}{% set content = content.split('</think>')[-1] %}";

fn think() -> ThinkTags {
    ThinkTags::detect(R1, |_| false).expect("R1's template shows the tags")
}

fn split(tags: Option<&ThinkTags>, prompt: PromptState, pieces: &[&str]) -> (String, String) {
    let mut splitter = ReasoningSplitter::new(tags.cloned(), prompt);
    let (mut out, mut stream) = (Vec::new(), String::new());
    for piece in pieces {
        splitter.push(piece, &mut out);
        stream.push_str(piece);
    }
    splitter.finish(&mut out);
    let (mut reasoning, mut answer, mut end) = (String::new(), String::new(), 0);
    for piece in out {
        let start = usize::try_from(piece.start).unwrap();
        assert!(start >= end && !piece.text.is_empty(), "pieces come in order: {piece:?}");
        assert_eq!(
            stream.get(start..start + piece.text.len()),
            Some(piece.text.as_str()),
            "offsets are true"
        );
        end = start + piece.text.len();
        match piece.section {
            Section::Reasoning => {
                assert!(answer.is_empty(), "thinking never follows the answer");
                reasoning.push_str(&piece.text);
            }
            Section::Answer => answer.push_str(&piece.text),
        }
    }
    (reasoning, answer)
}

fn check_all_cuts(tags: Option<&ThinkTags>, prompt: PromptState, stream: &str, expected: (&str, &str)) {
    let expected = (expected.0.to_owned(), expected.1.to_owned());
    for cut in (0..=stream.len()).filter(|&cut| stream.is_char_boundary(cut)) {
        let got = split(tags, prompt, &[&stream[..cut], &stream[cut..]]);
        assert_eq!(got, expected, "{stream:?} after {prompt:?}, cut at {cut}");
    }
    for width in [1, 2, 3, 7] {
        let chars: Vec<char> = stream.chars().collect();
        let pieces: Vec<String> = chars.chunks(width).map(|chunk| chunk.iter().collect()).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        assert_eq!(split(tags, prompt, &pieces), expected, "{stream:?} in pieces of {width}");
    }
}

#[test]
fn table() {
    use PromptState::{Before, Closed, Open};
    let table: &[(PromptState, &str, &str, &str)] = &[
        // The template has opened the tag: R1 and its distilled models.
        (Open, "Two and two.\n</think>\n\n4", "Two and two.", "4"),
        (Open, "Two and two.</think>4", "Two and two.", "4"),
        (Open, "\nTwo\n\nlines.\n\n</think>\n\n\n\n4", "Two\n\nlines.", "4"),
        (Open, "</think>\n\n4", "", "4"),
        (Open, "\n\n</think>\n\n4", "", "4"),
        (Open, "</think>", "", ""),
        (Open, "", "", ""),
        (Open, "a</think>", "a", ""),
        (Open, "a</think>\n\n", "a", ""),
        (Open, "a\n</think>\n \n\t\n    indented code", "a", "    indented code"),
        (Open, "a</think> one space", "a", " one space"),
        (Open, "a</think>\n\nb\n\n", "a", "b\n\n"),
        (Open, "a\n</think>\n\nb</think>c", "a", "b</think>c"),
        (Open, "a\n</think>\n\n<think>b</think>c", "a", "<think>b</think>c"),
        (
            Open,
            "a\n</think>\n\n```xml\n<think>\nx\n</think>\n```\n",
            "a",
            "```xml\n<think>\nx\n</think>\n```\n",
        ),
        (Open, "never closed", "never closed", ""),
        (Open, "never closed\n\n", "never closed\n\n", ""),
        (Open, "cut inside the tag</thi", "cut inside the tag</thi", ""),
        (Open, "cut\n</think", "cut\n</think", ""),
        (Open, "a < b </ c </thin k> d</think>e", "a < b </ c </thin k> d", "e"),
        (Open, "<<</think>e", "<<", "e"),
        (Open, "</</think>e", "</", "e"),
        (Open, "</think</think>e", "</think", "e"),
        (
            Open,
            "```python\nprint('<think>')\n```\n</think>\n\nDone",
            "```python\nprint('<think>')\n```",
            "Done",
        ),
        (Open, "é👩‍🔬\n</think>\n\n👩‍🔬é", "é👩‍🔬", "👩‍🔬é"),
        // The model repeats the tag that the template has opened.
        (Open, "<think>\nTwo.\n</think>\n\n4", "Two.", "4"),
        (Open, "\n<think>\n\nTwo.\n</think>4", "Two.", "4"),
        (Open, "<thin ice\n</think>4", "<thin ice", "4"),
        // The model opens the tag itself: Qwen3 and QwQ's older template.
        (Before, "<think>\nTwo.\n</think>\n\n4", "Two.", "4"),
        (Before, "<think>Two.</think>4", "Two.", "4"),
        (Before, "\n\n<think>\nTwo.\n</think>\n\n4", "Two.", "4"),
        (Before, "<think>\n\n</think>\n\n4", "", "4"),
        (Before, "<think>never closed", "never closed", ""),
        (Before, "<think>", "", ""),
        (Before, "<think>\n", "", ""),
        (Before, "<thi", "", "<thi"),
        (Before, "<thimble> is not a tag", "", "<thimble> is not a tag"),
        // No block leads: tags further on are text.
        (Before, "4", "", "4"),
        (Before, "  4\n", "", "  4\n"),
        (Before, "\n\n", "", "\n\n"),
        (Before, "The tag <think> opens, </think> closes.", "", "The tag <think> opens, </think> closes."),
        (Before, "```\n<think>\nx\n</think>\n```", "", "```\n<think>\nx\n</think>\n```"),
        (Before, "x</think>y", "", "x</think>y"),
        (Before, "< think>x</think>", "", "< think>x</think>"),
        // The template has closed an empty block: thinking was turned off.
        (Closed, "4", "", "4"),
        (Closed, "\n\n4\n", "", "4\n"),
        (Closed, "\n\n", "", ""),
        (Closed, "  \n  4", "", "  4"),
        // A closing tag that closes nothing: thinking was turned off, or the tag comes twice.
        (Closed, "</think>\n\n4", "", "4"),
        (Before, "\n</think>\n\n4", "", "4"),
        (Before, "</thi", "", "</thi"),
        (Before, "</think> x </think>", "", " x </think>"),
        (Open, "a</think>\n</think>\n\n4", "a", "4"),
        (Open, "a</think></thi", "a", "</thi"),
        (Open, "a</think>\n\n</think><think>4", "a", "<think>4"),
        (Closed, "<think>\nall the same\n</think>\n\n4", "all the same", "4"),
        // A tool call after thinking stays whole in the answer.
        (
            Open,
            "I need the weather.\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
            "I need the weather.",
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
        ),
        (
            Before,
            "<think>\nCall it.\n</think>\n\n<｜tool▁calls▁begin｜>",
            "Call it.",
            "<｜tool▁calls▁begin｜>",
        ),
        (
            Open,
            "Shall I write <tool_call>{}</tool_call>?\n</think>\nNo.",
            "Shall I write <tool_call>{}</tool_call>?",
            "No.",
        ),
        // A budget closes thinking in the middle of a word.
        (Open, "Wait, let me check ag\n</think>\n\n4", "Wait, let me check ag", "4"),
        (Before, "<think>\nWait, let me check ag\n</think>\n\n4", "Wait, let me check ag", "4"),
    ];
    assert!(table.len() >= 40);
    let tags = think();
    for &(prompt, stream, reasoning, answer) in table {
        check_all_cuts(Some(&tags), prompt, stream, (reasoning, answer));
    }
}

#[test]
fn long_runs_of_white_space_are_not_lost_and_do_not_depend_on_cuts() {
    let tags = think();
    let newlines = "\n".repeat(200);
    check_all_cuts(
        Some(&tags),
        PromptState::Open,
        &format!("a{newlines}</think>b"),
        (&format!("a{}", "\n".repeat(136)), "b"),
    );
    check_all_cuts(Some(&tags), PromptState::Open, &format!("a</think>{newlines}b"), ("a", "b"));
    let spaces = format!("{}<think>a</think>b", " ".repeat(65));
    check_all_cuts(Some(&tags), PromptState::Before, &spaces, ("", &spaces));
}

#[test]
fn without_tags_everything_is_answer() {
    check_all_cuts(None, PromptState::Before, "<think>\nx\n</think>\n\ny", ("", "<think>\nx\n</think>\n\ny"));
    check_all_cuts(None, PromptState::Open, "\nx", ("", "\nx"));
}

#[test]
fn tags_come_from_the_template_or_the_vocabulary() {
    let other = ThinkTags::detect("{{ '[THINK]' }}{{ '[/THINK]' }}", |_| false).unwrap();
    check_all_cuts(Some(&other), PromptState::Before, "[THINK]a[/THINK]b", ("a", "b"));
    assert_eq!(ThinkTags::detect("{{ messages }}", |token| token.contains("think>")), Some(think()));
    assert_eq!(ThinkTags::detect("{{ messages }}", |token| token == "<think>"), None);
    assert_eq!(ThinkTags::detect("{{ messages }}", |_| false), None);
}

#[test]
fn the_prompt_tells_where_the_model_begins() {
    let tags = think();
    for (prompt, state) in [
        ("<｜User｜>Hi<｜Assistant｜><think>\n", PromptState::Open),
        ("<｜User｜>Hi<｜Assistant｜><think>", PromptState::Open),
        ("<｜User｜>Hi<｜Assistant｜><think></think>", PromptState::Closed),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", PromptState::Closed),
        ("<|im_start|>assistant\n", PromptState::Before),
        ("What does <think> mean?<|im_end|>\n<|im_start|>assistant\n", PromptState::Before),
        ("", PromptState::Before),
    ] {
        assert_eq!(tags.prompt_state(prompt), state, "{prompt:?}");
    }
}

#[test]
fn the_state_tells_which_tokens_are_thinking() {
    let mut splitter = ReasoningSplitter::new(Some(think()), PromptState::Before);
    let mut out = Vec::new();
    assert!(!splitter.is_thinking() && !splitter.is_answering());
    splitter.push("<think>", &mut out);
    assert!(splitter.is_thinking());
    splitter.push("x", &mut out);
    assert!(splitter.is_thinking());
    splitter.push("</think>", &mut out);
    assert!(!splitter.is_thinking() && splitter.is_answering());
}
