//! Licence expressions (SPDX 2.3, annex D): `AND` binds closer than `OR`, and parentheses closer than both.

/// Whether what is allowed satisfies an expression. One that can't be read is not satisfied.
pub(super) fn is_satisfied(expression: &str, allow: &[String]) -> bool {
    // Older manifests write `MIT/Apache-2.0`.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut parser = Parser { tokens: spaced.split_whitespace().collect(), at: 0, allow };
    parser.alternatives() == Some(true) && parser.at == parser.tokens.len()
}

struct Parser<'e> {
    tokens: Vec<&'e str>,
    at: usize,
    allow: &'e [String],
}

impl<'e> Parser<'e> {
    fn take(&mut self, token: &str) -> bool {
        let found = self.tokens.get(self.at) == Some(&token);
        self.at += usize::from(found);
        found
    }

    fn alternatives(&mut self) -> Option<bool> {
        let mut any = self.terms()?;
        while self.take("OR") {
            any |= self.terms()?;
        }
        Some(any)
    }

    fn terms(&mut self) -> Option<bool> {
        let mut all = self.term()?;
        while self.take("AND") {
            all &= self.term()?;
        }
        Some(all)
    }

    fn term(&mut self) -> Option<bool> {
        if self.take("(") {
            let inner = self.alternatives()?;
            return self.take(")").then_some(inner);
        }
        let name = self.word()?;
        let name = match self.take("WITH") {
            true => format!("{name} WITH {}", self.word()?),
            false => name.to_owned(),
        };
        Some(self.allow.contains(&name))
    }

    fn word(&mut self) -> Option<&'e str> {
        let word =
            self.tokens.get(self.at).filter(|word| !matches!(**word, "(" | ")" | "OR" | "AND" | "WITH"))?;
        self.at += 1;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read() {
        let allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"].map(str::to_owned);
        for fine in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
            "GPL-3.0-only AND GPL-2.0 OR MIT",
            "((MIT))",
        ] {
            assert!(is_satisfied(fine, &allow), "{fine}");
        }
        for bad in [
            "",
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "GPL-3.0-only AND (MIT OR Apache-2.0)",
            "(MIT OR Apache-2.0) AND GPL-3.0-only",
            "MIT WITH Odd-exception",
            "(MIT",
            "MIT)",
            "MIT Apache-2.0",
            "MIT OR",
        ] {
            assert!(!is_satisfied(bad, &allow), "{bad}");
        }
    }
}
