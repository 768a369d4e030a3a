//! The byte-level alphabet: how byte-level BPE vocabularies spell bytes as printable characters
//! (GPT-2's `bytes_to_unicode`).
//!
//! Printable Latin-1 bytes stand for themselves; the 68 others are numbered upwards from U+0100.

/// Whether `byte` stands for itself.
fn is_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The byte that `spelled` stands for.
pub(super) fn byte_of(spelled: char) -> Option<u8> {
    match u8::try_from(spelled) {
        Ok(byte) => is_itself(byte).then_some(byte),
        Err(_) => {
            let number = (spelled as usize).checked_sub(0x100)?;
            (0..=255).filter(|&byte| !is_itself(byte)).nth(number)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_spelling() {
        let spelled: Vec<u8> = (0..=0x200u32)
            .filter_map(char::from_u32)
            .filter_map(byte_of)
            .collect();
        let mut sorted = spelled.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('世'), None);
    }
}
