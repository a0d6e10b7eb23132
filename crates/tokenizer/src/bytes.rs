//! GPT-2's printable spelling of bytes: each of the 256 bytes is written as one character.
//!
//! The printable bytes of Latin-1 stand for themselves; the other 68 take the characters from U+0100 on, in order.

fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character that spells `byte`.
pub(crate) fn byte_to_char(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !is_printable(*b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Turns the printable spelling back into bytes.
pub(crate) struct CharToByte(Box<[Option<u8>; 0x144]>);

impl CharToByte {
    pub(crate) fn new() -> Self {
        let mut table = Box::new([None; 0x144]);
        for byte in 0..=255u8 {
            if let Some(slot) = table.get_mut(byte_to_char(byte) as usize) {
                *slot = Some(byte);
            }
        }
        Self(table)
    }

    /// The bytes that `text` spells; `None` if it holds a character outside of the spelling.
    pub(crate) fn decode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|c| self.0.get(c as usize).copied().flatten()).collect()
    }
}

/// Reads `<0x0A>`: the way SentencePiece writes a byte that has a token of its own.
pub(crate) fn parse_byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character_and_comes_back() {
        let table = CharToByte::new();
        let spelled: String = (0..=255).map(byte_to_char).collect();
        assert_eq!(table.decode(&spelled), Some((0..=255).collect::<Vec<u8>>()));
        assert_eq!(byte_to_char(b' '), 'Ġ');
        assert_eq!(byte_to_char(b'\n'), 'Ċ');
        assert_eq!(table.decode("日"), None);
    }

    #[test]
    fn byte_tokens_are_two_hexadecimal_digits() {
        assert_eq!(parse_byte_token("<0x0A>"), Some(10));
        assert_eq!(parse_byte_token("<0xfF>"), Some(255));
        for wrong in ["<0x>", "<0x0>", "<0x0AA>", "<0x+1>", "0x0A", "<0x0A"] {
            assert_eq!(parse_byte_token(wrong), None, "{wrong}");
        }
    }
}
