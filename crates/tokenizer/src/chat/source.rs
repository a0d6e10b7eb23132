//! What is read from a template's source before it is compiled.

/// Jinja2 knows one kind of line end.
pub(super) fn with_plain_line_ends(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, which only mark what an assistant wrote, by blocks that do
/// nothing, so that the blanks around them are treated alike.
pub(super) fn without_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            out.push_str(tag);
            return out;
        };
        let (tag, after) = tag.split_at(end + 2);
        let inner = tag.get(2..tag.len() - 2).unwrap_or_default();
        let open = if inner.starts_with(['-', '+']) { 1 } else { 0 };
        let close = if inner.len() > open && inner.ends_with(['-', '+']) { 1 } else { 0 };
        let word = inner.get(open..inner.len() - close).unwrap_or_default();
        let replacement = match word.trim() {
            "generation" => Some(" if true "),
            "endgeneration" => Some(" endif "),
            _ => None,
        };
        match replacement {
            Some(text) => {
                out.push_str("{%");
                out.push_str(inner.get(..open).unwrap_or_default());
                out.push_str(text);
                out.push_str(inner.get(inner.len() - close..).unwrap_or_default());
                out.push_str("%}");
                rest = after;
            }
            None => {
                // Only the opening is passed over: the tag may hold a string with anything in it.
                out.push_str("{%");
                rest = rest.get(at + 2..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

/// The string literals in a template's expressions and statements.
pub(super) fn string_literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    loop {
        let next = [("{{", "}}"), ("{%", "%}")]
            .iter()
            .filter_map(|(open, close)| rest.find(open).map(|at| (at, *close)))
            .min();
        let Some((at, close)) = next else { return found };
        // A comment in between may hold anything.
        if let Some(comment) = rest.find("{#").filter(|comment| *comment < at) {
            let end = rest.get(comment..).and_then(|t| t.find("#}")).map_or(rest.len(), |e| comment + e + 2);
            rest = rest.get(end..).unwrap_or_default();
            continue;
        }
        rest = literals_until(rest.get(at + 2..).unwrap_or_default(), close, &mut found);
    }
}

/// Collects literals up to `close` and gives what comes behind it.
fn literals_until<'s>(mut rest: &'s str, close: &str, found: &mut Vec<String>) -> &'s str {
    while let Some(c) = rest.chars().next() {
        if rest.starts_with(close) {
            return rest.get(close.len()..).unwrap_or_default();
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
        if c != '"' && c != '\'' {
            continue;
        }
        let mut literal = String::new();
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, inner)) = chars.next() {
            if inner == c {
                end = at + 1;
                break;
            }
            if inner != '\\' {
                literal.push(inner);
                continue;
            }
            match chars.next() {
                Some((_, 'n')) => literal.push('\n'),
                Some((_, 't')) => literal.push('\t'),
                Some((_, 'r')) => literal.push('\r'),
                Some((_, other)) => literal.push(other),
                None => break,
            }
        }
        found.push(literal);
        rest = rest.get(end..).unwrap_or_default();
    }
    rest
}

/// What bounds how deep a source's parse goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Words, literals and signs of the largest tag.
    pub(super) tag_tokens: usize,
    /// `elif` tags: each is a condition inside the one before.
    pub(super) branches: usize,
}

/// Measures a source without parsing it.
pub(super) fn extent(source: &str) -> Extent {
    let mut extent = Extent::default();
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        rest = rest.get(at + 1..).unwrap_or_default();
        let close = match rest.chars().next() {
            Some('{') => "}}",
            Some('%') => "%}",
            Some('#') => {
                let end = rest.find("#}").map_or(rest.len(), |end| end + 2);
                rest = rest.get(end..).unwrap_or_default();
                continue;
            }
            _ => continue,
        };
        let (tokens, first, after) = tag(rest.get(1..).unwrap_or_default(), close);
        extent.tag_tokens = extent.tag_tokens.max(tokens);
        extent.branches += usize::from(first == "elif");
        rest = if first == "raw" { after_raw(after) } else { after };
    }
    extent
}

/// What comes behind a raw block, in which nothing is a tag.
fn after_raw(source: &str) -> &str {
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        rest = rest.get(at + 2..).unwrap_or_default();
        if rest.trim_start_matches(['-', '+']).trim_start().starts_with("endraw") {
            return rest;
        }
    }
    ""
}

/// Counts the tokens of a tag up to `close`, and gives its first word and what comes behind it. As for the compiler,
/// a tag does not end while a bracket is open.
fn tag<'s>(inside: &'s str, close: &str) -> (usize, &'s str, &'s str) {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut tokens, mut open, mut first, mut rest) = (0, 0_isize, "", inside);
    while let Some(c) = rest.chars().next() {
        if open == 0 && rest.starts_with(close) {
            return (tokens, first, rest.get(close.len()..).unwrap_or_default());
        }
        let mut len = c.len_utf8();
        open += isize::from(matches!(c, '(' | '[' | '{')) - isize::from(matches!(c, ')' | ']' | '}'));
        if is_word(c) {
            len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            if first.is_empty() {
                first = rest.get(..len).unwrap_or_default();
            }
        } else if c == '"' || c == '\'' {
            let mut escaped = false;
            let end = rest.char_indices().skip(1).find(|&(_, inner)| {
                let ends = inner == c && !escaped;
                escaped = inner == '\\' && !escaped;
                ends
            });
            len = end.map_or(rest.len(), |(at, _)| at + 1);
        }
        tokens += usize::from(!c.is_whitespace());
        rest = rest.get(len..).unwrap_or_default();
    }
    (tokens, first, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_blocks_keep_their_blanks() {
        assert_eq!(
            without_generation_blocks("a{%- generation %}b{% endgeneration -%} c{% if '%}' %}{%generation%}"),
            "a{%- if true %}b{% endif -%} c{% if '%}' %}{% if true %}"
        );
    }

    #[test]
    fn the_largest_tag_is_found_whatever_stands_around_it() {
        let deep = "not ".repeat(40) + "x";
        for around in [
            "{{ DEEP }}",
            "{# {{ #}{{ DEEP }}",
            "{{ '}}' ~ DEEP }}",
            "{{ {'a': {}} ~ DEEP }}",
            "{{ '\\'{#' ~ DEEP }}",
            "{% raw %}{#{{ ({%- endraw %}{{ DEEP }}",
            "don't {% if DEEP %}{% endif %}",
            "{% set a = [(1), {'b': [DEEP %}",
            "{%- for a in DEEP -%}",
        ] {
            let source = around.replace("DEEP", &deep);
            let found = extent(&source).tag_tokens;
            assert!((41..60).contains(&found), "{source}: {found}");
        }
        assert_eq!(extent("{% if a %}{% elif b %}{%- elif c %}{% endif %}").branches, 2);
        assert_eq!(extent("no tags { here }"), Extent::default());
    }

    #[test]
    fn literals_are_found_in_tags_only() {
        assert_eq!(
            string_literals(r#"don't {# '{{ #} {% if '</think>' in x %}{{ "a\"}}\n" + 'b' }}it's"#),
            ["</think>", "a\"}}\n", "b"]
        );
    }
}
