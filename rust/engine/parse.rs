// SPDX-License-Identifier: GPL-2.0

//! The text that is written to the knobs.
//!
//! As `kstrtoul()` with base 10 and mainline KSM's error rule: one number or word, optionally
//! followed by one newline; anything else is refused as a whole.

/// Parses a decimal number no larger than `max`.
///
/// Returns `None` for an empty string, a sign, a letter, anything before or after the digits but
/// one newline, and for a number above `max`.
pub fn decimal(text: &[u8], max: u64) -> Option<u64> {
    let digits = without_newline(text);
    if digits.is_empty() {
        return None;
    }
    digits
        .iter()
        .try_fold(0u64, |number, &digit| {
            if !digit.is_ascii_digit() {
                return None;
            }
            number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        })
        .filter(|&number| number <= max)
}

/// Finds the word that `text` is among `words` and returns its position.
pub fn word(text: &[u8], words: &[&str]) -> Option<usize> {
    let text = without_newline(text);
    words.iter().position(|word| word.as_bytes() == text)
}

/// Strips the newline that `echo` adds.
fn without_newline(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}
